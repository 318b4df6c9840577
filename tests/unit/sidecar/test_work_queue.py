"""Who takes what when: slow work has places beside the rest, what waits comes back, the end is heard at once."""

import threading
from contextlib import ExitStack

import pytest

from sidecar.fair_queue import Lane
from sidecar.work_queue import LONG_SECONDS, WorkQueue, most_beside, most_slow


class Hand:
    """One thread's worth of work, taken and given back by the test."""

    def __init__(self, queue: WorkQueue[str]) -> None:
        self._queue = queue
        self._work = ExitStack()

    def takes(self) -> str | None:
        following = self._work.enter_context(self._queue.next())
        return None if following is None else following[1]

    def is_done(self) -> None:
        self._work.close()


@pytest.mark.parametrize(("pages", "slow"), [(1, 1), (2, 1), (7, 1), (8, 2), (17, 4)])
def test_what_takes_long_has_a_quarter_as_many_places_as_pages_and_one_at_least(pages: int, slow: int) -> None:
    assert most_slow(pages) == slow


def test_slow_work_is_beside_the_rest_and_never_in_place_of_it() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.widen(2)
    first, second, third = Hand(queue), Hand(queue), Hand(queue)
    queue.add(["slow 1", "slow 2"], Lane.SLOW)
    queue.add(["quick 1"], Lane.WAITED_FOR)
    queue.add(["quick 2"], Lane.WAITED_FOR)
    queue.add(["quick 3"], Lane.WAITED_FOR)
    assert {first.takes(), second.takes(), third.takes()} == {"slow 1", "quick 1", "quick 2"}
    first.is_done()
    assert first.takes() == "quick 3"


def test_slow_work_is_left_until_there_is_a_place_for_it() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.widen(2)
    first, second = Hand(queue), Hand(queue)
    queue.add(["slow 1", "slow 2"], Lane.SLOW)
    assert first.takes() == "slow 1"
    taken: list[str | None] = []
    waiting = threading.Thread(target=lambda: taken.append(second.takes()))
    waiting.start()
    waiting.join(0.05)
    assert taken == []
    first.is_done()
    waiting.join(5)
    assert taken == ["slow 2"]


def test_what_has_been_at_work_for_a_while_makes_its_place_free_for_another() -> None:
    now = [100.0]
    queue: WorkQueue[str] = WorkQueue(lambda: now[0])
    queue.widen(1)
    hands = [Hand(queue) for _ in range(4)]
    for name in ("long", "longer", "longest", "after"):
        queue.add([name], Lane.LEFT)
    for hand, name in zip(hands, ("long", "longer", "longest"), strict=False):
        assert hand.takes() == name
        now[0] += LONG_SECONDS
    taken: list[str | None] = []
    waiting = threading.Thread(target=lambda: taken.append(hands[3].takes()))
    waiting.start()
    waiting.join(0.05)
    assert taken == [], f"{most_beside(1)} may be beside the page, and are"
    hands[0].is_done()
    waiting.join(5)
    assert taken == ["after"]


def test_who_waits_finds_the_place_that_time_makes_free() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.widen(1)
    first, second = Hand(queue), Hand(queue)
    queue.add(["long"], Lane.LEFT)
    queue.add(["next"], Lane.LEFT)
    assert first.takes() == "long"
    assert second.takes() == "next"


def test_what_is_to_wait_comes_after_a_while_and_not_before() -> None:
    now = [100.0]
    queue: WorkQueue[str] = WorkQueue(lambda: now[0])
    queue.widen(1)
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
