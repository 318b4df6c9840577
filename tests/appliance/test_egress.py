"""Nothing leaves: a whole life without a network, watched by the kernel's counters, by its calls, and on the wire.

Two witnesses tell of what was tried: strace of every process (a call that the kernel would refuse counts too), and what
the kernel counted. A third tells of what got through: a network with an interface, a route and a name server, where
every packet is recorded. The last tests show that each of the three sees what it looks for.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from licenses.model import READ_PAGES_METER
from tests.appliance.networks import WORLD, Network, a_network_with_a_world, an_empty_network
from tests.appliance.system_calls import Calls, traced, wait_written
from tests.e2e.site import BINARIES, Site, text_of, wait_until
from tests.hard_pages import sign_in_a_photo
from tests.pages import as_pdf, as_png, printed_page

PAGE = printed_page(size=(1240, 900))
NOTE = Path(__file__).resolve().parents[3] / "shared" / "corpus" / "cognitive-serv-handwritten_text.jpg"
NAME = "time.windows.com"
COUNTED = ("Ip.OutNoRoutes", "Ip6.OutNoRoutes", "Udp.OutDatagrams", "Udp6.OutDatagrams", "Icmp.OutMsgs", "Udp.NoPorts")
_WITH_THIS_RESOLVER = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'


class OfflineSite(Site):
    """A site in a network of its own, at the documented port; its processes may be traced.

    Args:
        network: Where it lives.
        is_traced: Whether all that it runs is.
    """

    def __init__(self, network: Network, *, is_traced: bool) -> None:
        self._traces: list[Path] = []
        self._is_traced = is_traced
        super().__init__(
            "Metering:MinIntervalSeconds=1", "Metering:MaxIntervalSeconds=1", "Sidecar:Listen=0.0.0.0:5000"
        )
        self.network = network
        self.url = "http://127.0.0.1:5000"
        self._resolver = self.folder / "resolv.conf"
        self._resolver.write_text(f"nameserver {WORLD}\noptions timeout:1 attempts:1\n")

    def prepared(self, *words: str | Path) -> list[str]:
        """A command of the product's as it is run here: with this network's resolver, and traced."""
        command = [str(BINARIES / words[0]), *map(str, words[1:])]
        if self._is_traced:
            self._traces.append(self.folder / f"trace-{len(self._traces)}.txt")
            command = traced(command, self._traces[-1])
        return ["unshare", "--mount", "sh", "-c", _WITH_THIS_RESOLVER, str(self._resolver), *command]

    def start(self, *, ready: bool = True) -> OfflineSite:
        with self.log.open("ab") as log:
            self._launcher = subprocess.Popen(self.prepared("sidecar", *self.words), stdout=log, stderr=log)
        if ready:
            self.wait_ready()
        return self

    def run(self, *words: str | Path, code: int = 0) -> str:
        """One of the product's commands, to its end; what it printed."""
        done = subprocess.run(self.prepared(*words), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def with_settings(self, *words: str | Path) -> str:
        return self.run("sidecar", *words, *self.words[1:])

    def calls(self) -> Calls:
        for trace in self._traces:
            wait_written(trace)
        return Calls(self._traces)

    def pictures_of_the_second_engine(self) -> int:
        """How many pictures it has been shown, by the core's own word."""
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(self.folder / "core.sock"))
            one.sendall(b"GET /health HTTP/1.0\r\nHost: core\r\n\r\n")
            answer = http.client.HTTPResponse(one)
            answer.begin()
            return int(json.load(answer)["second_engine"]["pictures"])


@contextmanager
def a_site_in(network: Network, *, is_traced: bool) -> Iterator[OfflineSite]:
    with network.entered():
        site = OfflineSite(network, is_traced=is_traced)
        try:
            yield site
        finally:
            site.remove()


