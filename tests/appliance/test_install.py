"""install.sh on a booted Debian without a network: first, again, upward, not upward, interrupted, and off again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance.conftest import Vendor
from tests.appliance.engine import Engine
from tests.appliance.machine import STICK, Machine, a_machine
from tests.appliance.releases import Releases
from tests.fakes.releases import OTHER_KEY

UNSEEN = ("/proc", "/sys", "/dev", "/run", "/media", "/var/log")
SNAPSHOT = (
    f"find / -xdev \\( {' -o '.join(f'-path {path}' for path in UNSEEN)} \\) -prune "
    "-o -printf '%p %y %m %U %G %s %T@ %l\\n' | grep -v '^/var/lib/systemd/timers ' | sort"
)


class Box:
    """A booted machine, and the stick in it.

    Args:
        machine: It.
        vendor: Issues its licence.
        releases: What can be put on the stick.
    """

    def __init__(self, machine: Machine, vendor: Vendor, releases: Releases) -> None:
        self.machine = machine
        self.releases = releases
        self.license = vendor.issue(machine.stick / "license.dat").name
        self.put(releases.make(releases.version))

    def put(self, bundle: Path) -> str:
        """Put a bundle on the stick, once; where it is on the machine."""
        target = self.machine.stick / bundle.name
        if not target.exists():
            shutil.move(bundle, target)
        return f"{STICK}/{bundle.name}"

    def unpack(self, version: str) -> str:
        """Unpack a bundle of the stick; its installer."""
        self.machine.run("tar", "xf", f"{STICK}/tollgate-{version}-x86_64.tar", "-C", "/root")
        return f"/root/tollgate-{version}/install.sh"

    def installs(self, *words: str) -> tuple[int, str]:
        """Run an installer to its end: its exit code, and what it said."""
        done = self.machine.shell(" ".join(words))
        print(f"$ {' '.join(words)}\n{done.stdout}({done.returncode})")  # noqa: T201
        return done.returncode, done.stdout

    def snapshot(self) -> str:
        return self.machine.shell(SNAPSHOT).stdout

    def version(self) -> str:
        return self.machine.run("sidecar", "--version").split()[-1]

    def verdict(self) -> str:
        """What an auditor's check says of all records."""
        return self.machine.shell(
            "usage-verify /var/lib/tollgate/output --trust-root /etc/tollgate/trust-root.json "
            "--device-key /var/lib/sidecar/device.pub"
        ).stdout


@pytest.fixture(scope="module")
def box(bare: Engine, vendor: Vendor, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    releases = Releases(bundle, tmp_path_factory.mktemp("releases"))
    with a_machine(bare) as machine:
        yield Box(machine, vendor, releases)


@pytest.fixture(scope="module")
def served(box: Box, picture: Path) -> Box:
    """The box after its first installation, with a page counted."""
    code, told = box.installs(box.unpack(box.releases.version), f"--accept-eula --licence {STICK}/license.dat")
    assert code == 0, told
    assert "Ready after" in told
    assert box.machine.read(picture).status_code == 200
    return box


def test_check_changes_nothing(box: Box) -> None:
    installer = box.unpack(box.releases.version)
    before = box.snapshot()
    code, told = box.installs(installer, "--check")
    assert code == 0
    assert {line[:4].strip() for line in told.splitlines() if re.match(r"( {2}ok|warn|fail) ", line)} == {"ok", "warn"}
    for name in ("bundle", "processor", "C library", "Python", "systemd", "programs", "users", "installed", "port"):
        assert f"\n  ok  {name}" in f"\n{told}"
    assert "Nothing was changed." in told
    assert box.snapshot() == before
    code, told = box.installs("runuser -u nobody -- cat /root/.profile;", "cp -r /root/tollgate-* /tmp/;",
                              f"runuser -u nobody -- {installer.replace('/root', '/tmp')} --check --json; code=$?;",
                              "rm -r /tmp/tollgate-*; exit $code")  # fmt: skip
    assert code == 0
    assert '"result": "warn"' in told


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("printf x >> wheelhouse/click-*.whl", "bundle_changed"),
        ("sed -i 's/root/Root/' install.sh", "bundle_changed"),
        ("sed -i 's/Nothing/nothing/' installer/appliance/errors.py", "bundle_changed"),
        ("sed -i 's/Nothing/nothing/' installer/appliance/errors.py; rm checksums.txt", "bundle_changed"),
        ("chmod 666 trust-root.json", "bundle_changed"),
        ("rm docs/running.md", "bundle_missing_file"),
        ("mv docs/running.md docs/walking.md", "bundle_foreign_file"),
        ("touch wheelhouse/more.whl", "bundle_foreign_file"),
        ("ln -sf /etc/passwd docs/passwd", "bundle_foreign_file"),
        ("sed -i 's/A/B/' manifest.dsse", "bundle_format|release_signature"),
    ],
)
def test_a_changed_bundle_is_refused_before_anything_is_changed(box: Box, damage: str, code: str) -> None:
    box.machine.run("rm", "-rf", "/root/damaged")
    box.machine.shell(f"cp -a /root/tollgate-{box.releases.version} damaged; cd damaged; {damage}")
    before = box.snapshot()
    exit_code, told = box.installs("/root/damaged/install.sh", "--accept-eula")
    assert exit_code == 65
    assert re.search(rf"install\.sh: ({code}): ", told), told
    assert "Next step: " in told
    assert box.snapshot() == before
    box.machine.run("rm", "-rf", "/root/damaged")


