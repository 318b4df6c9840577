"""The vendor's service with real processes: licences to a real appliance, its bundles in, acknowledgements out."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
import re
import socket
import sqlite3
import stat
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from licenses import envelope
from licenses.authority.web.worker import SMALL_BYTES
from licenses.model import READ_PAGES_METER
from licenses.strict_json import canonical
from licenses.usage_log.bundle import MANIFEST_NAME, PREDICATE_TYPE, STATEMENT_TYPE, Span
from tests.e2e.site import BINARIES, Site, command, wait_until
from tests.e2e.test_exchange import TradingSite
from tests.e2e.vendor import API, KEY_HEADER, Vendor, a_vendor_at_work
from tests.fakes.bundles import bundle_files, packed, span_of, tar_member
from tests.fakes.disks import fill, mounted
from tests.fakes.records import FakeMeter
from tests.fakes.vendor_books import FakeSite
from tests.pages import as_png, printed_page

PAGE = as_png(printed_page(size=(600, 200)))


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    with a_vendor_at_work() as one:
        yield one


def an_appliance(vendor: Vendor, folder: Path) -> FakeSite:
    """One that keeps records, enrolled with the first licence that it asks for."""
    name = json.loads(vendor.licenses("inspect", vendor.trust_root, "--json"))["vendor"]
    place = folder / uuid.uuid4().hex[:8]
    site = FakeSite(FakeMeter(place / "output", vendor=name), place)
    answer = vendor.post("/license", json.dumps({**ASKED, "enrolment": json.loads(site.enrolment())}))
    assert answer.status_code == 200, answer.text
    return site


ASKED = {"containerType": "computervisionread"}


def billed(vendor: Vendor, origin: str) -> int:
    """Pages in the books."""
    with contextlib.closing(sqlite3.connect(vendor.database)) as books:
        (found,) = books.execute(
            "SELECT sum(quantity) FROM amount WHERE origin = ? AND kind <> 'ack'", [origin]
        ).fetchone()
    return int(found or 0)


# ---- appliances -----------------------------------------------------------------------------------------------------


def test_licence_downloaded_by_an_appliance_serves_there() -> None:
    site = Site()
    try:
        site.license_file.unlink()
        request = command(
            "licenses", "request", "--state-directory", site.folder / "state", "--out", site.folder / "enrolment"
        )
        assert request.returncode == 0, request.stderr
        with a_vendor_at_work(keys=site.folder / "vendor") as vendor:
            vendor.authority("enrol", site.folder / "enrolment", "--subscription", vendor.subscription)
            words = [
                "eula=accept",
                f"billing={vendor.url}/",
                "DownloadLicense=True",
                f"Mounts:License={site.folder / 'license'}",
                f"Sidecar:TrustRoot={site.trust_root}",
                f"Sidecar:StateDirectory={site.folder / 'state'}",
            ]
            wrong = command("sidecar", *words, "apikey=" + "0" * 64)
            assert wrong.returncode == 78, wrong.stderr
            assert "'Invalid'" in wrong.stderr
            assert not site.license_file.exists()
            done = command("sidecar", *words, f"apikey={vendor.key}")
            assert done.returncode == 0, done.stderr
            assert "St. Example's Hospital" in done.stdout
        facts = json.loads(vendor_facts(site))
        assert facts["device_pubkey"] == device_public(site)
        site.start()
        assert site.sync(PAGE).status_code == 200
    finally:
        site.remove()


def vendor_facts(site: Site) -> str:
    done = command("licenses", "inspect", site.license_file, "--trust-root", site.trust_root, "--json")
    assert done.returncode == 0, done.stderr
    return done.stdout


def device_public(site: Site) -> str:
    done = command("licenses", "inspect", site.folder / "enrolment", "--json")
    return str(json.loads(done.stdout)["device_pubkey"])


def test_bundles_of_a_running_appliance_go_out_and_acknowledgements_come_back() -> None:
    site = TradingSite()
    try:
        site.start()
        request = command(
            "licenses", "request", "--state-directory", site.folder / "state", "--output", site.folder / "output",
            "--out", site.folder / "enrolment",
        )  # fmt: skip
        assert request.returncode == 0, request.stderr
        with a_vendor_at_work(keys=site.folder / "vendor") as vendor:
            vendor.authority("enrol", site.folder / "enrolment", "--subscription", vendor.subscription)
            for number, pages in enumerate((3, 2), start=1):
                site.read(pages)
                site.wait_sealed(5 if number == 2 else 3)
                exported = site.facts("export", "--out", site.folder / "out")
                with open(exported["file"], "rb") as bundle:
                    answer = vendor.post("/bundles", bundle, kind="application/gzip")
                assert answer.status_code == 200, answer.text
                assert answer.headers["Tollgate-Billed"] == f"{READ_PAGES_METER}={pages}"
                ack = site.folder / f"ack-{number}"
                ack.write_bytes(answer.content)
                applied = site.facts("import-ack", ack)
                assert (applied["size"], applied["unackedPages"]) == (exported["size"], 0)
                assert vendor.get(f"/acknowledgements/{exported['origin'].rpartition('/')[2]}/latest").content == (
                    answer.content
                )
            assert billed(vendor, exported["origin"]) == 5
        assert site.verified()["instances"][0]["ranges"][0]["coverage"] == "acked"
    finally:
        site.remove()


# ---- reports --------------------------------------------------------------------------------------------------------


def test_reports_of_many_devices_side_by_side(vendor: Vendor, tmp_path: Path) -> None:
    sites = [an_appliance(vendor, tmp_path) for _ in range(12)]
    for number, site in enumerate(sites):
        for window in range(3):
            site.meter.window(uses=number + window)
    work = [(site, window) for site in sites for window in range(3)] * 2
    random.Random(8).shuffle(work)

    def send(one: tuple[FakeSite, int]) -> int:
        site, window = one
        return vendor.post("/usage", site.body(site.report(window))).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, work)) == {200}
    assert [billed(vendor, site.origin) for site in sites] == [3 * number + 3 for number in range(12)]


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_service_that_is_ended_again_and_again_bills_everything_once(how: str, tmp_path: Path) -> None:
    with a_vendor_at_work() as vendor:
        site = an_appliance(vendor, tmp_path)
        for _ in range(40):
            site.meter.window(uses=1)
        bodies = [site.body(site.report(window)) for window in range(40)]
        listen = vendor.url.removeprefix("http://")
        delivered = threading.Event()

        def deliver() -> None:
            for body in bodies:
                while True:
                    with contextlib.suppress(requests.RequestException):
                        if vendor.post("/usage", body).status_code == 200:
                            break
                    time.sleep(0.02)
            delivered.set()

        sender = threading.Thread(target=deliver)
        sender.start()
        rng, ends = random.Random(81), 0
        while not delivered.wait(rng.uniform(0.01, 0.12)) and ends < 4:
            ends += 1
            if how == "kill":
                vendor.kill()
            else:
                assert vendor.stop() == 0
            vendor.start(listen=listen)
        sender.join(60)
        assert delivered.is_set()
        assert ends >= 2
        assert billed(vendor, site.origin) == 40
        blob = site.bundle().read_bytes()
        answer = vendor.post("/bundles", blob, kind="application/gzip")
        assert (answer.status_code, answer.headers["Tollgate-Billed"]) == (200, "")
        assert billed(vendor, site.origin) == 40


def test_a_service_that_is_killed_while_it_takes_in_a_bundle_keeps_nothing_and_takes_it_again(tmp_path: Path) -> None:
    with a_vendor_at_work() as vendor:
        site = an_appliance(vendor, tmp_path)
        for _ in range(30):
            site.meter.window(uses=200)
        blob, listen = site.bundle().read_bytes(), vendor.url.removeprefix("http://")
        rng, killed = random.Random(82), 0
        for _ in range(4):
            sender = threading.Thread(target=lambda: _try(vendor, blob))
            sender.start()
            time.sleep(rng.uniform(0.02, 0.5))
            vendor.kill()
            sender.join(30)
            killed += billed(vendor, site.origin) == 0
            vendor.start(listen=listen)
        answer = vendor.post("/bundles", blob, kind="application/gzip")
        assert answer.status_code == 200, answer.text
        assert billed(vendor, site.origin) == 6000
        assert killed >= 1
        assert list((vendor.folder / "uploads").iterdir()) == []
        assert [path.name for path in vendor.folder.iterdir() if path.name.startswith("intake-")] == []


class _Zeros:
    """A body of so many bytes, which nobody has in memory."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._piece = bytes(1024 * 1024)

    def __iter__(self) -> Iterator[bytes]:
        while self._left:
            self._left -= len(self._piece)
            yield self._piece


