"""`sidecar deploy` against a real engine: podman's service, which speaks the Docker API."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from licenses.model import READ_PAGES_METER
from tests.appliance.conftest import Mounts, Vendor
from tests.appliance.engine import IMAGE, USER, Engine, Terminal
from tests.appliance.image_bundle import an_image_bundle
from tests.e2e.site import BINARIES, command, free_port, wait_until
from tests.fakes.releases import KEY, OTHER_KEY, public
from tests.pages import LINES

SECONDS = 400.0
CONNECT_SECONDS = 5
SECRETS = ("K3y-of-the-vendor", "proxyuser", "Pr0xy-pass")
long_form = pytest.mark.skipif(os.environ.get("APPLIANCE") != "full", reason="the long form: make test-deploy")
SLEEPS = "localhost/tollgate-that-sleeps:test"
ENDS = "localhost/tollgate-that-ends:test"


@contextmanager
def an_engine_service(engine: Engine, *options: str) -> Iterator[str]:
    """The engine's socket, as Docker has one; its address."""
    with tempfile.TemporaryDirectory(prefix="podman-") as folder:
        address = f"unix://{folder}/s"
        words = engine.words("system", "service", "--time=0", address)
        process = subprocess.Popen(words[:1] + list(options) + words[1:], env=engine.environ)
        try:
            wait_until(Path(folder, "s").exists, 30, "the engine does not listen")
            yield address
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    with an_engine_service(engine) as address:
        yield address


class Deployed:
    """One service, deployed by the command; all of it is gone at the end."""

    def __init__(self, engine: Engine, address: str, folder: Path, mounts: Mounts) -> None:
        self.engine, self.address, self.mounts = engine, address, mounts
        self.name = f"test-{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # A packet to the address of a container that is just taken down may be swallowed by the host's translation of
        # addresses: such a connection never comes about, whatever listens, and is tried again as a caller would.
        self.http = requests.Session()
        self.http.mount("http://", HTTPAdapter(max_retries=Retry(total=3, read=0, backoff_factor=0.5)))
        self.state = folder / "state"
        self.state.mkdir()
        self.asked = [
            "--license", mounts.license, "--output", mounts.output, "--state", self.state,
            "--share", f"{self.name}-share", "--publish", f"127.0.0.1:{self.port}", "--memory", "4g", "eula=accept",
        ]  # fmt: skip

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": self.address}

    def words(self, verb: str, *words: str | Path) -> list[str]:
        return [str(BINARIES / "sidecar"), "deploy", verb, "--name", self.name, *map(str, words)]

    def run(self, verb: str, *words: str | Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.words(verb, *words), capture_output=True, text=True, env=self.environ, timeout=SECONDS, check=False
        )
        assert code is None or done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def facts(self, verb: str, *words: str | Path, code: int | None = 0) -> dict[str, Any]:
        return dict(json.loads(self.run(verb, "--json", *words, code=code).stdout))

    def up(self, *words: str | Path) -> dict[str, Any]:
        # Without the second engine each look at the host takes half as long.
        return self.facts("up", "--image", IMAGE, "--yes", *self.asked, "Core:SecondEngine=off", *words)

    def read(self, picture: Path, seconds: float = 60) -> requests.Response:
        return self.http.post(
            f"{self.url}/vision/v3.2/read/syncAnalyze",
            data=picture.read_bytes(),
            headers={"Content-Type": "application/octet-stream", "Connection": "close"},
            timeout=(CONNECT_SECONDS, seconds),
        )

    def pages(self) -> int:
        told = self.http.get(
            f"{self.url}/records/usage-logs/", headers={"Connection": "close"}, timeout=(CONNECT_SECONDS, 10)
        )
        meters = told.json()["meters"]
        return sum(meter["quantity"] for meter in meters if meter["name"] == READ_PAGES_METER)

    def verified(self, vendor: Vendor) -> dict[str, Any]:
        """The auditor's verdict over the records."""
        done = command(
            "usage-verify", self.mounts.output, "--trust-root", vendor.trust_root,
            "--device-key", self.state / "device.pub", "--json",
        )  # fmt: skip
        return dict(json.loads(done.stdout))

    def containers(self) -> set[str]:
        return set(self.engine("ps", "--all", "--format", "{{.Names}}", "--filter", f"name={self.name}").stdout.split())

    def remove(self) -> None:
        self.http.close()
        for name in self.containers():
            self.engine("rm", "--force", "--time", "10", "--volumes", name, check=False)
        self.engine("volume", "rm", "--force", f"{self.name}-share", check=False)


