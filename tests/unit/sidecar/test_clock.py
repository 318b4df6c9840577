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
    clock.reboot(off_seconds=13 * 86400)
    assert effective_time(clock.read(), high).ns == clock.wall_ns


def test_wrong_year_at_boot_is_quarantined() -> None:
    clock = FakeClock()
    high = mark(clock)
    clock.reboot()
    clock.step_wall(YEAR)
    now = effective_time(clock.read(), high)
    assert now.quarantined
    assert now.ns == high.effective_ns + clock.boottime_ns


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


TERM = 100 * 86400


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["run", "stop", "step", "reboot"]),
            st.integers(-10 * YEAR, 10 * YEAR) | st.integers(-5000, 5000),
        ),
        max_size=40,
    )
)
def test_usable_licence_time_never_grows_and_a_wrong_year_bricks_nothing(steps: list[tuple[str, int]]) -> None:
    """Serve by effective time under any steps: never longer than the term; a wrong year set right costs nothing."""
    clock = FakeClock()
    start_ns = clock.wall_ns
    high = mark(clock)
    served = 0
    for kind, amount in steps:
        if kind == "step":
            clock.wall_ns = max(0, clock.wall_ns + amount * NS)
        elif kind == "reboot":
            clock.reboot(off_seconds=abs(amount) % 5000)
        else:
            seconds = abs(amount) % (5 * 86400)
            clock.pass_seconds(seconds)
            if kind == "run" and effective_time(clock.read(), high).ns < start_ns + TERM * NS:
                served += seconds
        now = effective_time(clock.read(), high)
        high = HighWater(effective_ns=now.ns, boottime_ns=clock.boottime_ns, boot_id=clock.boot_id)
    assert served <= TERM

    before = effective_time(clock.read(), high).ns
    truth = clock.wall_ns
    clock.wall_ns = before + YEAR * NS
    wrong = effective_time(clock.read(), high)
    high = HighWater(effective_ns=wrong.ns, boottime_ns=clock.boottime_ns, boot_id=clock.boot_id)
    clock.wall_ns = truth
    assert effective_time(clock.read(), high).ns == before


def test_month_is_the_utc_month() -> None:
    assert month_of(1893456000 * NS) == "2030-01"
    assert month_of(1893456000 * NS - 1) == "2029-12"
    assert instant(1893456000 * NS).isoformat() == "2030-01-01T00:00:00+00:00"


def test_system_clock_reads_all_three() -> None:
    reading = SystemClock().read()
    assert reading.wall_ns > 1_700_000_000 * NS
    assert reading.boottime_ns > 0
    assert len(reading.boot_id) == 36
    assert SystemClock().is_synchronised() in {True, False}
