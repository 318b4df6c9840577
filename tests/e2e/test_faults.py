"""What a fresh reader broke once: process 1, odd spools, slow and lying clients, settings in two places."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator

import psutil
import pytest
import requests

from tests.e2e.site import BINARIES, Site, a_site, a_site_on_a_small_disk, wait_until
from tests.fakes.disks import fill
from tests.pages import LINES, as_pdf, as_png, printed_page

SMALL = as_png(printed_page(LINES[:2], size=(900, 300)))
DENSE = printed_page(LINES * 5, size=(1654, 2339), dpi=200, points=9)


@pytest.fixture(scope="module")
def own() -> Iterator[Site]:
    with a_site("Sidecar:WebThreads=8") as site:
        yield site


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_launcher_as_process_one() -> None:
    """As in a container: the launcher is process 1, and so the parent that its children find."""
    site = Site()
    with site.log.open("ab") as log:
        inside = subprocess.Popen(
            ["unshare", "-pf", "--mount-proc", "--kill-child", str(BINARIES / "sidecar"), *site.words],
            stdout=log,
            stderr=log,
        )
    try:
        site.wait_ready()
        assert site.sync(SMALL).status_code == 200
        (launcher,) = psutil.Process(inside.pid).children()
        launcher.terminate()
        inside.wait(15)
        assert len(site.recorded_uses()) == 1
    finally:
        inside.kill()
        inside.wait()
        site.remove()


def test_operation_whose_folder_is_gone_disturbs_nobody(own: Site) -> None:
    location = own.submit(as_pdf([DENSE] * 6))
    time.sleep(0.5)
    shutil.rmtree(own.folder / "share" / "operations" / location[-36:])
    for _ in range(3):
        assert own.sync(SMALL).status_code == 200
    assert requests.get(location, timeout=10).status_code == 404
    assert own.settled_pages() >= 3


def test_spool_that_nobody_understands_disturbs_nobody() -> None:
    site = Site()
    folders = []
    try:
        for content in ("{}", "[]", "", "{", '{"pages": 1}', "\0" * 100):
            for name in ("request.json", "outcome.json"):
                folder = site.folder / "share" / "operations" / str(uuid.uuid4())
                folder.mkdir(parents=True)
                (folder / name).write_text(content)
                folders.append(folder)
        site.start()
        location = site.submit(as_pdf([DENSE] * 2))
        site.processes("web")[1].kill()
        site.wait_ready()
        assert site.result(location)["status"] == "succeeded"
        for folder in folders:
            assert site.get(f"/vision/v3.2/read/analyzeResults/{folder.name}").status_code == 404
        assert site.pages() == 2
    finally:
        site.remove()


def test_slow_clients_leave_room_for_those_who_ask(own: Site) -> None:
    held = []
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", own.port), timeout=10)
        client.sendall(
            b"POST /vision/v3.2/read/analyze HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Content-Length: 100000\r\n\r\nabc"
        )
        held.append(client)
    try:
        time.sleep(0.5)
        for path in ("/ready", "/status", "/records/usage-logs/"):
            started = time.monotonic()
            assert own.get(path).status_code == 200
            assert time.monotonic() - started < 3
        refused = own.post(SMALL)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    finally:
        for client in held:
            client.close()
    wait_until(lambda: own.sync(SMALL).status_code == 200, 10, "the service did not recover")


def test_body_shorter_than_declared_is_not_read(own: Site) -> None:
    before = own.settled_pages()
    document = as_pdf([printed_page(size=(600, 200))])
    client = socket.create_connection(("127.0.0.1", own.port), timeout=10)
    head = (
        "POST /vision/v3.2/read/analyze HTTP/1.1\r\nHost: x\r\nContent-Type: application/pdf\r\n"
        f"Content-Length: {len(document) + 10}\r\n\r\n"
    )
    client.sendall(head.encode() + document)
    client.shutdown(socket.SHUT_WR)
    answer = client.recv(4096)
    client.close()
    assert b" 202 " not in answer
    assert own.settled_pages() == before


def test_broken_chunks_are_the_clients_fault(own: Site) -> None:
    for body in (b"zz\r\nabc\r\n", b"5\r\nab", b"ffffffffffffffffffff\r\n"):
        client = socket.create_connection(("127.0.0.1", own.port), timeout=10)
        client.sendall(
            b"POST /vision/v3.2/read/analyze HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + body
        )
        client.shutdown(socket.SHUT_WR)
        answer = client.recv(4096)
        client.close()
        assert b" 500 " not in answer
    assert "Traceback" not in own.log_text()


def test_forwarded_headers_and_odd_hosts_are_not_believed(own: Site) -> None:
    url = f"{own.url}/vision/v3.2/read/analyze"
    kind = {"Content-Type": "image/png"}
    forwarded = requests.post(url, data=SMALL, headers={**kind, "X-Forwarded-Proto": "https"}, timeout=10)
    assert forwarded.headers["Operation-Location"].startswith(f"http://127.0.0.1:{own.port}/")
    odd = requests.post(url, data=SMALL, headers={**kind, "Host": 'evil"<x>'}, timeout=10)
    assert "evil" not in odd.headers.get("Operation-Location", "")


def test_no_client_address_is_logged(own: Site) -> None:
    with socket.create_connection(("127.0.0.1", own.port), timeout=10) as client:
        client.sendall(b"GET /" + b"a" * 10000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        client.recv(4096)
    assert "ip=127.0.0.1" not in own.log_text()


def test_words_win_over_the_environment_down_to_the_children() -> None:
    site = Site("Metering:Strict=false", "Sidecar:WebThreads=9")
    site.environment = {"Metering__Strict": "true", "SIDECAR__WEBTHREADS": "64"}
    try:
        site.start()
        (web, *_) = site.processes("web")
        seen = {name.lower(): value for name, value in web.environ().items()}
        assert seen["metering__strict"] == "False"
        assert seen["sidecar__webthreads"] == "9"
        assert [name for name in web.environ() if name.lower() == "sidecar__webthreads"] == ["Sidecar__WebThreads"]
    finally:
        site.remove()


def test_full_spool_refuses_and_heals() -> None:
    with a_site_on_a_small_disk("share", "3m") as site:
        share = site.folder / "share"
        assert site.sync(SMALL).status_code == 200
        (share / "filler").write_bytes(bytes(3 * 2**20 - 200_000))
        answer = site.post(bytes(1_000_000))
        assert answer.status_code in {500, 503}
        wait_until(lambda: site.ready() == 200, 5, "room is left")
        (share / "filler").write_bytes(b"")
        (share / "filler").write_bytes(bytes(3 * 2**20 - 60_000))
        assert site.post(bytes(1_000_000)).status_code in {500, 503}
        wait_until(lambda: site.status()["state"] == "SPOOL_UNAVAILABLE", 5, "a full spool is not told")
        assert site.ready() == 503
        (share / "filler").unlink()
        site.wait_ready(5)
        assert site.sync(SMALL).status_code == 200
        assert site.settled_pages() == 2


def test_synchronous_callers_at_a_full_ledger_get_an_answer() -> None:
    with a_site_on_a_small_disk("state", "20m") as site:
        filler = fill(site.folder / "state")
        answers: list[int] = []
        threads = [threading.Thread(target=lambda: answers.append(site.sync(SMALL).status_code)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(answers) == 20
        filler.unlink()
        site.wait_ready(10)
        assert site.settled_pages() == answers.count(200)


@pytest.fixture(scope="module")
def narrow() -> Iterator[Site]:
    """A site for documents of up to a million bytes."""
    with a_site("Sidecar:MaxDocumentBytes=1000000") as site:
        yield site


@pytest.mark.parametrize("kind", ["multipart", "raw", "chunked"])
def test_rest_of_a_refused_body_is_never_taken_for_a_request(narrow: Site, kind: str) -> None:
    """What follows the limit in a refused body looks like requests: none of them is served, whatever it says."""
    before = narrow.settled_pages()
    hidden = (
        b"POST /vision/v3.2/read/analyze HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(SMALL), SMALL)
    )
    for length in (1_100_000, 2_500_000, 5_000_000):
        body = bytes(length) + hidden * 20
        head = b"POST /vision/v3.2/read/analyze HTTP/1.1\r\nHost: x\r\n"
        if kind == "multipart":
            part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
            body = part + body + b"\r\n--b--\r\n"
            head += b"Content-Type: multipart/form-data; boundary=b\r\n"
        else:
            head += b"Content-Type: application/octet-stream\r\n"
        if kind == "chunked":
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            head += b"Transfer-Encoding: chunked\r\n\r\n"
        else:
            head += b"Content-Length: %d\r\n\r\n" % len(body)
        answers = b""
        with socket.create_connection(("127.0.0.1", narrow.port), timeout=10) as connection:
            try:
                connection.sendall(head + body)
                connection.sendall(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                while piece := connection.recv(65536):
                    answers += piece
            except OSError:
                pass  # refused without a word once the bound is passed
        statuses = [line.split()[1] for line in answers.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
        assert statuses in ([], [b"400"], [b"400", b"200"]), statuses
    time.sleep(0.5)
    assert narrow.settled_pages() == before
    assert narrow.sync(SMALL).status_code == 200
