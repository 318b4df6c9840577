"""Effective time: rolling back gains nothing, a typo bricks nothing."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.clock import FORWARD_TOLERANCE_NS, HighWater, SystemClock, effective_time, instant, month_of
from tests.fakes.clock import NS, FakeClock

YEAR = 365 * 86400


def mark(clock: FakeClock) -> HighWater:
    return HighWater(effective_ns=clock.wall_ns, boottime_ns=clock.boottime_ns, boot_id=clock.boot_id)


def test_wall_clock_set_back_is_ignored() -> None:
    clock = FakeClock()
    high = mark(clock)
    clock.pass_seconds(100)
    clock.step_wall(-YEAR)
    now = effective_time(clock.read(), high)
    assert now.ns == high.effective_ns + 100 * NS
    assert not now.quarantined


def test_forward_jump_is_quarantined_and_time_goes_on() -> None:
    clock = FakeClock()
    high = mark(clock)
    clock.pass_seconds(100)
    clock.step_wall(10 * YEAR)
    now = effective_time(clock.read(), high)
    assert now.ns == high.effective_ns + 100 * NS
    assert now.quarantined


def test_small_forward_step_is_believed() -> None:
    clock = FakeClock()
    high = mark(clock)
    clock.step_wall(600)
    assert effective_time(clock.read(), high).ns == high.effective_ns + FORWARD_TOLERANCE_NS


def test_after_reboot_time_cannot_lie_before_the_high_water() -> None:
    clock = FakeClock()
    high = mark(clock)
    clock.reboot()
    clock.step_wall(-YEAR)
    assert effective_time(clock.read(), high).ns == high.effective_ns + clock.boottime_ns


def test_after_reboot_a_later_wall_clock_is_believed() -> None:
    clock = FakeClock()
    high = mark(clock)
    clock.reboot(off_seconds=30 * 86400)
    assert effective_time(clock.read(), high).ns == clock.wall_ns


@given(
    st.lists(st.tuples(st.sampled_from(["pass", "step", "reboot"]), st.integers(-10 * YEAR, 10 * YEAR)), max_size=30)
)
def test_effective_time_never_runs_backwards(steps: list[tuple[str, int]]) -> None:
    clock = FakeClock()
    high = None
    last = 0
    for kind, amount in steps:
        if kind == "pass":
            clock.pass_seconds(abs(amount) % 5000)
        elif kind == "step":
            clock.wall_ns = max(0, clock.wall_ns + amount * NS)
        else:
            clock.reboot()
        now = effective_time(clock.read(), high)
        assert now.ns >= last
        last = now.ns
        high = HighWater(effective_ns=now.ns, boottime_ns=clock.boottime_ns, boot_id=clock.boot_id)


def test_month_is_the_utc_month() -> None:
    assert month_of(1893456000 * NS) == "2030-01"
    assert month_of(1893456000 * NS - 1) == "2029-12"
    assert instant(1893456000 * NS).isoformat() == "2030-01-01T00:00:00+00:00"


def test_system_clock_reads_all_three() -> None:
    reading = SystemClock().read()
    assert reading.wall_ns > 1_700_000_000 * NS
    assert reading.boottime_ns > 0
    assert len(reading.boot_id) == 36
