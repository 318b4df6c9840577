"""The page: the verdict first, nothing from elsewhere, and nothing that records hold is ever markup."""

import html.parser
import json
import re
import shutil
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licenses.usage_log.charts import Bar, Row, Stretch, bar_chart, range_bar, timeline
from licenses.usage_log.page_style import VERDICT_MARKS
from licenses.usage_log.report import (
    Coverage,
    CoveredTime,
    EntryRange,
    Finding,
    InstanceReport,
    LicenseTerm,
    Report,
    Severity,
    Start,
    Verdict,
)
from licenses.usage_log.report_html import COVERAGE_WORDS, MAX_ROWS, Circumstances, html_text
from licenses.usage_log.verify import main, verify_records
from tests.fakes.licences import a_vendor
from tests.fakes.records import FakeMeter

VENDOR = a_vendor()
HOW = Circumstances(
    source="/mnt/output",
    vendor="vendor.example",
    trust_root_version=1,
    evaluation=False,
    pinned=["device-0123456789abcdef"],
    kept="",
    acks=0,
    licenses=None,
    strict=False,
    done_at=datetime(2027, 2, 1, 9, 0, tzinfo=UTC),
    version="0.1.0",
)
HOSTILE = "<script>alert(1)</script>\"'&</title><img src=x onerror=y>\u202e\x1b[31m"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class _Page(html.parser.HTMLParser):
    """Reads a page strictly: every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def _read(page: str) -> _Page:
    read = _Page()
    read.feed(page)
    read.close()
    assert read.open == []
    return read


def _page_of(meter: FakeMeter, **given) -> str:
    keys = [meter.device.verifying]
    return html_text(verify_records(meter.folder, VENDOR.trust_root, device_keys=keys, **given), HOW)


@pytest.fixture
def meter(tmp_path):
    meter = FakeMeter(tmp_path / "output")
    for uses in (3, 4, 5):
        meter.window(uses=uses)
        meter.wait(20 * 3600 * 1000)
        meter.entry("boot", boot_id=meter.boot_id)
    meter.window()
    return meter


def test_page_tells_what_the_audit_found(meter):
    page = _read(_page_of(meter))
    words = " ".join(page.words)
    for expected in (
        "GOOD", "complete, unchanged", meter.origin, "12", "device-0123456789abcdef", "2027-01", "2027-01-16",
        meter.license_id, "The meter started 4 times", "20 h", "no gap between them", "sealed by the pinned device key",
        "Monday 2027-02-01 09:00:00 UTC",
    ):  # fmt: skip
        assert expected in words


def test_files_are_counted_in_the_singular_too(tmp_path, capsys):
    meter, root = FakeMeter(tmp_path / "output"), tmp_path / "root.json"
    root.write_bytes(VENDOR.trust_root_blob)
    for told in ("in 1 file ", "in 2 files "):
        meter.window(uses=1)
        assert told in " ".join(_read(_page_of(meter)).words)
        main([str(meter.folder), "--trust", str(root)])
        assert told in capsys.readouterr().out


def test_verdict_stands_before_everything_else(meter):
    page = _page_of(meter)
    assert page.index('class="verdict v-good"') < page.index("<h2>")


@pytest.mark.parametrize("name", ["0", "~"])
def test_total_of_two_copies_of_a_log_is_that_of_the_larger(tmp_path, name):
    """Whether the older copy's name comes before the other's or after it."""
    meter = FakeMeter(tmp_path)
    meter.window(uses=3)
    shutil.copytree(meter.folder, meter.folder.parent / name)
    meter.window(uses=39)
    report = verify_records(tmp_path, VENDOR.trust_root, device_keys=[meter.device.verifying])
    assert len(report.instances) == 2
    page = html_text(report, HOW)
    assert re.findall(r'<p class="total"><strong>([^<]*)', page) == ["42"]


def test_page_needs_nothing_from_elsewhere(meter):
    page = _page_of(meter)
    read = _read(page)
    assert {"script", "img", "link", "iframe", "object", "base", "form"}.isdisjoint(tag for tag, _ in read.tags)
    assert not [attrs for _, attrs in read.tags if {"src", "href", "action", "style"} & attrs.keys()]
    assert not [attrs for _, attrs in read.tags if any(name.startswith("on") for name in attrs)]
    assert "://" not in page
    assert "@import" not in page
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {f"#p-{coverage.value}" for coverage in Coverage}


def test_page_can_be_read_without_eyes(meter):
    page = _page_of(meter)
    read = _read(page)
    assert dict(read.tags[[tag for tag, _ in read.tags].index("html")][1]) == {"lang": "en"}
    charts = [attrs for tag, attrs in read.tags if tag == "svg" and attrs.get("class") == "chart"]
    assert len(charts) == 4
    identities = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(set(identities)) == len(identities)
    for chart in charts:
        assert chart["role"] == "img"
        assert set(str(chart["aria-labelledby"]).split()) <= set(identities)
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in read.tags if tag == "th")


@pytest.mark.parametrize("verdict", Verdict)
def test_each_verdict_has_a_mark_and_words_of_its_own(verdict):
    severities = {
        Verdict.TAMPERED: Severity.TAMPERED,
        Verdict.UNREADABLE: Severity.UNREADABLE,
        Verdict.GAPS: Severity.GAP,
    }
    findings = [Finding(severities[verdict], "code", "", "Something.")] if verdict in severities else []
    one = InstanceReport(
        instance="one",
        pinned_key="" if verdict is Verdict.UNPINNED else "device-1",
        unanchored="so it is" if verdict is Verdict.UNANCHORED else "",
        ranges=(EntryRange(0, 1, Coverage.UNSEALED if verdict is Verdict.UNSEALED else Coverage.SEALED),),
        findings=findings,
    )
    report = Report(instances=(one,))
    assert report.verdict is verdict
    page = html_text(report, HOW)
    assert f'<p class="word">{verdict.value.upper()}</p>' in page
    assert f'class="verdict v-{verdict.value}"' in page
    assert _read(page).open == []


def test_marks_of_good_and_bad_differ_in_shape():
    shapes = {
        verdict: re.sub(r'(aria-label="[^"]*"|<title>.*</title>)', "", mark) for verdict, mark in VERDICT_MARKS.items()
    }
    graver = (Verdict.GOOD, Verdict.UNSEALED, Verdict.GAPS, Verdict.UNREADABLE, Verdict.TAMPERED)
    assert len({shapes[verdict] for verdict in graver}) == len(graver)


def test_nothing_that_records_hold_is_markup(tmp_path):
    meter = FakeMeter(tmp_path / "output")
    meter.entry("license", in_force=True, license_id=HOSTILE, sequence=7, evaluation=False)
    entry = json.loads(meter.use())
    meter.lines.pop()
    meter._pending.pop()
    hostile = {**entry, "meter": {"name": HOSTILE, "quantity": 3}}
    meter.entry(
        "use",
        **{name: value for name, value in hostile.items() if not name.endswith("_ms") and name not in ("seq", "kind")},
    )
    meter.window(uses=1)
    (meter.folder / "usage" / (HOSTILE.replace("/", "") + ".txt")).touch()
    page = _page_of(meter)
    read = _read(page)
    assert "script" not in {tag for tag, _ in read.tags}
    assert "img" not in {tag for tag, _ in read.tags}
    assert "alert(1)" in " ".join(read.words)
    assert "\u202e" not in page
    assert "\x1b" not in page


texts = st.text(max_size=30) | st.just(HOSTILE)
instants = st.integers(0, 2**53 - 1)


@st.composite
def instances(draw) -> InstanceReport:
    """Any report of an instance, however senseless."""
    sums = st.dictionaries(texts, st.integers(0, 10**12), max_size=9)
    months = draw(st.dictionaries(st.sampled_from(["2027-01", "2027-03", "9999-12", "beyond"]), sums))
    ends = sorted(draw(st.sets(st.integers(1, 10**9), max_size=8)))
    pairs = [sorted(pair) for pair in draw(st.lists(st.tuples(instants, instants), min_size=1, max_size=4))]
    return InstanceReport(
        instance=draw(texts),
        origin=draw(texts),
        counts=draw(sums),
        meters={**{name: 1 for meters in months.values() for name in meters}, **draw(sums)},
        months=months,
        days={f"{month}-01": meters for month, meters in months.items()},
        ranges=tuple(
            EntryRange(first, end, draw(st.sampled_from(Coverage))) for first, end in pairwise([0, *ends])
        ),
        starts=tuple(
            Start(seq=number, at_ms=until_ms, since_ms=draw(st.sampled_from([from_ms, None])), in_good_order=False)
            for number, (from_ms, until_ms) in enumerate(pairs)
        ),
        covered=tuple(CoveredTime(from_ms, until_ms, 1) for from_ms, until_ms in pairs),
        terms=tuple(
            LicenseTerm(
                license_id=draw(texts), sequence=1, evaluation=True, from_ms=from_ms, until_ms=until_ms,
                last_use_ms=None, expires_at=draw(instants), meters=draw(sums),
            )
            for from_ms, until_ms in pairs
        ),
        first_ms=draw(instants),
        last_ms=draw(instants),
        findings=[Finding(Severity.NOTE, "code", draw(texts), draw(texts))],
    )  # fmt: skip


@given(instances())
@settings(deadline=None)
def test_page_of_any_report_is_whole(one):
    page = html_text(Report(instances=(one, one)), HOW)
    read = _read(page)
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "img"})
    page.encode("utf-8")


def test_lists_are_bounded_and_say_so():
    findings = [Finding(Severity.NOTE, "code", "", f"Number {number}.") for number in range(MAX_ROWS + 7)]
    one = InstanceReport(instance="one", findings=findings, suppressed=3)
    page = html_text(Report(instances=(one,)), HOW)
    assert "10 more of the same kinds are not listed" in page
    assert "Number 99." in page
    assert "Number 100." not in page


def test_evaluation_is_said_on_top(tmp_path):
    meter = FakeMeter(tmp_path)
    meter.evaluation = True
    meter.entry("license", in_force=True, license_id=meter.license_id, sequence=1, evaluation=True)
    meter.window(uses=1)
    page = _page_of(meter)
    assert page.index('class="evaluation"') < page.index('class="verdict')


def test_every_coverage_has_words_and_a_pattern(meter):
    page = _page_of(meter)
    assert COVERAGE_WORDS.keys() == set(Coverage)
    for coverage in Coverage:
        assert f'id="p-{coverage.value}"' in page


def test_periods_without_use_leave_their_place_empty():
    one = InstanceReport(
        instance="one",
        meters={"m": 2},
        months={"2027-01": {"m": 1}, "2027-04": {"m": 1}},
        days={},
        first_ms=0,
        last_ms=1,
    )
    page = html_text(Report(instances=(one,)), HOW)
    assert re.findall(r'<td>(2027-\d\d)</td><td class="num">(\d)</td>', page) == [
        ("2027-01", "1"), ("2027-02", "0"), ("2027-03", "0"), ("2027-04", "1"),
    ]  # fmt: skip


def test_bars_are_as_high_as_their_quantities():
    chart = bar_chart(
        "k", "Title", [Bar("a", "a", 50, Coverage.SEALED), Bar("b", "b", 100, None), Bar("c", "", 0, None)]
    )
    heights = [float(found) for found in re.findall(r'height="([0-9.]+)" fill', chart)]
    assert heights[1] == pytest.approx(2 * heights[0])
    assert len(heights) == 2


def test_short_ranges_stay_visible():
    chart = range_bar(
        "k", "Title", [EntryRange(0, 10**9, Coverage.SEALED), EntryRange(10**9, 10**9 + 1, Coverage.MISSING)]
    )
    widths = [float(found) for found in re.findall(r'width="([0-9.]+)" height="34"', chart)]
    assert widths[1] > 10
    assert sum(widths) == pytest.approx(720, abs=0.2)


def test_timeline_shows_a_gap_however_short():
    rows = [Row("Windows", [Stretch(0, 10**12, "t-window", "all"), Stretch(5, 6, "t-gap", "gap")])]
    chart = timeline("k", "Title", "words", from_ms=0, until_ms=10**12, rows=rows)
    assert re.search(r'width="2.5" height="20" class="t-gap"', chart)


# ---- the command ----------------------------------------------------------------------------------------------------


def test_command_writes_the_page_and_says_who_was_pinned(meter, tmp_path, capsys):
    root, key, page = tmp_path / "root.json", meter.save_device_key(tmp_path / "device.pub"), tmp_path / "r.html"
    root.write_bytes(VENDOR.trust_root_blob)
    arguments = [str(meter.folder), "--trust", str(root), "--device-key", str(key)]
    assert main([*arguments, "--html", str(page)]) == 0
    assert "VERDICT: GOOD" in capsys.readouterr().out
    assert meter.device.key_id in page.read_text("utf-8")
    assert main([*arguments, "--html", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!DOCTYPE html>")
    assert main([*arguments, "--html", str(tmp_path / "none" / "r.html")]) == 4
    assert "write the report" in capsys.readouterr().err
