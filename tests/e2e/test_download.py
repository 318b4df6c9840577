"""`DownloadLicense=True` against an endpoint on a real socket: success, and each failure with its cause and code."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.site import BINARIES, Site, command, free_port
from tests.fakes.billing import FakeBilling

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def billing() -> Iterator[FakeBilling]:
    fake = FakeBilling()
    yield fake
    fake.close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.remove()


def download(site: Site, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return command(
        "sidecar",
        "eula=accept",
        f"billing={url}",
        f"apikey={KEY}",
        "DownloadLicense=True",
        f"Mounts:License={site.folder / 'license'}",
        f"Sidecar:TrustRoot={site.trust_root}",
        f"Sidecar:StateDirectory={site.folder / 'state'}",
        *words,
    )


def require_failed(done: subprocess.CompletedProcess[str], code: int, *texts: str) -> None:
    assert done.returncode == code, done.stderr
    for text in texts:
        assert text in done.stderr
    assert "Next step:" in done.stderr
    assert "Traceback" not in done.stderr
    assert KEY not in done.stderr + done.stdout


def test_download_writes_the_file_and_says_what_it_is(site: Site, billing: FakeBilling) -> None:
    blob = site.license_file.read_bytes()
    site.license_file.unlink()
    billing.answer = (200, blob, {})
    done = download(site, billing.url)
    assert done.returncode == 0, done.stderr
    assert "EVALUATION licence" in done.stdout
    assert "for Test" in done.stdout
    assert " until " in done.stdout
    assert site.license_file.read_bytes() == blob
    assert stat.S_IMODE(site.license_file.stat().st_mode) == 0o640
    ((path, headers, body),) = billing.requests
    assert path == "/tollgate/v1/license"
    assert headers["Ocp-Apim-Subscription-Key"] == KEY
    assert body == {"containerType": "computervisionread", "devicePublicKey": None}
    site.start()
    assert site.ready() == 200


def test_folder_missing(site: Site, billing: FakeBilling) -> None:
    site.license_file.unlink()
    site.license_file.parent.rmdir()
    require_failed(download(site, billing.url), 65, str(site.license_file.parent), "Mounts:License")
    assert billing.requests == []


def test_a_named_folder_that_is_missing_is_told_and_billing_does_not_take_its_place(site: Site) -> None:
    done = command(
        "sidecar", "eula=accept", "billing=http://billing.example/", f"apikey={KEY}", f"Mounts:License={site.folder}/no"
    )
    require_failed(done, 65, f"{site.folder}/no does not exist", "metering stays local", "are not used", "licence")
    assert "DownloadLicense=True" in done.stderr.partition("Next step:")[2]
    assert "leave Mounts:License out" in done.stderr.partition("Next step:")[2]


def test_folder_not_writable(site: Site, billing: FakeBilling) -> None:
    """As another user, where we are root; else by taking our own right away."""
    site.license_file.unlink()
    folder = site.license_file.parent
    if os.geteuid() != 0:
        folder.chmod(0o555)
        done = download(site, billing.url)
        folder.chmod(0o755)
        require_failed(done, 77, str(folder), f"chown -R {os.geteuid()}:{os.getegid()}")
    else:
        code = (
            "import os,sys; from pathlib import Path\n"
            "from sidecar.license_download import _require_writable\n"
            "from sidecar.errors import LicenseDownloadError\n"
            "folder=Path(sys.argv[1]); os.chdir('/'); os.setegid(65532); os.seteuid(65532)\n"
            "try: _require_writable(folder)\n"
            "except LicenseDownloadError as exc: print(exc, exc.next_step, exc.exit_code)\n"
        )
        # os.access asks for the real user, so the real user must be another one too.
        code = code.replace("os.setegid(65532); os.seteuid(65532)", "os.setgid(65532); os.setuid(65532)")
        site.folder.chmod(0o755)
        done = subprocess.run(
            [BINARIES / "python", "-c", code, folder], capture_output=True, text=True, check=False, timeout=30
        )
        assert f"chown -R 65532:65532 {folder}" in done.stdout, done.stderr
        assert done.stdout.strip().endswith("77")


def test_endpoint_unreachable(site: Site) -> None:
    before = site.license_file.read_bytes()
    require_failed(download(site, f"http://127.0.0.1:{free_port()}"), 69, "cannot be reached")
    assert site.license_file.read_bytes() == before


@pytest.mark.parametrize(
    ("status", "word", "code"),
    [
        (401, "Invalid", 78),
        (403, "ContainerUseUnauthorized", 78),
        (402, "OutOfQuota", 78),
        (429, "BillingEndpointBusy", 69),
    ],
)
def test_endpoint_refuses(site: Site, billing: FakeBilling, status: int, word: str, code: int) -> None:
    billing.answer = (status, b"", {})
    require_failed(download(site, billing.url), code, f"'{word}'")
    billing.answer = (status, json.dumps({"status": word, "message": "because of Tuesday"}).encode(), {})
    require_failed(download(site, billing.url), code, f"'{word}'", "because of Tuesday")


def test_redirect_does_not_carry_the_key_away(site: Site, billing: FakeBilling) -> None:
    elsewhere = FakeBilling()
    try:
        billing.answer = (307, b"", {"Location": elsewhere.url})
        require_failed(download(site, billing.url), 69, "HTTP 307")
        assert elsewhere.requests == []
    finally:
        elsewhere.close()


@pytest.mark.parametrize("blob", [b"", b"<html>hello</html>", b"x" * 300_000], ids=["empty", "page", "huge"])
def test_nonsense_is_not_written(site: Site, billing: FakeBilling, blob: bytes) -> None:
    before = site.license_file.read_bytes()
    billing.answer = (200, blob, {})
    done = download(site, billing.url)
    assert done.returncode in {69, 78}
    assert "Traceback" not in done.stderr
    assert site.license_file.read_bytes() == before


def test_licence_for_another_container(site: Site, billing: FakeBilling) -> None:
    before = site.license_file.read_bytes()
    other = site.issue("--days", "30", "--container-type", "speechtotext", name="other.dat")
    billing.answer = (200, other.read_bytes(), {})
    require_failed(download(site, billing.url), 78, "speechtotext")
    assert site.license_file.read_bytes() == before


def test_licence_of_a_stranger(site: Site, billing: FakeBilling, tmp_path: Path) -> None:
    stranger = Site()
    try:
        billing.answer = (200, stranger.license_file.read_bytes(), {})
    finally:
        stranger.remove()
    require_failed(download(site, billing.url), 78, "trust root")


def test_key_or_address_missing(site: Site) -> None:
    done = command("sidecar", "eula=accept", "DownloadLicense=True", f"Mounts:License={site.folder / 'license'}")
    require_failed(done, 65, "Billing and ApiKey")
