"""Windows and starts: what no window covers is a gap, what did not run is told and is none."""

import pytest

from licenses.usage_log.report import (
    MAX_LISTED,
    InstanceReport,
    Report,
    Severity,
    Verdict,
    duration_text,
    longest_stops,
)
from licenses.usage_log.timeline import MAX_WINDOW_MS, Timeline
from licenses.usage_log.verify import verify_records
from tests.fakes.licences import a_vendor
from tests.fakes.records import WINDOW_MS, FakeMeter

VENDOR = a_vendor()
HOUR_MS = 3600 * 1000


@pytest.fixture
def meter(tmp_path):
    meter = FakeMeter(tmp_path / "output")
    meter.window(uses=2)
    return meter


def _audit(meter: FakeMeter) -> InstanceReport:
    return verify_records(meter.folder, VENDOR.trust_root, device_keys=[meter.device.verifying]).instances[0]


def _codes(one: InstanceReport) -> list[str]:
    return [finding.code for finding in one.findings if finding.severity is not Severity.NOTE]


def _start(meter: FakeMeter, *, boot_id: str | None = None) -> None:
    if boot_id is not None:
        meter.boot_id, meter.boottime_ms = boot_id, 30_000
    meter.entry("boot", boot_id=meter.boot_id)


def test_stop_in_good_order_is_told_from_its_window_to_the_start(meter):
    meter.window(reason="shutdown")
    stopped = meter.now_ms
    meter.wait(5 * HOUR_MS)
    _start(meter, boot_id="another")
    meter.window(uses=1)
    one = _audit(meter)
    assert one.verdict is Verdict.GOOD
    assert [(start.since_ms, start.at_ms, start.in_good_order) for start in one.starts[1:]] == [
        (stopped, stopped + 5 * HOUR_MS, True)
    ]
    assert (one.starts_in_all, one.stopped_ms) == (2, 5 * HOUR_MS)


def test_crash_is_told_from_the_last_sign_of_life_to_the_start(meter):
    meter.use()
    alive = meter.now_ms
    meter.wait(5 * HOUR_MS)
    meter.boot_id, meter.boottime_ms = "another", 30_000
    meter.window(reason="recovery")
    _start(meter)
    meter.window()
    one = _audit(meter)
    assert one.verdict is Verdict.GOOD
    assert [(start.since_ms, start.stopped_ms, start.in_good_order) for start in one.starts[1:]] == [
        (alive, 5 * HOUR_MS + WINDOW_MS, False)
    ]
    assert "at most, after a crash or kill" in "\n".join(_lines(one))


def test_first_start_follows_nothing(meter):
    start = _audit(meter).starts[0]
    assert (start.since_ms, start.stopped_ms, start.in_good_order) == (None, 0, True)


def test_only_the_longest_stops_are_shown_in_the_order_of_time(meter):
    for hours in (1, 7, 3, 6, 2, 5, 4):
        meter.window(reason="shutdown")
        meter.wait(hours * HOUR_MS)
        _start(meter)
    meter.window()
    assert [start.stopped_ms // HOUR_MS for start in longest_stops(_audit(meter))] == [7, 3, 6, 5, 4]


def test_starts_beyond_what_is_listed_are_counted():
    timeline = Timeline(lambda *_: None)
    for number in range(MAX_LISTED + 5):
        boot = {"seq": number, "effective_ms": 1000 * number + number % 7, "boottime_ms": 0}
        timeline.start(boot, 1000 * number if number else None)
    assert (timeline.starts_in_all, len(timeline.starts)) == (MAX_LISTED + 5, MAX_LISTED)
    assert timeline.stopped_ms == sum(number % 7 for number in range(MAX_LISTED + 5))


def test_window_too_long_after_a_start_within_it_is_a_gap(meter):
    meter.wait(30 * HOUR_MS)
    _start(meter, boot_id="another")
    meter.wait(MAX_WINDOW_MS)
    meter.window()
    one = _audit(meter)
    assert _codes(one) == ["long_window"]
    assert "since the start in it" in one.findings[0].message


def test_host_restarted_without_a_start_is_a_gap(meter):
    meter.boot_id, meter.boottime_ms = "another", 30_000
    meter.window()
    assert _codes(_audit(meter)) == ["start_untold"]


def test_covered_time_has_a_piece_on_each_side_of_a_gap(meter):
    meter.wait(HOUR_MS)
    meter._opened = meter.moment()
    meter.window()
    meter.window()
    one = _audit(meter)
    assert _codes(one) == ["window_gap"]
    assert [part.windows for part in one.covered] == [1, 2]
    assert one.covered[1].from_ms - one.covered[0].until_ms == HOUR_MS
    assert one.windows == 3


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (0, "0 s"),
        (999, "0 s"),
        (61_000, "1 min 1 s"),
        (3 * HOUR_MS, "3 h"),
        (26 * HOUR_MS + 59_000, "1 d 2 h"),
        (-5, "0 s"),
    ],
)
def test_durations_are_told_in_two_units(milliseconds, words):
    assert duration_text(milliseconds) == words


def _lines(one: InstanceReport) -> list[str]:
    return list(Report(instances=(one,)).to_lines())
