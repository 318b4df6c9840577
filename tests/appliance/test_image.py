"""The image, run by the lines that its documentation shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import sidecar
from licenses.model import READ_PAGES_METER
from tests.appliance.conftest import Mounts, Vendor
from tests.appliance.engine import IMAGE, USER, Container, Engine, Terminal
from tests.e2e.site import command, free_port, wait_until
from tests.fakes.billing import FakeBilling

STARTED = "Application started."
HEALTH = "/opt/tollgate/current/bin/sidecar"
CORE = "/opt/tollgate/current/bin/ocr-core"
KEY = "0123456789abcdef0123456789abcdef"
MOST_BYTES = 600_000_000
PAGES = 2
"""What the official client's script has read: a page by Read, and the same by OCR."""


@pytest.fixture
def port() -> int:
    return free_port()


def volumes(mounts: Mounts) -> list[str]:
    return ["-v", f"{mounts.license}:/license", "-v", f"{mounts.output}:/output"]


def read_by_the_official_client(port: int, picture: Path) -> dict[str, object]:
    script = Path(__file__).resolve().parents[1] / "e2e" / "official_client.py"
    done = subprocess.run(
        [sys.executable, script, f"http://127.0.0.1:{port}", picture],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def documented_line(engine: Engine, mounts: Mounts, port: int, *options: str) -> Terminal:
    return Terminal(
        engine.words(
            "run", "--rm", "-it", "-p", f"127.0.0.1:{port}:5000", "--memory", "16g", "--cpus", "2", *options,
            *volumes(mounts), IMAGE, "eula=accept", "Mounts:License=/license", "Mounts:Output=/output",
        ),
        engine.environ,
    )  # fmt: skip


def pages(port: int) -> int:
    return int(requests.get(f"http://127.0.0.1:{port}/status", timeout=10).json()["metering"]["pages"])


def test_the_documented_line(engine: Engine, mounts: Mounts, picture: Path, port: int, vendor: Vendor) -> None:
    mounts.give_to_service()
    terminal = documented_line(engine, mounts, port)
    terminal.wait_for(STARTED, 60)
    assert read_by_the_official_client(port, picture)["status"] == "succeeded"
    assert terminal.press_ctrl_c(10) == 0
    (record,) = mounts.records()
    assert (record.stat().st_uid, record.stat().st_gid) == (USER, USER)
    assert '"kind":"use"' in record.read_text()
    assert "window closed at shutdown" in terminal.seen()
    assert "Using '/output/state' for ledger and device key" in terminal.seen()


def test_the_documented_line_goes_on_where_the_last_container_ended(
    engine: Engine, mounts: Mounts, picture: Path, port: int, vendor: Vendor
) -> None:
    """It mounts no volume and takes the container away; device, count and records go on, also after a power cut."""
    mounts.give_to_service()
    first = documented_line(engine, mounts, port, "--name", f"first-{port}")
    first.wait_for(STARTED, 60)
    assert read_by_the_official_client(port, picture)["status"] == "succeeded"
    engine("kill", "--signal", "KILL", f"first-{port}")  # all at once, and nothing was closed
    wait_until(lambda: engine("container", "exists", f"first-{port}", check=False).returncode, 30, "it is still there")
    second = documented_line(engine, mounts, port)
    second.wait_for(STARTED, 60)
    wait_until(lambda: pages(port) == PAGES, 10, "the pages of the first container are not counted")
    assert read_by_the_official_client(port, picture)["status"] == "succeeded"
    assert second.press_ctrl_c(10) == 0
    assert len(list((mounts.output / "computervisionread").iterdir())) == 1
    assert mounts.output.joinpath("state").stat().st_mode & 0o777 == 0o700
    pinned = mounts.output / "state" / "device.pub"
    done = command("usage-verify", mounts.output, "--trust-root", vendor.trust_root, "--device-key", pinned, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (told,) = json.loads(done.stdout)["instances"]
    assert (told["verdict"], told["meters"]) == ("good", {READ_PAGES_METER: 2 * PAGES})


def test_a_volume_for_the_state_is_used_and_commands_beside_the_service_find_it(
    engine: Engine, mounts: Mounts, port: int
) -> None:
    mounts.give_to_service()
    volume = f"state-{port}"
    try:
        with engine.container("-v", f"{volume}:/var/lib/sidecar", *volumes(mounts), IMAGE, "eula=accept") as container:
            wait_until(lambda: container.exits(HEALTH, "health") == 0, 60, container.log())
            assert "/var/lib/sidecar/ledger.db" in container.run(HEALTH, "ledger", "status")
            assert not (mounts.output / "state").exists()
        with engine.container(*volumes(mounts), IMAGE, "eula=accept") as container:
            wait_until(lambda: container.exits(HEALTH, "health") == 0, 60, container.log())
            assert "/output/state/ledger.db" in container.run(HEALTH, "ledger", "status")
            # One more on the same output mount has a state of its own, and is told what becomes of it.
            with engine.container(*volumes(mounts), IMAGE, "eula=accept") as other:
                wait_until(lambda: other.exits(HEALTH, "health") == 0, 60, other.log())
                assert "end with this container" in other.log()
                assert "-v tollgate-state:/var/lib/sidecar" in other.log()
                assert "/var/lib/sidecar/ledger.db" in other.run(HEALTH, "ledger", "status")
    finally:
        engine("volume", "rm", "--force", volume, check=False)


@pytest.fixture
def hardened(engine: Engine, mounts: Mounts, port: int) -> Iterator[Container]:
    """All that an orchestrator may take away is taken away; settings by the environment."""
    mounts.give_to_service()
    with engine.container(
        "--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--cpus=1",
        "--memory=4g", "-p", f"127.0.0.1:{port}:5000", *volumes(mounts), "--env", "EULA=accept",
        "--env", "Mounts__License=/license", "--env", "Mounts:Output=/output", IMAGE,
    ) as container:  # fmt: skip
        wait_until(lambda: container.exits(HEALTH, "health") == 0, 60, container.log())
        yield container


def test_nothing_but_the_mounts_is_needed(hardened: Container, picture: Path, port: int) -> None:
    assert read_by_the_official_client(port, picture)["status"] == "succeeded"
    assert "1 pages at once" in hardened.log()  # by the quota of CPUs
    assert hardened.run("id", "-u").strip() == str(USER)


def test_little_memory_makes_fewer_workers_and_says_why(engine: Engine, mounts: Mounts, port: int) -> None:
    mounts.give_to_service()
    with engine.container("--cpus=2", "--memory=2g", *volumes(mounts), IMAGE, "eula=accept") as container:
        wait_until(lambda: STARTED in container.log(), 60, container.log())
        assert "1 pages at once" in container.log()
        assert "fewer pages at once than the 2 CPUs would do, for there are 2048 MiB of memory" in container.log()


@pytest.fixture
def billing() -> Iterator[FakeBilling]:
    fake = FakeBilling()
    yield fake
    fake.close()


def download(engine: Engine, url: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """With the host's network, to reach the endpoint that listens there."""
    return engine(
        "run", "--rm", "--network=host", *words[:-1] if words else (), IMAGE, "eula=accept", f"billing={url}",
        f"apikey={KEY}", "DownloadLicense=True", words[-1] if words else "Mounts:License=/license", check=False,
    )  # fmt: skip


def test_a_licence_is_downloaded(engine: Engine, mounts: Mounts, billing: FakeBilling) -> None:
    blob = (mounts.license / "license.dat").read_bytes()
    (mounts.license / "license.dat").unlink()
    mounts.give_to_service()
    billing.answer = (200, blob, {})
    done = download(engine, billing.url, "-v", f"{mounts.license}:/license", "Mounts:License=/license")
    assert done.returncode == 0, done.stderr
    assert "EVALUATION licence" in done.stdout
    written = mounts.license / "license.dat"
    found = written.stat()
    assert written.read_bytes() == blob
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (USER, USER, 0o640)
    assert billing.requests[0][1]["Ocp-Apim-Subscription-Key"] == KEY


def test_a_download_that_fails_ends_with_its_code(engine: Engine, mounts: Mounts, billing: FakeBilling) -> None:
    mount = ("-v", f"{mounts.license}:/license", "Mounts:License=/license")
    before = (mounts.license / "license.dat").read_bytes()
    not_ours = download(engine, billing.url, *mount)
    assert (not_ours.returncode, billing.requests) == (77, [])
    assert f"chown -R {USER}:{USER} /license" in not_ours.stderr
    mounts.give_to_service()
    billing.answer = (401, b"", {})
    for done, code in (
        (download(engine, billing.url, *mount), 78),
        (download(engine, f"http://127.0.0.1:{free_port()}", *mount), 69),
        (download(engine, billing.url, "Mounts:License=/nowhere"), 65),
    ):
        assert done.returncode == code, done.stderr
        assert "Next step:" in done.stderr
        assert KEY not in done.stdout + done.stderr
    assert (mounts.license / "license.dat").read_bytes() == before


def test_without_the_terms_accepted_nothing_starts(engine: Engine, mounts: Mounts) -> None:
    done = engine("run", "--rm", *volumes(mounts), IMAGE, check=False)
    assert done.returncode == 64
    assert "eula=accept" in done.stderr


def test_who_sees_documents_can_make_no_socket(engine: Engine, mounts: Mounts) -> None:
    """Also where the core shares the network of others, as in a pod: its own filter keeps it off."""
    mounts.give_to_service()
    with engine.container("--cap-drop=ALL", "--entrypoint", CORE, *volumes(mounts), IMAGE, "--self-test") as container:
        wait_until(lambda: "workers" in container.log(), 120, "the self-test did not end")
        (told,) = [line for line in container.log().splitlines() if "confinement" in line]
        assert "system calls" in told


def test_a_wrong_owner_is_told_with_the_command_that_mends_it(engine: Engine, mounts: Mounts, port: int) -> None:
    for folder in (mounts.license, mounts.license / "license.dat"):
        folder.chmod(0o755)
    with engine.container(
        "-p", f"127.0.0.1:{port}:5000", *volumes(mounts), IMAGE, "eula=accept",
    ) as container:  # fmt: skip
        wait_until(lambda: STARTED in container.log(), 60, container.log())
        assert f"chown -R {USER}:{USER} /output" in container.log()
        assert requests.get(f"http://127.0.0.1:{port}/status", timeout=10).json()["state"] == "OUTPUT_UNWRITABLE"
        mounts.give_to_service()
        state = lambda: requests.get(f"http://127.0.0.1:{port}/status", timeout=10).json()["state"]  # noqa: E731
        wait_until(lambda: state() == "ACTIVE", 30, "the mended folder is not taken up")


def test_what_the_image_says_of_itself(engine: Engine) -> None:
    (facts,) = json.loads(engine("image", "inspect", IMAGE).stdout)
    config = facts["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == [HEALTH]
    assert facts["Healthcheck"]["Test"] == ["CMD", HEALTH, "health"]
    labels = {name.rpartition("image.")[2]: value for name, value in config["Labels"].items()}
    assert labels.keys() >= {"title", "description", "licenses", "vendor", "base.name"}
    assert labels["version"] == sidecar.__version__
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?|unknown", labels["revision"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels["created"])
    assert facts["Size"] < MOST_BYTES
    print(f"{IMAGE}: {facts['Size'] / 1e6:.0f} MB")  # noqa: T201
    bom = json.loads(
        engine(
            "run", "--rm", "--network=none", "--entrypoint", "cat", IMAGE, "/usr/share/tollgate/sbom.cdx.json"
        ).stdout
    )
    assert bom["bomFormat"] == "CycloneDX"
    assert {"pkg:pypi/tesserocr", "pkg:deb/debian/libc6"} <= {
        part["purl"].partition("@")[0] for part in bom["components"] if "purl" in part
    }


def test_the_vendors_side_is_not_in_the_image(engine: Engine) -> None:
    """Who holds an appliance holds nothing that issues acknowledgements or keeps the vendor's books."""
    tool = str(Path(HEALTH).with_name("licenses"))
    alone = ("run", "--rm", "--network=none", "--entrypoint", tool, IMAGE)
    assert engine(*alone, "--version").returncode == 0
    for words in (("authority", "init"), ("acknowledge", "bundle", "--keys", "keys", "--out", "out")):
        told = engine(*alone, *words, check=False)
        assert told.returncode != 0
        assert "no part of an appliance" in told.stdout + told.stderr
        assert "Traceback" not in told.stderr