def live(site: OfflineSite) -> None:
    """All that a disconnected appliance does between its first start and a renewed licence."""
    site.start()
    printed = site.sync(as_png(PAGE)).json()
    assert "machine read pages without a network" in text_of(printed)
    document = site.result(site.submit(as_pdf([PAGE, PAGE])))
    assert text_of(document).count("machine read pages without a network") == 2
    sign = site.result(site.submit(as_png(sign_in_a_photo())))
    assert "Tollgate 7" in text_of(sign)
    if NOTE.exists():
        assert "You must be the change" in text_of(site.sync(NOTE.read_bytes()).json())
    assert site.pictures_of_the_second_engine() >= 1
    pages = site.pages()
    wait_until(lambda: len(site.recorded_uses()) == pages, 15, "no window was closed over the pages")
    for page in ("/", "/swagger/index.html", "/metrics", "/status"):
        assert site.get(page).status_code == 200, page
    assert "fail" not in {check["result"] for check in json.loads(site.with_settings("diagnose", "--json"))}
    assert site.stop() == 0
    site.start()
    assert site.pages() == pages

    state, keys, trust_root = site.folder / "state", site.folder / "vendor", site.trust_root
    exported = json.loads(site.with_settings("usage", "export", "--out", site.folder / "stick", "--json"))
    assert exported["meters"] == {READ_PAGES_METER: pages}
    site.run("licenses", "request", "--state-directory", state, "--out", site.folder / "enrolment")
    renewed = site.folder / "renewed.dat"
    site.run("licenses", "issue", "--keys", keys, "--customer", "Test", "--days", "400", "--out", renewed)
    site.run("licenses", "inspect", renewed, "--trust-root", trust_root, "--state-directory", state)
    site.run("licenses", "verify", renewed, "--trust-root", trust_root)
    acked = site.run(
        "licenses", "acknowledge", exported["file"], "--keys", keys, "--enrolment", site.folder / "enrolment",
        "--known", site.folder / "known", "--next-license", renewed, "--out", site.folder / "back", "--json",
    )  # fmt: skip
    site.with_settings("usage", "import-ack", json.loads(acked)["file"])
    wait_until(lambda: site.status()["license"]["daysLeft"] > 390, 10, "the renewed licence is not taken up")
    for words in (["usage", "qr"], ["status"], ["health"], ["clock", "status"], ["languages"], ["ledger", "check"]):
        site.with_settings(*words)
    assert site.stop() == 0
    site.run("usage-verify", site.folder / "output", "--trust-root", trust_root, "--device-key", state / "device.pub")


def test_nothing_is_tried_where_there_is_no_network() -> None:
    with an_empty_network() as network:
        before = network.counters()
        with a_site_in(network, is_traced=True) as site:
            live(site)
            calls = site.calls()
        after = network.counters()
    print(f"{calls.number} calls about sockets: {dict(calls.families)}")  # noqa: T201 - wanted in the log
    assert calls.offences == []
    assert calls.families["AF_UNIX SOCK_STREAM"] > 0
    assert {name: after[name] - before[name] for name in COUNTED} == dict.fromkeys(COUNTED, 0)


def test_nothing_leaves_where_there_is_a_network() -> None:
    with a_network_with_a_world() as (network, world):
        world.packets()
        with a_site_in(network, is_traced=False) as site:
            live(site)
        assert list(map(str, world.packets())) == []


# ---- the witnesses see -----------------------------------------------------------------------------------------------


def look_up(network: Network, folder: Path, name: str) -> Calls:
    """Have a grandchild ask for an address, as a library that reports its use would."""
    (folder / "resolv.conf").write_text(f"nameserver {WORLD}\noptions timeout:1 attempts:1\n")
    asks = f"import socket; socket.getaddrinfo({name!r}, 443)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {asks!r}])"
    words = traced([sys.executable, "-c", child], folder / "trace.txt")
    with network.entered():
        subprocess.run(
            ["unshare", "--mount", "sh", "-c", _WITH_THIS_RESOLVER, str(folder / "resolv.conf"), *words],
            check=True, capture_output=True, timeout=30,
        )  # fmt: skip
    wait_written(folder / "trace.txt")
    return Calls([folder / "trace.txt"])


def test_a_name_that_is_looked_up_would_be_seen_without_a_network(tmp_path: Path) -> None:
    with an_empty_network() as network:
        before = network.counters()
        calls = look_up(network, tmp_path, NAME)
        after = network.counters()
    assert any("SOCK_DGRAM" in line for line in calls.offences)
    assert any(f'htons(53), sin_addr=inet_addr("{WORLD}")' in line for line in calls.offences)
    assert after["Ip.OutNoRoutes"] > before["Ip.OutNoRoutes"]


def test_a_name_that_is_looked_up_would_be_seen_on_the_wire(tmp_path: Path) -> None:
    with a_network_with_a_world() as (network, world):
        world.packets()
        look_up(network, tmp_path, NAME)
        asked = [one for one in world.packets() if one.kind == f"UDP to {WORLD} port 53"]
    assert any(b"\x04time\x07windows\x03com" in one.content for one in asked)


@pytest.mark.parametrize("words", [["Fluentd:Host=log.example"], []], ids=["with a server named", "without"])
def test_the_product_itself_would_be_seen(words: list[str]) -> None:
    """An operator may name a server for the log: then, and only then, there is something on the wire."""
    with a_network_with_a_world() as (network, world), a_site_in(network, is_traced=True) as site:
        world.packets()
        site.run("sidecar", "diagnose", *site.words, *words)
        asked, tried = world.packets(), site.calls().offences
    assert bool(words) == any(b"\x03log\x07example" in one.content for one in asked) == bool(tried)


def test_a_call_that_the_kernel_would_refuse_is_seen(tmp_path: Path) -> None:
    code = (
        "import ctypes, socket; from ocr_core.confinement import Role, confine; confine(Role.READER)\n"
        "try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "except PermissionError: raise SystemExit(7)"
    )
    trace = tmp_path / "trace.txt"
    done = subprocess.run(traced([sys.executable, "-c", code], trace), env=os.environ, timeout=30, check=False)
    wait_written(trace)
    assert done.returncode == 7
    assert any("AF_INET, SOCK_DGRAM" in line for line in Calls([trace]).offences)