def _most_memory(vendor: Vendor) -> int:
    """Most memory that the worker ever had, in bytes."""
    (worker,) = Path(f"/proc/{vendor.pid}/task/{vendor.pid}/children").read_text().split()
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())
    return int(kib) * 1024


def test_a_bundle_of_two_gigabytes_is_refused_and_costs_neither_memory_nor_disk() -> None:
    with a_vendor_at_work() as vendor:
        caller = http.client.HTTPConnection("127.0.0.1", vendor.port, timeout=60)
        caller.putrequest("POST", f"{API}/bundles")
        for name, value in (
            (KEY_HEADER, vendor.key),
            ("Content-Type", "application/gzip"),
            ("Content-Length", str(2 * 1024**3)),
        ):
            caller.putheader(name, value)
        caller.endheaders()
        answer = caller.getresponse()  # before any of it was sent
        assert answer.status == 413
        assert "1073741824 bytes" in json.loads(answer.read())["message"]
        caller.close()
        vendor.stop()
        vendor.start("--max-bundle", "64")
        before = _most_memory(vendor)
        with contextlib.suppress(requests.ConnectionError):  # whoever goes on sending may miss the answer
            told = vendor.post("/bundles", iter(_Zeros(256 * 1024**2)), kind="application/gzip")  # no length
            assert (told.status_code, told.json()["code"]) == (413, "request_too_large")
        wait_until(lambda: list((vendor.folder / "uploads").iterdir()) == [], 60, "the upload is left")
        assert _most_memory(vendor) - before < 48 * 1024**2
        assert vendor.post("/license", json.dumps(ASKED)).status_code == 200


