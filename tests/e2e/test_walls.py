"""Two walls: the web's gate, and the core that trusts nobody. Nothing here restarts a process."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from licenses.device_key import DeviceKey
from tests.e2e.site import Site, a_site, wait_until
from tests.pages import LINES, as_png, as_tiff, printed_page

PAGE = as_png(printed_page(LINES[:2], size=(900, 300)))


@pytest.fixture(scope="module")
def own() -> Iterator[Site]:
    with a_site() as site:
        yield site


@pytest.fixture
def licensed(own: Site) -> Iterator[Site]:
    """A serving site; whatever the test did to its licence folder is undone."""
    own.wait_ready(5)
    kept = own.license_file.read_bytes()
    yield own
    for path in own.license_file.parent.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    own.license_file.write_bytes(kept)
    own.wait_ready(5)


def require_refused(site: Site, word: str, state: str) -> None:
    answer = site.post(PAGE)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "NoCredit"
    message = answer.json()["error"]["message"]
    assert message.startswith(
        f"Container is not in a valid state. Subscription validation failed with status '{word}'. {state}"
    )
    assert "Retry-After" not in answer.headers
    assert site.ready() == 503
    status = site.get("/status")
    assert status.status_code == 200
    assert status.json()["apiStatus"] == word
    assert status.json()["state"] == state
    assert status.json()["reason"]
    assert status.json()["nextStep"]


def take_away(site: Site) -> None:
    """Remove the licence and wait until web and meter noticed: a file exchanged before that disturbs nothing."""
    site.license_file.unlink()
    lease = site.folder / "state" / "lease.dsse.json"
    wait_until(lambda: site.status()["state"] == "UNLICENSED" and not lease.exists(), 5, "still licensed")


def test_licence_taken_away_and_put_back(licensed: Site) -> None:
    location = licensed.submit(PAGE)
    licensed.result(location)
    before = licensed.pages()
    kept = licensed.license_file.read_bytes()
    for _ in range(2):
        licensed.license_file.unlink()
        wait_until(lambda: licensed.ready() == 503, 5, "still served without a licence")
        require_refused(licensed, "Invalid", "UNLICENSED")
        assert licensed.result(location)["status"] == "succeeded", "what was paid for can be fetched in every state"
        home = licensed.get("/")
        assert home.status_code == 200
        assert "No licence in force" in home.text
        assert [text for text in ("under this licence", "Send a document", "curl") if text in home.text] == []
        assert licensed.pages() == before
        licensed.license_file.write_bytes(kept)
        licensed.wait_ready(5)
        assert licensed.sync(PAGE).status_code == 200
        before += 1
        assert licensed.pages() == before


def test_expired_licence(licensed: Site) -> None:
    take_away(licensed)
    licensed.issue("--not-before", "2020-01-01", "--expires", "2020-12-31")
    wait_until(lambda: licensed.status()["license"], 2, "the expired licence was not seen")
    require_refused(licensed, "Invalid", "TERMINATED")
    assert "2020-12-31" in licensed.status()["reason"]


def test_licence_for_another_container(licensed: Site) -> None:
    take_away(licensed)
    licensed.issue("--days", "30", "--container-type", "speechtotext")
    wait_until(lambda: licensed.status()["license"], 2, "the licence for another container was not seen")
    require_refused(licensed, "Mismatch", "MISMATCH")


def other_device(site: Site) -> Path:
    key = site.folder / "other.pub"
    if not key.exists():
        (site.folder / "other").mkdir()
        DeviceKey.load_or_create(site.folder / "other")
        key.write_bytes((site.folder / "other" / "device.pub").read_bytes())
    return key


def other_host(site: Site) -> Path:
    factors = site.folder / "factors.json"
    factors.unlink(missing_ok=True)
    site.licenses("factors", "--host-id", "another-ward", "--factor", "operator_id", "--out", factors)
    return factors


@pytest.mark.parametrize(
    ("options", "word", "state"),
    [
        (("--not-before", "2040-01-01", "--expires", "2041-01-01"), "Invalid", "NOT_YET_VALID"),
        (("--days", "30", "--min-version", "99.0"), "Invalid", "UNLICENSED"),
        (("--days", "30", "--device-key", other_device), "Mismatch", "HOST_MISMATCH"),
        (("--days", "30", "--bind", other_host), "Mismatch", "HOST_MISMATCH"),
    ],
    ids=["not-yet", "version", "device", "host"],
)
def test_licences_that_do_not_fit(licensed: Site, options: tuple[object, ...], word: str, state: str) -> None:
    words = [str(option(licensed)) if callable(option) else str(option) for option in options]
    take_away(licensed)
    licensed.issue(*words)
    wait_until(lambda: licensed.status()["license"], 3, "the licence was not seen")
    require_refused(licensed, word, state)


def test_grace_serves_and_warns(licensed: Site) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    take_away(licensed)
    licensed.issue("--not-before", "2020-01-01", "--expires", f"{yesterday:%Y-%m-%d}", "--grace-days", "30")
    licensed.wait_ready(5)
    assert licensed.status()["state"] == "GRACE"
    assert licensed.status()["warnings"]
    home = licensed.get("/").text
    assert re.search(r">(28|29) <small>days of grace left<", home)
    assert home.count("grace ends") == 2, "besides the next step, it is told once"
    assert licensed.sync(PAGE).status_code == 200


def test_hard_limit_refuses_and_more_pages_resume() -> None:
    with a_site("Sidecar:HostId=ward-7", issue=("--days", "30", "--pages-soft", "1", "--pages-hard", "3")) as site:
        small = printed_page(size=(600, 200))
        too_much = site.sync(as_tiff([small] * 4))
        assert (too_much.status_code, too_much.json()["error"]["code"]) == (403, "NoCredit")
        assert "4 pages are asked for, and 3 of 3 are left" in too_much.json()["error"]["message"]
        with ThreadPoolExecutor(12) as pool:
            codes = list(pool.map(lambda _: site.sync(as_png(small)).status_code, range(12)))
        assert sorted(codes) == [200] * 3 + [403] * 9
        wait_until(lambda: site.ready() == 503, 2, "served beyond the limit")
        require_refused(site, "OutOfQuota", "OUT_OF_QUOTA")
        assert site.pages() == 3
        factors = site.folder / "factors.json"
        site.licenses("factors", "--host-id", "ward-7", "--factor", "operator_id", "--out", factors)
        site.issue("--days", "60", "--pages-hard", "100", "--bind", str(factors), name="more.dat")
        site.wait_ready(5)
        assert site.sync(PAGE).status_code == 200
        assert site.pages() == 4


def test_licence_of_a_stranger(licensed: Site, tmp_path: Path) -> None:
    stranger = Site()
    try:
        blob = stranger.license_file.read_bytes()
    finally:
        stranger.remove()
    take_away(licensed)
    licensed.license_file.write_bytes(blob)
    wait_until(lambda: licensed.status()["licenseFiles"], 2, "the stranger's licence was not seen")
    require_refused(licensed, "Invalid", "UNLICENSED")


@pytest.mark.parametrize("harm", ["truncate", "garbage", "directory", "half"])
def test_a_bad_file_in_place_of_a_good_one_disturbs_nothing(licensed: Site, harm: str) -> None:
    """The licence in force stays in force as long as it is good itself, in web and core alike."""
    wait_until(lambda: licensed.sync(PAGE).status_code == 200, 5, "the licence is not in force in the core")
    file = licensed.license_file
    kept = file.read_bytes()
    if harm == "truncate":
        os.truncate(file, len(kept) // 2)
    elif harm == "garbage":
        file.write_bytes(b"\0" * 1000)
    elif harm == "directory":
        file.unlink()
        file.mkdir()
    else:
        with file.open("wb") as out:
            for at in range(0, len(kept), 100):
                out.write(kept[at : at + 100])
                out.flush()
                time.sleep(0.05)
                assert licensed.ready() == 200
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        answer = licensed.sync(PAGE)
        assert answer.status_code == 200, answer.text


def test_best_of_many_files_wins_and_losers_are_explained(licensed: Site) -> None:
    (licensed.license_file.parent / "notes.txt").write_text("renew in spring")
    licensed.issue("--days", "400", name="longer.dat")
    wait_until(lambda: licensed.status()["license"]["daysLeft"] >= 399, 2, "the longer licence is not in force")
    wait_until(lambda: licensed.sync(PAGE).status_code == 200, 5, "not served under the new licence")
    files = {file["file"]: file for file in licensed.status()["licenseFiles"]}
    assert files["longer.dat"]["standing"] == "valid"
    assert files["notes.txt"]["standing"] == "license_format"
    assert files["notes.txt"]["reason"]


def test_hot_swap_fails_no_request(licensed: Site) -> None:
    """Each swap needs a new lease for the core; whoever asks meanwhile waits a moment and is served."""
    for days in range(100, 106):
        licensed.issue("--days", str(days))
        for _ in range(3):
            answer = licensed.sync(PAGE)
            assert answer.status_code == 200, answer.text


# ---- the second wall ------------------------------------------------------------------------------------------------


def call_core(site: Site, path: str, body: dict[str, object], lease: str | None) -> tuple[int, dict[str, object]]:
    """Reach past the sidecar, straight to the core's socket."""
    connection = http.client.HTTPConnection("core", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(site.folder / "core.sock"))
    headers = {"Content-Type": "application/json"} | ({"Tollgate-Lease": lease} if lease is not None else {})
    connection.request("POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, dict(json.loads(answer.read()))


@pytest.mark.parametrize("lease", [None, "", "bm90IGEgbGVhc2U=", "~~~"])
@pytest.mark.parametrize("path", ["/page", "/inspect"])
def test_core_called_by_hand_reads_nothing(own: Site, path: str, lease: str | None) -> None:
    operation_id = "5b1e5f0e-2c77-4c0e-8f7d-6a3f0f7f9b10"
    folder = own.folder / "share" / "operations" / operation_id
    folder.mkdir(exist_ok=True)
    (folder / "document").write_bytes(PAGE)
    body = {"document": operation_id, "page": 1, "language": None, "reading_order": "basic"}
    status, answer = call_core(own, path, body, lease)
    assert status == 403
    assert answer["error"]["code"] == "LeaseRefused"  # type: ignore[index]
    assert set(answer) == {"error"}


def test_core_refuses_a_lease_of_another_device(own: Site, service: Site) -> None:
    blob = (service.folder / "state" / "lease.dsse.json").read_bytes()
    body = {"document": "5b1e5f0e-2c77-4c0e-8f7d-6a3f0f7f9b10", "page": 1, "language": None, "reading_order": "basic"}
    status, answer = call_core(own, "/page", body, base64.b64encode(blob).decode())
    assert (status, answer["error"]["code"]) == (403, "LeaseRefused")  # type: ignore[index]


def test_processor_without_avx2(tmp_path: Path) -> None:
    flags = Path("/proc/cpuinfo").read_text()
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text(flags.replace(" avx2", ""))
    site = Site(f"Core:CpuInfo={cpu_info}")
    try:
        site.start(ready=False)
        wait_until(lambda: site.ready() == 503 and site.status()["state"] == "HOST_UNSUPPORTED", 15, site.log_text())
        assert "AVX2" in site.get("/ready").json()["message"]
        assert "AVX2" in site.status()["reason"]
        answer = site.post(PAGE)
        assert answer.status_code == 503
        assert "AVX2" in answer.json()["error"]["message"]
        assert "Retry-After" not in answer.headers
        assert site.get("/records/usage-logs/").status_code == 200
        assert site.pages() == 0
        lease = (site.folder / "state" / "lease.dsse.json").read_bytes()
        import base64

        body = {"document": "5b1e5f0e-2c77-4c0e-8f7d-6a3f0f7f9b10", "page": 1, "language": None}
        status, refused = call_core(site, "/page", body, base64.b64encode(lease).decode())
        assert (status, refused["error"]["code"]) == (503, "CpuUnsupported")  # type: ignore[index]
    finally:
        site.remove()
