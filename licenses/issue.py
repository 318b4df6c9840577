"""The vendor's side: make keys and a trust root, and issue licences. Never imported by an appliance.

Invariants:

* What is issued here opens under the trust root that it was issued with: it is opened again before it is handed out.
* An evaluation key marks what it signs, whatever the terms say.
* Private keys are written once, 0600, and no name is ever overwritten.
"""

import dataclasses
import hashlib
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from licenses import durable, envelope
from licenses.errors import IssueError, KeyFileError, LicensesError
from licenses.keyring import TrustRoot, load_trust_root
from licenses.keys import SigningKey, load_signing_key, read_small_file
from licenses.model import License, LicenseId
from licenses.strict_json import MAX_BYTES
from licenses.verify import open_license

TRUST_ROOT_NAME = "trust-root.json"
EVALUATION_VENDOR = "evaluation.tollgate.example"
TRUST_ROOT_YEARS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """A vendor with all its private keys, as only the vendor has them.

    Attributes:
        trust_root: What customers get.
        trust_root_blob: The same, signed.
        root_key: Signs trust roots.
        issuing_key: Signs licences.
        ack_key: Signs acknowledgements of usage.
    """

    trust_root: TrustRoot
    trust_root_blob: bytes
    root_key: SigningKey
    issuing_key: SigningKey
    ack_key: SigningKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """What is needed to issue licences: the trust root and one of its issuing keys."""

    trust_root: TrustRoot
    issuing_key: SigningKey


def generate_vendor(*, domain: str, evaluation: bool, at: datetime, years: int = TRUST_ROOT_YEARS) -> Vendor:
    """Make new keys and the trust root over them.

    Args:
        domain: The vendor's domain, lower case; the first part of every record origin.
        evaluation: Whether keys, and all that they sign, are for evaluation.
        at: The instant of issue, aware UTC.
        years: How long licences may be issued under it.

    Raises:
        FormatError: The domain is not one.
    """
    root_key, issuing_key, ack_key = (
        SigningKey.generate(role, evaluation=evaluation) for role in ("root", "issuing", "ack")
    )
    begins = at.astimezone(UTC).replace(microsecond=0)
    trust_root = TrustRoot(
        version=1,
        vendor=domain,
        evaluation=evaluation,
        threshold=1,
        root_keys={root_key.key_id: root_key.verifying},
        issuing_keys={issuing_key.key_id: issuing_key.verifying},
        ack_keys={ack_key.key_id: ack_key.verifying},
        issued_at=begins,
        expires_at=begins + timedelta(days=365 * years),
    )
    return Vendor(
        trust_root=trust_root,
        trust_root_blob=trust_root.seal([root_key]),
        root_key=root_key,
        issuing_key=issuing_key,
        ack_key=ack_key,
    )


def save_vendor(vendor: Vendor, folder: Path, *, force: bool = False) -> list[Path]:
    """Write the keys (0600, named by their ids) and the trust root (0644) of a vendor.

    Args:
        vendor: What to write.
        folder: Made with mode 0700 if it is not there.
        force: Replace a trust root that is there. The old one is kept under a name of its own, as are its keys.

    Returns:
        The files written, the trust root first.

    Raises:
        IssueError: There is a trust root already, and `force` is false.
        KeyFileError: The folder cannot be written.
    """
    root_path = folder / TRUST_ROOT_NAME
    keys = {folder / f"{key.key_id}.key": key for key in (vendor.root_key, vendor.issuing_key, vendor.ack_key)}
    try:
        durable.make_folders(folder, mode=0o700)
        if root_path.exists():
            if not force:
                raise IssueError(
                    f"{root_path} exists: new keys would make every licence issued so far worthless for new customers",
                    next_step="Choose another folder, or give --force; the old trust root is then kept beside it.",
                )
            old = root_path.read_bytes()
            durable.write_file(
                folder / f"trust-root-{hashlib.sha256(old).hexdigest()[:12]}.json", [old], mode=0o644, overwrite=True
            )
        for path, key in keys.items():
            durable.write_file(path, [key.to_pem()], mode=0o600, overwrite=False)
        durable.write_file(root_path, [vendor.trust_root_blob, b"\n"], mode=0o644, overwrite=force)
    except OSError as exc:
        raise KeyFileError.from_os_error(exc, folder, doing="write the vendor's keys", mode="0700") from exc
    return [root_path, *keys]


def load_issuer(folder: Path) -> Issuer:
    """Read the trust root and one of its issuing keys from a folder that `save_vendor` wrote.

    Raises:
        LicensesError: A file is missing, damaged or open to others, or no issuing key of the trust root is there.
    """
    trust_root = load_trust_root(folder / TRUST_ROOT_NAME)
    for key_id, public in trust_root.issuing_keys.items():
        path = folder / f"{key_id}.key"
        if path.exists():
            key = load_signing_key(path, "issuing")
            if key.verifying == public:
                return Issuer(trust_root=trust_root, issuing_key=key)
            raise IssueError(f"the key in {path} is not {key_id}", next_step="Restore the key file from the backup.")
    raise IssueError(
        f"no issuing key of the trust root is in {folder}; looked for "
        + ", ".join(f"{key_id}.key" for key_id in trust_root.issuing_keys),
        next_step="Give --keys the folder that 'licenses keygen' wrote.",
    )


def seal_license(lic: License, issuer: Issuer) -> bytes:
    """Sign a licence, and open it again as an appliance would.

    Args:
        lic: The terms; `key_id` and the evaluation mark are set from the key.
        issuer: Whose licence it is.

    Returns:
        The licence file.

    Raises:
        IssueError: An appliance with this trust root would not open it.
    """
    key = issuer.issuing_key
    marked = issuer.trust_root.evaluation or key.verifying.evaluation
    lic = dataclasses.replace(lic, key_id=key.key_id, evaluation=lic.evaluation or marked)
    blob = envelope.seal(lic.to_payload(), envelope.LICENSE_TYPE, [key])
    try:
        opened = open_license(blob, issuer.trust_root)
    except LicensesError as exc:
        raise IssueError(f"the licence would not open: {exc}", next_step=exc.next_step) from exc
    if opened != lic:
        raise IssueError("the licence would not say after issue what it says now")
    return blob


def read_license_file(path: Path) -> bytes:
    """Read one licence file.

    Raises:
        KeyFileError: It cannot be read.
        FormatError: It is too long.
    """
    return read_small_file(path, doing="read the licence", mode="0644", max_bytes=MAX_BYTES)


def write_license_file(path: Path, blob: bytes, *, force: bool = False) -> str:
    """Write one licence file, whole or not at all, and return its SHA-256.

    Raises:
        KeyFileError: It cannot be written, or is there already and `force` is false.
    """
    try:
        return durable.write_file(path, [blob], mode=0o644, overwrite=force)
    except OSError as exc:
        blamed = path if isinstance(exc, FileExistsError) else path.parent
        raise KeyFileError.from_os_error(exc, blamed, doing=f"write {path.name}", mode="u+rwx") from exc


def new_license_id() -> LicenseId:
    """A random id, for the first licence of a customer; renewals keep it."""
    return LicenseId(str(uuid.uuid4()))


def end_of_day(day: date) -> datetime:
    """The instant at which a term that names this as its last day ends: 23:59:59 UTC."""
    return datetime.combine(day, time(23, 59, 59), UTC)


def start_of_day(day: date) -> datetime:
    """The first instant of a day, UTC."""
    return datetime.combine(day, time(0, 0), UTC)