ESCAPES = [
    "../escaped.jsonl",
    "../../escaped.jsonl",
    "computervisionread/../../escaped",
    "computervisionread/./escaped",
]


def test_a_bundle_that_would_write_elsewhere_writes_nowhere(vendor: Vendor, tmp_path: Path) -> None:
    """Its device is enrolled, and has signed for each of the names: only the name is amiss."""
    site = an_appliance(vendor, tmp_path)
    site.meter.window(uses=3)
    span = span_of(site.meter)
    good = {one.name: b"".join(one.chunks()) for one in bundle_files(site.meter)}
    for name in (*ESCAPES, str(tmp_path / "escaped.jsonl"), f"computervisionread/{span.instance}/usage/escaped"):
        files = {**good, name: b"escaped"}
        told = {"_type": STATEMENT_TYPE, "predicateType": PREDICATE_TYPE, **_subjects(files), **_predicate(span)}
        files[MANIFEST_NAME] = envelope.seal(canonical(told), envelope.USAGE_BUNDLE_TYPE, [site.meter.device])
        archive = b"".join(tar_member(*one) for one in sorted(files.items())) + bytes(1024)
        answer = vendor.post("/bundles", packed(archive), kind="application/gzip")
        assert answer.status_code == 409, answer.text
        assert "has no place in a bundle" in answer.json()["message"], answer.text
    for folder in (vendor.folder, tmp_path, vendor.folder.parent):
        assert list(folder.glob("*escaped*")) + list(folder.glob("*/*escaped*")) == []
    assert list((vendor.folder / "uploads").iterdir()) == []
    assert billed(vendor, site.origin) == 0
    answer = vendor.post("/bundles", site.bundle().read_bytes(), kind="application/gzip")
    assert (answer.status_code, billed(vendor, site.origin)) == (200, 3)