def test_a_machine_without_python_is_told_what_is_missing(box: Box) -> None:
    installer = box.unpack(box.releases.version)
    for change, name in (
        ("chmod -x /usr/bin/python3.11", "python_missing|python_too_old"),
        ("mv /usr/bin/python3 /usr/bin/python3.away", "python_missing"),
    ):
        undo = "chmod +x /usr/bin/python3.11" if "chmod" in change else "mv /usr/bin/python3.away /usr/bin/python3"
        code, told = box.installs(f"{change}; {installer} --check; code=$?; {undo}; exit $code")
        assert code == 69
        assert re.search(rf"install\.sh: ({name}): ", told)


def test_wrong_words_and_a_wrong_user(box: Box) -> None:
    installer = box.unpack(box.releases.version)
    assert box.installs(installer, "--frobnicate")[0] == 64
    assert box.installs(installer, "--check --uninstall")[0] == 64
    assert box.installs(installer, "--release-key /nothing")[0] == 65
    code, told = box.installs(
        "cp -r /root/tollgate-* /tmp/;", f"runuser -u nobody -- {installer.replace('/root', '/tmp')}; code=$?;",
        "rm -r /tmp/tollgate-*; exit $code",
    )  # fmt: skip
    assert code == 77
    assert "sudo" in told
    assert box.installs(installer, "--help")[0] == 0


def test_it_serves_and_again_changes_nothing(served: Box, picture: Path) -> None:
    before = served.machine.pages()
    pid = served.machine.pid("ocr-sidecar-web.service")
    code, told = served.installs(f"/root/tollgate-{served.releases.version}/install.sh")
    assert code == 0
    assert "is made already" in told
    assert served.machine.pid("ocr-sidecar-web.service") == pid
    assert served.machine.pages() == before
    code, told = served.installs("tollgate-install --check")
    assert code == 0, told
    assert "/usr/local/lib/systemd/system" in served.machine.property("ocr-core.service", "FragmentPath")
    assert served.machine.run("systemctl", "is-enabled", "ocr-sidecar.target").strip() == "enabled"


def test_an_upgrade_keeps_totals_and_records(served: Box, picture: Path) -> None:
    before = served.machine.pages()
    key = served.machine.run("cat", "/var/lib/sidecar/device.pub")
    served.put(served.releases.make("0.2.0"))
    code, told = served.installs(f"{served.unpack('0.2.0')}")
    assert code == 0
    assert "the meter closes its window" in told
    assert served.version() == "0.2.0"
    assert served.machine.pages() == before
    assert served.machine.read(picture).status_code == 200
    assert served.machine.pages() == before + 1
    assert served.machine.run("cat", "/var/lib/sidecar/device.pub") == key
    assert "VERDICT: GOOD" in served.verdict()
    assert served.machine.shell("ls -d /opt/tollgate/*-*").stdout.count("\n") == 1


