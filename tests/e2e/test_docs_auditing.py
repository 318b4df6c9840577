"""docs/auditing.md: every command runs, against records that the service made, and prints what it says.

Also: every verdict and range is explained, and what auditing.md and security.md name is there.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from licenses.usage_log.report import Coverage, Verdict
from tests.docs import PROJECT, run_document
from tests.e2e.site import Site, command, wait_until
from tests.pages import LINES, as_pdf, as_png, printed_page

DOCUMENT = PROJECT / "docs" / "auditing.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
SECURITY = (PROJECT / "docs" / "security.md").read_text(encoding="utf-8")
PAGE = as_png(printed_page(LINES[:2], size=(900, 300)))


class Appliance(Site):
    """A site with a production licence of vendor.example: windows close as the meter stops; no mark of evaluation."""

    def __init__(self) -> None:
        super().__init__()
        shutil.rmtree(self.folder / "vendor")
        self.licenses("keygen", "--out", self.folder / "vendor", "--vendor", "vendor.example")
        self.issue("--days", "365")

    def read(self, pages: int) -> None:
        self.result(self.submit(as_pdf([printed_page(LINES[:2], size=(900, 300))] * pages)))

    def close_window(self) -> None:
        """Stop the meter, which takes its lease back; the launcher starts it again, and it opens the next window."""
        lease = self.folder / "state" / "lease.dsse.json"
        before = lease.stat().st_mtime_ns
        (meter,) = self.processes("meter")
        meter.terminate()

        def opened() -> bool:
            with contextlib.suppress(FileNotFoundError):
                return lease.stat().st_mtime_ns != before
            return False

        wait_until(opened, 30, "no new window is open")
        self.wait_ready()

    def usage(self, *words: str | Path) -> str:
        """One of the commands that exchange usage; what it printed."""
        done = command("sidecar", "usage", *words, *self.words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def exchange(self) -> None:
        """A bundle to the vendor, an acknowledgement back."""
        self.usage("export", "--out", self.folder / "out")
        (bundle,) = (self.folder / "out").iterdir()
        key = self.folder / "state" / "device.pub"
        back = self.folder / "back"
        self.licenses("acknowledge", bundle, "--keys", self.folder / "vendor", "--device-key", key, "--out", back)
        (ack,) = back.iterdir()
        self.usage("import-ack", ack)

    @property
    def records(self) -> Path:
        (folder,) = (self.folder / "output" / "computervisionread").iterdir()
        return folder


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that an auditor works in, as the document describes it; the appliance goes on meanwhile."""
    folder = tmp_path_factory.mktemp("audit")
    site = Appliance()
    try:
        (folder / "pinned").mkdir()
        site.start()
        site.read(2)
        site.close_window()
        shutil.copy(site.records / "checkpoint", folder / "pinned" / "checkpoint")
        site.read(3)
        site.close_window()
        site.read(1)
        site.close_window()
        site.exchange()
        site.read(4)
        assert site.stop() == 0
        for path in (site.trust_root, site.folder / "state" / "device.pub"):
            shutil.copy(path, folder / "pinned")
        shutil.copy(site.license_file, folder)
        shutil.copytree(site.folder / "output", folder / "received")
        site.usage("export", "--out", folder)
        (folder / "statement.txt").write_text(json.loads(site.usage("qr", "--json"))["statement"])
        for name, block in re.findall(r"^```(?:bash|jq) (\S+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE):
            (folder / name).write_text(block)
        site.start()
        (folder / "state").symlink_to(site.folder / "state")
        yield folder
    finally:
        site.remove()


def test_commands_of_the_document_run(audit: Path) -> None:
    assert run_document(DOCUMENT, audit) >= 20


def edit(records: Path) -> None:
    first, *_ = files_of(records)
    first.chmod(0o640)
    first.write_bytes(first.read_bytes().replace(b'"quantity":1', b'"quantity":2', 1))


def swap(records: Path) -> None:
    first, *_ = files_of(records)
    lines = first.read_bytes().splitlines(keepends=True)
    first.chmod(0o640)
    first.write_bytes(b"".join([*lines[:3], lines[4], lines[3], *lines[5:]]))


def drop(records: Path) -> None:
    files_of(records)[1].unlink()


def cut(records: Path) -> None:
    files_of(records)[-1].unlink()


def double(records: Path) -> None:
    last = files_of(records)[-1]
    lines = last.read_bytes().splitlines(keepends=True)
    last.chmod(0o640)
    last.write_bytes(b"".join([*lines[:3], lines[2], *lines[3:]]))


def roll_back(records: Path) -> None:
    """To before what the auditor kept, with a good checkpoint for what is left: all but the first file."""
    for path in files_of(records)[1:]:
        path.unlink()
    shutil.rmtree(records / "checkpoints")
    (records / "checkpoint").unlink()
    (records / "checkpoint").write_text("vendor.example/0\n1\n\n\n")


def exchange_ack(records: Path) -> None:
    (ack,) = (records / "acks").iterdir()
    envelope = json.loads(ack.read_bytes())
    told = json.loads(base64.b64decode(envelope["payload"]))
    told["totals"][0]["quantity"] += 1
    envelope["payload"] = base64.b64encode(json.dumps(told).encode()).decode()
    ack.chmod(0o640)
    ack.write_text(json.dumps(envelope))


def files_of(records: Path) -> list[Path]:
    return sorted(records.glob("usage/*/*/*.jsonl"), key=lambda path: int(path.name.split("-")[0]))


@pytest.fixture
def by_hand(audit: Path, tmp_path: Path) -> Path:
    """The steps without our verifier as a document of its own, with a copy of what they need beside it."""
    section = re.search(r"^## The same by hand$.*?(?=^## )", TEXT, re.DOTALL | re.MULTILINE)
    assert section
    (tmp_path / "by-hand.md").write_text(section[0])
    for name in ("received", "pinned"):
        shutil.copytree(audit / name, tmp_path / name)
    for name in ("tree.sh", "months.jq"):
        shutil.copy(audit / name, tmp_path)
    return tmp_path / "by-hand.md"


def test_hand_work_stands_alone(by_hand: Path) -> None:
    assert run_document(by_hand, by_hand.parent) >= 20


@pytest.mark.parametrize("harm", [edit, swap, drop, cut, double, roll_back, exchange_ack])
def test_hand_work_says_no(by_hand: Path, harm: Callable[[Path], None]) -> None:
    (records,) = (by_hand.parent / "received" / "computervisionread").iterdir()
    harm(records)
    with pytest.raises(AssertionError, match=r"by-hand\.md, line"):
        run_document(by_hand, by_hand.parent)


def test_report_looks_as_the_document_shows_it(audit: Path) -> None:
    (sample,) = re.findall(r"```text\n(Instance .*?)```", TEXT, re.DOTALL)
    done = command(
        "usage-verify",
        audit / "received",
        "--trust-root",
        audit / "pinned" / "trust-root.json",
        "--device-key",
        audit / "pinned" / "device.pub",
    )
    words = [{line.split()[0] for line in text.splitlines() if line[:1].strip()} for text in (sample, done.stdout)]
    assert words[0] - {"NOTE"} <= words[1]
    assert any(line.startswith("  20") and line.endswith("  sealed") for line in done.stdout.splitlines())


def test_findings_that_an_auditor_must_judge_are_explained() -> None:
    sources = [path.read_text() for path in (PROJECT / "licenses" / "usage_log").glob("*.py")]
    codes = {code for text in sources for code in re.findall(r'Severity\.(?:GAP|NOTE),\s*"([a-z_]+)"', text)}
    codes |= {
        code for text in sources for code in re.findall(r'Severity\.NOTE, "(overage)" if .* else "over_quota"', text)
    }
    assert len(codes) >= 15
    for code in codes:
        assert f"`{code}`" in TEXT, code


def test_every_verdict_and_range_is_explained() -> None:
    for word in (*Verdict, *Coverage):
        assert f"**{word.value.upper()}**" in TEXT, word


@pytest.mark.parametrize("text", [TEXT, SECURITY], ids=["auditing", "security"])
def test_everything_named_is_there(text: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (PROJECT / "docs" / target).exists(), target
    for target in re.findall(r"`((?:tests|licenses|sidecar|ocr_core)/[\w/.]*)`", text):
        assert (PROJECT / target).exists(), target
