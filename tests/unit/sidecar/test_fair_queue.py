from hypothesis import given
from hypothesis import strategies as st

from sidecar.fair_queue import FairQueue, Lane


def taken(queue: FairQueue[str]) -> list[str]:
    found = []
    while (one := queue.take()) is not None:
        found.append(one[1])
    return found


def few(queue: FairQueue[str], count: int, *, slow: bool = True) -> list[str | None]:
    found = [queue.take(slow=slow) for _ in range(count)]
    return [None if one is None else one[1] for one in found]


def test_a_picture_does_not_wait_behind_a_book() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.add([f"book {page}" for page in range(1, 100)], Lane.LEFT)
    assert few(queue, 3) == ["book 1", "book 2", "book 3"]
    queue.add(["picture"], Lane.LEFT)
    assert few(queue, 2) == ["book 4", "picture"]


def test_two_books_take_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    for name in ("a", "b"):
        queue.add([f"{name}{page}" for page in (1, 2, 3)], Lane.WAITED_FOR)
    assert taken(queue) == ["a1", "b1", "a2", "b2", "a3", "b3"]


def test_who_waits_takes_turns_with_a_heap_of_documents_left_here() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(100):
        queue.add([f"left {number}"], Lane.LEFT)
    queue.add(["first"], Lane.WAITED_FOR)
    queue.add(["second"], Lane.WAITED_FOR)
    assert few(queue, 4) == ["first", "left 0", "second", "left 1"]


def test_those_who_wait_do_not_starve_what_was_left() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.add(["left"], Lane.LEFT)
    for number in range(10):
        queue.add([f"waits {number}"], Lane.WAITED_FOR)
    assert "left" in few(queue, 2)


def test_slow_ones_take_turns_only_while_they_may() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.add([f"slow {number}"], Lane.SLOW)
        queue.add([f"waits {number}"], Lane.WAITED_FOR)
    assert few(queue, 4) == ["waits 0", "slow 0", "waits 1", "slow 1"]
    assert few(queue, 3, slow=False) == ["waits 2", "waits 3", None]
    assert len(queue) == 2
    assert queue.take() == (Lane.SLOW, "slow 2")


@given(st.lists(st.tuples(st.sampled_from(Lane), st.integers(0, 5)), max_size=20))
def test_everything_comes_out_once_and_each_operation_in_order(operations: list[tuple[Lane, int]]) -> None:
    queue: FairQueue[str] = FairQueue()
    for number, (lane, pages) in enumerate(operations):
        queue.add([f"{number:03} {page:03}" for page in range(pages)], lane)
    assert len(queue) == sum(pages for _, pages in operations)
    found = taken(queue)
    for number, (_, pages) in enumerate(operations):
        assert [item for item in found if item.startswith(f"{number:03}")] == [
            f"{number:03} {page:03}" for page in range(pages)
        ]
    assert len(found) == sum(pages for _, pages in operations)
    assert len(queue) == 0