@pytest.fixture
def deployed(engine: Engine, address: str, tmp_path: Path, mounts: Mounts) -> Iterator[Deployed]:
    one = Deployed(engine, address, tmp_path, mounts)
    try:
        yield one
    finally:
        one.remove()


@pytest.fixture(scope="module")
def broken_images(engine: Engine) -> Iterator[None]:
    """Images of ours that pass every check, and whose service never serves."""
    for image, entry in ((SLEEPS, '["sleep", "1000"]'), (ENDS, '["false"]')):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "Containerfile").write_text(f"FROM {IMAGE}\nENTRYPOINT {entry}\n")
            engine("build", "--quiet", "--network=none", "--format", "docker", "--tag", image, folder)
    yield
    engine("rmi", "--force", SLEEPS, ENDS, check=False)


# ---- the life of a service ------------------------------------------------------------------------------------------


def test_a_wrong_owner_is_told_then_mended_at_the_terminal(deployed: Deployed) -> None:
    refused = deployed.run("up", "--image", IMAGE, *deployed.asked, code=77)
    folders = (deployed.mounts.output, deployed.state)
    for folder in folders:
        assert f"chown -R {USER}:{USER} {folder}" in refused.stderr
        assert folder.stat().st_uid == os.getuid()
    assert "--yes" in refused.stderr
    assert deployed.containers() == set()

    terminal = Terminal(deployed.words("up", "--image", IMAGE, *deployed.asked), deployed.environ)
    terminal.wait_for("now? [y/N]", SECONDS)
    terminal.type("y\n")
    assert terminal.wait(SECONDS) == 0, terminal.seen()
    assert "waiting until" in terminal.seen()
    assert "was started: ACTIVE" in terminal.seen()
    assert {folder.stat().st_uid for folder in folders} == {USER}
    print(terminal.seen())  # noqa: T201


@pytest.fixture
def running(deployed: Deployed) -> Deployed:
    deployed.facts_of_up = deployed.up(f"apikey={SECRETS[0]}", f"HTTP_PROXY_CREDS={SECRETS[1]}:{SECRETS[2]}")  # type: ignore[attr-defined]
    return deployed