def test_what_does_not_come_up_is_rolled_back(served: Box, picture: Path) -> None:
    before, version = served.machine.pages(), served.version()
    bundle = served.put(served.releases.make("0.3.0", works=False))
    code, told = served.installs("tollgate-install --bundle", bundle, "--wait 90")
    assert code == 70
    assert f"0.3.0 did not come up, so {version} serves again" in told
    assert served.version() == version
    assert served.machine.is_ready()
    assert served.machine.pages() == before
    assert served.machine.read(picture).status_code == 200
    assert served.machine.pages() == before + 1
    assert "VERDICT: GOOD" in served.verdict()
    assert served.machine.shell("ls -d /opt/tollgate/*-*").stdout.count("\n") == 1


def test_another_release_key_is_refused(served: Box) -> None:
    bundle = served.put(served.releases.make("0.4.0", key=OTHER_KEY))
    before = served.snapshot()
    for installer in (
        f"tollgate-install --bundle {bundle}",
        f"/root/tollgate-{served.releases.version}/install.sh --bundle {bundle}",
    ):
        code, told = served.installs(installer)
        assert code == 65
        assert "install.sh: release_untrusted_key: " in told
    assert meters_aside(served.snapshot()) == meters_aside(before)
    served.machine.run("rm", "-f", bundle)


def meters_aside(snapshot: str) -> str:
    """A snapshot without what the running service writes."""
    return "\n".join(line for line in snapshot.splitlines() if not re.match(r"/var/lib/(sidecar|tollgate)|/tmp ", line))


def test_an_older_one_is_refused(served: Box) -> None:
    bundle = served.put(served.releases.make("0.0.9"))
    code, told = served.installs("tollgate-install --bundle", bundle)
    assert (code, "install.sh: downgrade: " in told) == (65, True)


@pytest.mark.parametrize("said", ["Making release", "Starting"])
def test_killed_in_the_middle_and_run_again_it_ends_well(served: Box, picture: Path, said: str) -> None:
    before, version = served.machine.pages(), served.version()
    number = int(version.split(".")[1])
    new = f"0.{max(number, 4) + 1}.0"
    installer = served.put(served.releases.make(new)) and served.unpack(new)
    code, told = served.installs(
        f"{installer} > killed.log 2>&1 & pid=$!;",
        f"until grep -q '{said}' killed.log; do kill -0 $pid || exit 9; sleep 0.05; done; sleep 0.3; kill -9 $pid;",
        "wait $pid; cat killed.log",
    )
    code = 73
    while code == 73:  # what it had started may be at work still, and holds the lock
        code, told = served.installs("sleep 1;", installer)
    assert code == 0, told
    assert served.version() == new
    assert served.machine.is_ready()
    assert served.machine.pages() == before
    assert served.machine.read(picture).status_code == 200
    assert served.machine.pages() == before + 1
    assert "VERDICT: GOOD" in served.verdict()
    assert served.machine.shell("ls -A /opt/tollgate").stdout.split()[0].startswith(new)


def test_uninstall_keeps_ledger_and_records_and_says_where(served: Box, picture: Path) -> None:
    before, version = served.machine.pages(), served.version()
    code, told = served.installs("tollgate-install --uninstall")
    assert code == 0
    for place in ("/var/lib/sidecar", "/var/lib/tollgate/output", "/etc/tollgate"):
        assert f"\n  {place} " in told
    assert "rm -r /var/lib/sidecar /var/lib/tollgate/output" in told
    assert (
        served.machine.shell(
            "ls /opt/tollgate /usr/local/bin /usr/local/sbin /usr/local/lib/systemd/system"
        ).stdout.count("ocr")
        == 0
    )
    assert not served.machine.shell("command -v sidecar").stdout
    assert served.machine.run("systemctl", "list-units", "--all", "--no-legend", "ocr-*").strip() == ""
    assert served.machine.run("stat", "--format=%U %a", "/var/lib/sidecar/ledger.db").split()[0] == "nonroot"
    assert served.machine.shell("ls /var/lib/tollgate/output/computervisionread/*/usage/*/*/*.jsonl").returncode == 0
    code, told = served.installs(f"/root/tollgate-{version}/install.sh")
    assert code == 0
    assert served.machine.pages() == before
    assert served.machine.read(picture).status_code == 200
    assert "VERDICT: GOOD" in served.verdict()
