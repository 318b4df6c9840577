"""`DownloadLicense=True`: fetch the licence file, verify it, put it into the licence folder (contract A.2, B.2).

Invariant: nothing is written that was not verified, and what is written appears whole; a good file that lies there is
replaced by a good one only.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from licenses.durable import write_file
from licenses.errors import LicensesError
from licenses.keyring import TrustRoot
from licenses.model import CONTAINER_TYPE, License
from licenses.verify import Standing, judge, open_license
from sidecar.billing_client import BillingClient
from sidecar.errors import LicenseDownloadError

FILE_NAME = "license.dat"
FILE_MODE = 0o640


def download_license(
    client: BillingClient, directory: Path, trust_root: TrustRoot, *, at: datetime, device_public: bytes | None
) -> tuple[License, Path]:
    """Fetch, verify and write the licence file.

    Args:
        client: The billing endpoint.
        directory: `Mounts:License`.
        trust_root: Whom to believe.
        at: The effective time, aware UTC.
        device_public: The 32 public bytes of this device's key, if there is one.

    Returns:
        The licence and where it lies.

    Raises:
        LicenseDownloadError: The folder is missing or cannot be written, or the file is not for us.
        BillingError: The endpoint cannot be reached, or refuses.
    """
    _require_writable(directory)
    blob = client.fetch_license(CONTAINER_TYPE, device_public)
    try:
        lic = open_license(blob, trust_root)
    except LicensesError as exc:
        raise LicenseDownloadError(
            f"what the endpoint sent is no licence that this trust root knows: {exc}", next_step=exc.next_step
        ) from exc
    judgement = judge(lic, at=at, device_public=device_public)
    if judgement.standing in {Standing.MISMATCH, Standing.EXPIRED, Standing.DEVICE_MISMATCH}:
        raise LicenseDownloadError(judgement.reason, next_step=judgement.next_step)
    path = directory / FILE_NAME
    try:
        write_file(path, [blob], mode=FILE_MODE, overwrite=True)
    except OSError as exc:
        raise _not_writable(directory, exc.strerror or str(exc)) from exc
    return lic, path


def _require_writable(directory: Path) -> None:
    """Before the network is bothered: a licence that cannot be kept need not be fetched."""
    if not directory.is_dir():
        raise LicenseDownloadError(
            f"the licence folder {directory} does not exist",
            next_step="mount a volume and make sure the directory named by Mounts:License exists",
            exit_code=65,
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise _not_writable(directory, "Permission denied")
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise _not_writable(directory, "Read-only file system")


def _not_writable(directory: Path, why: str) -> LicenseDownloadError:
    uid, gid = os.geteuid(), os.getegid()
    return LicenseDownloadError(
        f"the licence folder {directory} cannot be written by {uid}:{gid}: {why}",
        next_step=f"run 'chown -R {uid}:{gid} {directory}' on the host, and mount it read-write for this step",
        exit_code=77,
    )