def _subjects(files: Mapping[str, bytes]) -> dict[str, object]:
    digests = ((name, hashlib.sha256(files[name]).hexdigest()) for name in sorted(files))
    return {"subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in digests]}


def _predicate(span: Span) -> dict[str, object]:
    facts = {"origin": span.origin, "instance": span.instance, "since": span.since, "size": span.size}
    return {"predicate": {**facts, "root": span.root.hex(), "until_ms": span.until_ms}}


def _try(vendor: Vendor, blob: bytes) -> None:
    with contextlib.suppress(requests.RequestException):
        vendor.post("/bundles", blob, kind="application/gzip")


def test_reports_are_answered_while_a_bundle_is_verified(vendor: Vendor, tmp_path: Path) -> None:
    large, small = an_appliance(vendor, tmp_path), an_appliance(vendor, tmp_path)
    for _ in range(20):
        large.meter.window(uses=1000)
    small.meter.window(uses=1)
    blob = large.bundle().read_bytes()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(vendor.post, "/bundles", blob, kind="application/gzip")
        times = []
        while not answer.done():
            began = time.monotonic()
            assert vendor.post("/usage", small.body(small.report())).status_code == 200
            times.append(time.monotonic() - began)
        assert answer.result().status_code == 200
    assert len(times) >= 3
    assert max(times) < 10  # one that had to wait for the bundle would be the last


# ---- a full disk ----------------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_by_name_keeps_nothing_and_heals_by_itself(tmp_path: Path) -> None:
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    disk.mkdir()
    with mounted(disk, "size=80m"):  # with room for what is left to the database
        vendor = Vendor(books=disk)
        try:
            vendor.start("--uploads", str(elsewhere))
            site = an_appliance(vendor, tmp_path)
            for _ in range(3):
                site.meter.window(uses=100)
            bundle, body = site.bundle().read_bytes(), site.body(site.report(0))
            filler = fill(disk)
            for answer in [
                *(vendor.post("/usage", body) for _ in range(3)),
                *(vendor.post("/bundles", bundle, kind="application/gzip") for _ in range(2)),
            ]:
                told = answer.json()
                assert (answer.status_code, told["status"], told["code"]) == (503, "Unknown", "authority_unknown")
                assert "Retry-After" in answer.headers
                assert str(disk) not in answer.text
            assert any(
                "disk" in str(line.get("error")) or "space" in str(line.get("error")) for line in vendor.log_lines()
            )
            filler.unlink()
            assert billed(vendor, site.origin) == 0
            assert vendor.post("/usage", body).json()["billed"] == [{"name": READ_PAGES_METER, "quantity": 100}]
            answer = vendor.post("/bundles", bundle, kind="application/gzip")
            assert (answer.status_code, answer.headers["Tollgate-Billed"]) == (200, f"{READ_PAGES_METER}=200")
            assert billed(vendor, site.origin) == 300
        finally:
            vendor.remove()


def test_a_bundle_never_takes_the_last_of_the_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "size=32m"), a_vendor_at_work() as vendor:
        vendor.stop()
        vendor.start("--uploads", str(disk / "uploads"))
        answer = vendor.post("/bundles", b"x" * 1000, kind="application/gzip")
        assert (answer.status_code, answer.json()["status"]) == (503, "Unknown")
        assert "No space left" in answer.json()["message"]
        assert list((disk / "uploads").iterdir()) == []
        assert vendor.post("/license", json.dumps(ASKED)).status_code == 200


# ---- what an admin sees ---------------------------------------------------------------------------------------------


