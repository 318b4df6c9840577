"""Who takes what when: slow work keeps half of the hands at most, what waits comes back, the end is heard at once."""

import threading
from contextlib import ExitStack

import pytest

from sidecar.fair_queue import Lane
from sidecar.work_queue import WorkQueue, most_slow


class Hand:
    """One thread's worth of work, taken and given back by the test."""

    def __init__(self, queue: WorkQueue[str]) -> None:
        queue.join()
        self._queue = queue
        self._work = ExitStack()

    def takes(self) -> str | None:
        following = self._work.enter_context(self._queue.next())
        return None if following is None else following[1]

    def is_done(self) -> None:
        self._work.close()


@pytest.mark.parametrize(("hands", "slow"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_what_takes_long_is_in_half_of_the_hands_at_most_and_in_one_at_least(hands: int, slow: int) -> None:
    assert most_slow(hands) == slow


def test_slow_work_is_left_until_a_hand_may_take_it() -> None:
    queue: WorkQueue[str] = WorkQueue()
    first, second = Hand(queue), Hand(queue)
    queue.add(["slow 1", "slow 2"], Lane.SLOW)
    assert first.takes() == "slow 1"
    queue.add(["quick"], Lane.WAITED_FOR)
    assert second.takes() == "quick"
    second.is_done()
    waiting = threading.Thread(target=lambda: taken.append(second.takes()))
    taken: list[str | None] = []
    waiting.start()
    waiting.join(0.05)
    assert taken == []
    first.is_done()
    waiting.join(5)
    assert taken == ["slow 2"]


def test_what_is_to_wait_comes_after_a_while_and_not_before() -> None:
    now = [100.0]
    queue: WorkQueue[str] = WorkQueue(lambda: now[0])
    hand = Hand(queue)
    queue.add_later("later", Lane.WAITED_FOR, 5.0)
    queue.add(["at once", "next"], Lane.LEFT)
    assert hand.takes() == "at once"
    hand.is_done()
    now[0] += 5.0
    assert hand.takes() == "later"


def test_at_the_end_nobody_waits() -> None:
    queue: WorkQueue[str] = WorkQueue()
    hand = Hand(queue)
    taken: list[str | None] = []
    waiting = threading.Thread(target=lambda: taken.append(hand.takes()))
    waiting.start()
    queue.stop()
    waiting.join(5)
    assert taken == [None]
    assert queue.is_over
