from hypothesis import given
from hypothesis import strategies as st

from sidecar.fair_queue import FairQueue


def taken(queue: FairQueue[str]) -> list[str]:
    found = []
    while (item := queue.take()) is not None:
        found.append(item)
    return found


def test_a_picture_does_not_wait_behind_a_book() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.add([f"book {page}" for page in range(1, 100)], waited_for=False)
    assert [queue.take() for _ in range(3)] == ["book 1", "book 2", "book 3"]
    queue.add(["picture"], waited_for=False)
    assert [queue.take() for _ in range(2)] == ["book 4", "picture"]


def test_two_books_take_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    for name in ("a", "b"):
        queue.add([f"{name}{page}" for page in (1, 2, 3)], waited_for=True)
    assert taken(queue) == ["a1", "b1", "a2", "b2", "a3", "b3"]


def test_who_waits_takes_turns_with_a_heap_of_documents_left_here() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(100):
        queue.add([f"left {number}"], waited_for=False)
    queue.add(["first"], waited_for=True)
    queue.add(["second"], waited_for=True)
    assert [queue.take() for _ in range(4)] == ["first", "left 0", "second", "left 1"]


def test_those_who_wait_do_not_starve_what_was_left() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.add(["left"], waited_for=False)
    for number in range(10):
        queue.add([f"waits {number}"], waited_for=True)
    assert "left" in [queue.take() for _ in range(2)]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=20))
def test_everything_comes_out_once_and_each_operation_in_order(operations: list[tuple[bool, int]]) -> None:
    queue: FairQueue[str] = FairQueue()
    for number, (waited_for, pages) in enumerate(operations):
        queue.add([f"{number:03} {page:03}" for page in range(pages)], waited_for=waited_for)
    assert len(queue) == sum(pages for _, pages in operations)
    found = taken(queue)
    for number, (_, pages) in enumerate(operations):
        assert [item for item in found if item.startswith(f"{number:03}")] == [
            f"{number:03} {page:03}" for page in range(pages)
        ]
    assert len(found) == sum(pages for _, pages in operations)
    assert len(queue) == 0