def serve(vendor: Vendor, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A service that is not expected to start."""
    done = command("licenses", "authority", "serve", *words, **{**vendor.environment, **environment})
    assert "Traceback" not in done.stderr
    assert "Next step: " in done.stderr
    assert done.stdout == ""
    return done


def test_a_taken_port_is_told_at_once(vendor: Vendor) -> None:
    began = time.monotonic()
    done = serve(vendor, "--listen", f"127.0.0.1:{vendor.port}")
    assert done.returncode != 0
    assert f"cannot listen on 127.0.0.1:{vendor.port}" in done.stderr
    assert "ss -ltnp" in done.stderr
    assert time.monotonic() - began < 30  # what waits for the port would wait for ever


def test_a_second_service_leaves_the_uploads_of_the_first_alone(vendor: Vendor, tmp_path: Path) -> None:
    site = an_appliance(vendor, tmp_path)
    site.meter.window(uses=9000)
    blob, uploads = site.bundle().read_bytes(), vendor.folder / "uploads"
    half = threading.Event()
    assert len(blob) > SMALL_BYTES + 1000

    def body() -> Iterator[bytes]:
        yield blob[: SMALL_BYTES + 500]  # less would be taken in before it is looked at
        assert half.wait(60)
        yield blob[SMALL_BYTES + 500 :]

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(vendor.post, "/bundles", body(), kind="application/gzip")
        try:
            wait_until(lambda: list(uploads.glob("*/*")) != [], 30, "no upload has begun")
            done = serve(vendor, "--listen", "127.0.0.1:0")
        finally:
            half.set()
        assert done.returncode == 65
        assert f"keeps its uploads in {uploads}" in done.stderr
        assert "--uploads FOLDER" in done.stderr
        assert answer.result().status_code == 200, answer.result().text
    other = subprocess.Popen(
        [BINARIES / "licenses", "authority", "serve", "--listen", "127.0.0.1:0", "--uploads", tmp_path / "second"],
        stdout=subprocess.PIPE, text=True, env=vendor.environment,
    )  # fmt: skip
    try:
        assert other.stdout is not None
        assert other.stdout.readline().startswith("Now listening on: ")
    finally:
        other.terminate()
        assert other.wait(30) == 0


def test_uploads_that_cannot_be_kept_are_told_at_the_start(vendor: Vendor, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = serve(vendor, "--uploads", str(tmp_path / "file"), "--listen", "127.0.0.1:0")
    assert done.returncode != 0
    assert str(tmp_path / "file") in done.stderr


def test_a_missing_database_is_not_made(vendor: Vendor, tmp_path: Path) -> None:
    done = serve(vendor, "--database", str(tmp_path / "none.db"), "--listen", "127.0.0.1:0")
    assert done.returncode != 0
    assert f"licenses authority init --database {tmp_path / 'none.db'}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_keys_that_are_not_there(vendor: Vendor, tmp_path: Path) -> None:
    (tmp_path / "trust-root.json").write_bytes(vendor.trust_root.read_bytes())
    done = serve(vendor, "--keys", str(tmp_path), "--listen", "127.0.0.1:0")
    assert done.returncode != 0
    assert "issuing" in done.stderr


def test_a_database_of_another_kind(vendor: Vendor) -> None:
    done = serve(vendor, "--database", "postgresql://host/books", "--listen", "127.0.0.1:0")
    assert done.returncode != 0
    assert "postgresql" in done.stderr


def test_what_it_says_on_all_addresses_and_how_it_ends(vendor: Vendor, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [BINARIES / "licenses", "authority", "serve", "--listen", "0.0.0.0:0", "--uploads", tmp_path / "uploads"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=vendor.environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Now listening on: http://0.0.0.0:")
    assert "Ctrl+C ends it" in process.stdout.readline()
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "in clear" in err
    assert "--certificate" in err


def test_tls(tmp_path: Path) -> None:
    vendor = Vendor()
    try:
        certificate, key = tmp_path / "certificate.pem", tmp_path / "certificate.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=IP:127.0.0.1"],
            check=True, capture_output=True,
        )  # fmt: skip
        words = ["--certificate", str(certificate), "--certificate-key", str(key)]
        key.chmod(0o644)
        refused = serve(vendor, *words, "--listen", "127.0.0.1:0")
        assert refused.returncode != 0
        assert "chmod 0600" in refused.stderr
        key.chmod(0o600)
        vendor.start(*words)
        assert vendor.url.startswith("https://127.0.0.1:")
        headers = {KEY_HEADER: vendor.key}
        answer = requests.post(
            f"{vendor.url}{API}/license", json=ASKED, headers=headers, timeout=30, verify=str(certificate)
        )
        assert answer.status_code == 200, answer.text
        with socket.create_connection(("127.0.0.1", vendor.port), timeout=30) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            plain.recv(1000)
        silent = socket.create_connection(("127.0.0.1", vendor.port), timeout=30)
        silent.sendall(b"\x16\x03\x01")
        again = requests.get(f"{vendor.url}{API}/health", timeout=30, verify=str(certificate))
        assert again.status_code == 200
        silent.close()
        other = serve(vendor, "--certificate", str(key), "--certificate-key", str(key), "--listen", "127.0.0.1:0")
        assert "no certificate" in other.stderr
        assert vendor.stop() == 0
        assert [line["level"] for line in vendor.log_lines()] == ["info"]
    finally:
        vendor.remove()


def test_nothing_secret_is_on_the_disk_or_in_the_process(vendor: Vendor, tmp_path: Path) -> None:
    site = an_appliance(vendor, tmp_path)
    site.meter.window(uses=1)
    assert vendor.post("/usage", site.body(site.report())).status_code == 200
    vendor.post("/license", json.dumps(ASKED), key="f" * 64)
    wait_until(lambda: any(line.get("status") == 401 for line in vendor.log_lines()), 30, "nothing in the log")
    texts = [Path(f"/proc/{vendor.pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    for path in vendor.folder.rglob("*"):
        if path.is_file() and path.parent != vendor.keys:
            texts.append(path.read_bytes())
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path == vendor.log, path
    for text in texts:
        assert vendor.key.encode() not in text
        assert b"PRIVATE KEY" not in text
        assert b"f" * 64 not in text
    lines = vendor.log_lines()
    assert any(line.get("origin") == site.origin and line["status"] == 200 for line in lines)
    assert all({"event", "level", "time"} <= set(line) for line in lines)