def test_the_container_has_every_limit_and_up_again_changes_nothing(running: Deployed, picture: Path) -> None:
    first = running.facts_of_up  # type: ignore[attr-defined]
    assert (first["state"], first["changed"], first["url"]) == ("ACTIVE", True, running.url)
    assert running.read(picture).status_code == 200

    def inside(*words: str) -> str:
        return running.engine("exec", running.name, *words).stdout

    status = dict(re.findall(r"^(\w+):\s+(.*)$", inside("cat", "/proc/1/status"), re.MULTILINE))
    assert status["Uid"].split() == [str(USER)] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    mounted = {line.split()[1]: line.split()[3] for line in inside("cat", "/proc/mounts").splitlines()}
    assert mounted["/"].startswith("ro,")
    assert running.engine("exec", running.name, "touch", "/opt/x", check=False).returncode != 0
    assert running.engine("exec", running.name, "touch", "/license/x", check=False).returncode != 0
    (told,) = json.loads(running.engine("inspect", running.name).stdout)
    host = told["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (4 * 2**30, 4 * 2**30, 512)
    assert host["CpuQuota"] == (os.cpu_count() or 1) * host["CpuPeriod"]
    assert host["RestartPolicy"]["Name"] == "always"
    assert host["LogConfig"]["Size"] == "10MB"
    assert told["Config"]["StopTimeout"] == 30
    assert SECRETS[0] not in " ".join([*(told["Config"]["Cmd"] or []), *told["Args"]])

    again = running.facts("up", "--image", IMAGE, *running.asked)
    assert (again["changed"], again["container"]["id"]) == (False, first["container"]["id"])
    other = running.run("up", "--image", IMAGE, "--memory", "3g", *running.asked[:-3], "eula=accept", code=65)
    assert "memory 4 GiB → 3 GiB" in other.stderr
    assert "sidecar deploy upgrade" in other.stderr


def test_records_go_on_over_an_upgrade_under_load(running: Deployed, vendor: Vendor, picture: Path) -> None:
    answered, unanswered = [0], [0]
    enough = threading.Event()

    def read_on() -> None:
        while not enough.is_set():
            try:
                code = running.read(picture, 20).status_code
            except requests.RequestException:
                code = 0
            if code == 200:
                answered[0] += 1
            else:
                unanswered[0] += 1
                time.sleep(0.2)

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        wait_until(lambda: answered[0] >= 3, 60, "no page is read")
        before = running.facts("status")
        after = running.facts("upgrade", "--cpus", "1", "Core:Languages=eng")
        enough_after = answered[0] + 3
        wait_until(lambda: answered[0] >= enough_after, 60, "no page is read after the upgrade")
    finally:
        enough.set()
        reader.join(60)
    assert after["changed"]
    assert after["limits"]["cpus"] == 1
    assert after["container"]["id"] != before["container"]["id"]
    assert running.containers() == {running.name}
    pages = running.pages()
    # What was answered is counted; a caller who was cut off may have had a page read.
    assert answered[0] <= pages <= answered[0] + unanswered[0]

    done = running.facts("down")
    assert (done["exitCode"], done["openEntries"]) == (0, 0)
    assert running.containers() == set()
    report = running.verified(vendor)
    assert report["verdict"] == "good"
    (instance,) = report["instances"]
    assert instance["meters"] == {READ_PAGES_METER: pages}
    assert instance["entries"] == done["entries"]
    assert all(start["in_good_order"] for start in instance["starts"])
    print(f"{pages} pages, {unanswered[0]} tries unanswered while it was replaced")  # noqa: T201

    running.up()
    assert running.pages() == pages


def test_an_upgrade_that_fails_is_taken_back_and_nothing_is_lost(
    running: Deployed, vendor: Vendor, picture: Path, broken_images: None
) -> None:
    assert running.read(picture).status_code == 200
    old = running.facts("status")["container"]["id"]
    for image in (SLEEPS, ENDS):
        told = running.run("upgrade", "--image", image, "--wait", "8", code=70)
        assert "The old one is back, and it is ACTIVE" in told.stderr
        now = running.facts("status")
        assert (now["container"]["id"], now["state"], now["upgradeCutOff"]) == (old, "ACTIVE", False)
        assert running.containers() == {running.name}

    assert running.read(picture).status_code == 200
    assert running.pages() == 2
    running.facts("down")
    report = running.verified(vendor)
    assert (report["verdict"], report["instances"][0]["meters"]) == ("good", {READ_PAGES_METER: 2})


@long_form
def test_an_upgrade_that_is_cut_off_is_ended_by_the_next_command(running: Deployed, broken_images: None) -> None:
    old = running.facts("status")["container"]["id"]
    terminal = Terminal(running.words("upgrade", "--image", SLEEPS, "--wait", "300"), running.environ)
    terminal.wait_for("s at most: the service", SECONDS)  # the line ends at the edge of the screen
    for verb in ("up", "upgrade", "down"):
        assert "'sidecar deploy upgrade' (process " in running.run(verb, code=73).stderr
    assert not running.facts("status", code=None)["upgradeCutOff"]
    assert terminal.press_ctrl_c(90) == 130
    assert running.containers() == {running.name}
    assert running.facts("status")["container"]["id"] == old

    cut = subprocess.Popen(
        running.words("upgrade", "--image", SLEEPS, "--wait", "300"), env=running.environ, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: f"{running.name}-previous" in running.containers(), SECONDS, "nothing is put aside")
    cut.kill()
    cut.wait()
    assert running.facts("status", code=None)["upgradeCutOff"]
    assert running.facts("up")["container"]["id"] == old
    assert running.containers() == {running.name}


def test_logs_can_be_followed_and_begun_anywhere(running: Deployed) -> None:
    every = running.run("logs").stdout
    assert "Application started." in every
    assert running.run("logs", "--tail", "1").stdout == every.splitlines(keepends=True)[-1]
    assert running.run("logs", "--since", "1h").stdout == every
    assert running.run("logs", "--since", "2999-01-01T00:00:00Z", "--tail", "5").stdout == ""
    terminal = Terminal(running.words("logs", "--follow"), running.environ)
    terminal.wait_for("Application started.", 30)
    assert terminal.press_ctrl_c(10) == 130


def test_the_support_bundle_tells_much_and_no_secret(running: Deployed, picture: Path, tmp_path: Path) -> None:
    answer = running.read(picture)
    assert LINES[0] in answer.text
    running.run("upgrade", "Logging:LogLevel:Default=Trace")
    running.read(picture)
    key = (running.state / "device.key").read_bytes()
    for stopped in (False, True):
        if stopped:
            running.engine("stop", "--time", "30", running.name)
        out = tmp_path / f"support-{stopped}.tar.gz"
        told = running.facts("support-bundle", "--out", out)
        assert told["failed"] == []
        assert out.stat().st_mode & 0o777 == 0o600
        blob = gzip.decompress(out.read_bytes())
        secrets = [*SECRETS, *LINES, key.decode().splitlines()[1], "PRIVATE KEY"]
        for secret in secrets:
            assert secret.encode() not in blob, f"{secret} is in the bundle"
        for fact in ('"verdict": "good"', '"ApiKey": "(hidden)"', '"processor"', "Application started."):
            assert fact.encode() in blob, fact
        again = running.run("support-bundle", "--out", out, code=77)
        assert "never overwritten" in again.stderr


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_a_processor_without_avx2_is_told_before_there_is_a_container(deployed: Deployed) -> None:
    deployed.mounts.give_to_service()
    flags = re.sub(r"\bavx2\b", "", Path("/proc/cpuinfo").read_text())
    (deployed.mounts.license / "cpuinfo").write_text(flags)
    told = deployed.run("up", "--image", IMAGE, "--yes", *deployed.asked, "Core:CpuInfo=/license/cpuinfo", code=132)
    assert "AVX2" in told.stderr
    assert "Next step: run on a host" in told.stderr
    assert deployed.containers() == set()


def test_a_taken_port_leaves_nothing_behind(deployed: Deployed) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", deployed.port))
        other.listen()
        told = deployed.run("up", "--image", IMAGE, "--yes", *deployed.asked, code=69)
    assert "the port is taken" in told.stderr
    assert "--publish" in told.stderr
    assert deployed.containers() == set()


def test_another_ones_container_is_left_alone(deployed: Deployed) -> None:
    deployed.engine("create", "--name", deployed.name, IMAGE)
    for verb, words in (("up", ("--image", IMAGE, *deployed.asked)), ("down", ()), ("upgrade", ()), ("logs", ())):
        told = deployed.run(verb, *words, code=73)
        assert f"the name '{deployed.name}' is taken by a container" in told.stderr
    assert deployed.containers() == {deployed.name}


def test_what_is_missing_is_told(deployed: Deployed, tmp_path: Path) -> None:
    asked = deployed.asked
    assert "no image localhost/none" in deployed.run("up", "--image", "localhost/none:1", *asked, code=69).stderr
    assert "EULA" in deployed.run("up", "--image", IMAGE, *asked[:-1], code=64).stderr
    assert "there is no service" in deployed.run("status", code=69).stderr
    missing = deployed.run("up", "--image", IMAGE, "--license", tmp_path / "none", *asked[2:], code=65)
    assert "none is not there" in missing.stderr
    assert not (tmp_path / "none").exists()
    away = deployed.run("status", "--engine", f"unix://{tmp_path}/none.sock", code=69)
    assert "does not answer" in away.stderr
    assert deployed.containers() == set()


def test_an_image_of_another_architecture_is_refused(deployed: Deployed, tmp_path: Path) -> None:
    image = f"localhost/{deployed.name}:arm64"
    (tmp_path / "file").write_text("x")
    subprocess.run(["tar", "cf", "root.tar", "file"], cwd=tmp_path, check=True)
    labels = ("title=Tollgate", "version=9.9.9")
    changes = [word for label in labels for word in ("--change", f"LABEL org.opencontainers.image.{label}")]
    deployed.engine("import", "--arch", "arm64", *changes, tmp_path / "root.tar", image)
    try:
        told = deployed.run("up", "--image", image, *deployed.asked, code=65)
    finally:
        deployed.engine("rmi", image)
    assert "is for arm64" in told.stderr


def change_a_byte(path: Path, at: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        (there,) = stream.read(1)
        stream.seek(at)
        stream.write(bytes([there ^ 1]))


def how_it_was_made(deployed: Deployed) -> dict[str, Any]:
    """All that is told of a service but what changes by itself."""
    return deployed.facts("status") | {"status": None}


@long_form
def test_an_image_is_loaded_from_a_signed_bundle(deployed: Deployed, tmp_path: Path) -> None:
    image = f"localhost/{deployed.name}:loaded"
    (tmp_path / "Containerfile").write_text(f"FROM {IMAGE}\nLABEL test={deployed.name}\n")
    deployed.engine("build", "--quiet", "--network=none", "--format", "docker", "--tag", image, tmp_path)
    bundle = an_image_bundle(deployed.engine, image, KEY, tmp_path / "bundle.tar")
    deployed.engine("rmi", image)
    try:
        told = deployed.run("up", "--bundle", bundle, "--yes", *deployed.asked)
        assert f"signed by the key {public(KEY).fingerprint[:16]}" in told.stderr
        assert "loading the image" in told.stderr
        assert f"image      {image}" in told.stdout
        again = deployed.run("up", "--bundle", bundle, *deployed.asked)
        assert "loading the image" not in again.stderr
        assert "nothing was changed" in again.stdout
        before = how_it_was_made(deployed)
        assert before["releaseKey"] == public(KEY).fingerprint

        other = an_image_bundle(deployed.engine, image, OTHER_KEY, tmp_path / "other.tar")
        refused = deployed.run("upgrade", "--bundle", other, code=65)
        assert "Nothing was changed" in refused.stderr
        change_a_byte(bundle, bundle.stat().st_size - 3_000_000)
        refused = deployed.run("upgrade", "--bundle", bundle, "Core:Workers=1", code=65)
        assert "image.tar.gz is not what was signed" in refused.stderr
        assert how_it_was_made(deployed) == before
    finally:
        deployed.remove()
        deployed.engine("rmi", "--force", image, check=False)
        for path in tmp_path.glob("*.tar"):
            path.unlink()


@long_form
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_while_loading_is_told(engine: Engine, deployed: Deployed, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    engine("save", "--output", archive, IMAGE)
    disk = Path(tempfile.mkdtemp(prefix="disk-"))  # podman wants a short path
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", disk], check=True)
    try:
        small = Engine()
        small.options = ["--root", str(disk / "storage"), "--runroot", str(disk / "run")]
        small.environ["TMPDIR"] = str(disk)
        with an_engine_service(small) as address:
            deployed.address = address
            told = deployed.run("up", "--bundle", archive, *deployed.asked, code=69)
        assert "no space left on device" in told.stderr
        assert "free space" in told.stderr
    finally:
        archive.unlink()
        subprocess.run(["umount", "--recursive", "--lazy", disk], check=True)
        disk.rmdir()
