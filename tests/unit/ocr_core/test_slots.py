import os
import time
import uuid

import pytest

from ocr_core import limits
from ocr_core.forked_process import fork
from ocr_core.slots import Death, Slots, Task

BOOK, LETTER = str(uuid.uuid4()), str(uuid.uuid4())


class Timer:
    """A clock, and the kernel's timer as the slots set it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.armed: float | None = None

    def monotonic(self) -> float:
        return self.now

    def arm(self, seconds: float) -> None:
        self.armed = seconds

    def disarm(self) -> None:
        self.armed = None


@pytest.fixture
def timer() -> Timer:
    return Timer()


def some_slots(timer: Timer, *, cores: int = 2) -> Slots:
    return Slots(4, cores=cores, monotonic=timer.monotonic, arm=timer.arm, disarm=timer.disarm)


class Desk:
    """One worker of the slots, as if in a process of its own."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.number = slots.give()
        self.work = None

    def begins(self, document: str = BOOK, page: int = 1, task: Task = Task.READING, seconds: float = 60) -> None:
        self.slots.sit_down(self.number)
        self.work = self.slots.working_on(document, page, task, seconds)
        self.work.__enter__()

    def ends(self) -> None:
        assert self.work is not None
        self.slots.sit_down(self.number)
        self.work.__exit__(None, None, None)

    def may_cut(self) -> bool:
        self.slots.sit_down(self.number)
        with self.slots.free_core() as is_free:
            return is_free


# ---- a core that is free


def test_one_page_alone_may_use_a_second_core(timer: Timer) -> None:
    slots = some_slots(timer)
    desk, _ = Desk(slots), Desk(slots)
    desk.begins()
    assert desk.may_cut()


def test_a_single_core_has_none_to_spare(timer: Timer) -> None:
    desk = Desk(some_slots(timer, cores=1))
    desk.begins()
    assert not desk.may_cut()


def test_two_pages_on_two_cores_are_read_whole(timer: Timer) -> None:
    slots = some_slots(timer)
    first, second = Desk(slots), Desk(slots)
    first.begins(page=1)
    second.begins(page=2)
    assert not first.may_cut()
    assert not second.may_cut()


def test_an_inspection_keeps_no_core_busy(timer: Timer) -> None:
    slots = some_slots(timer)
    first, second = Desk(slots), Desk(slots)
    second.begins(LETTER, 0, Task.INSPECTION)
    first.begins()
    assert first.may_cut()


def test_while_a_page_has_two_cores_another_gets_no_more(timer: Timer) -> None:
    slots = some_slots(timer, cores=3)
    first, second, third = Desk(slots), Desk(slots), Desk(slots)
    first.begins(page=1)
    slots.sit_down(first.number)
    with slots.free_core() as is_free:
        assert is_free
        second.begins(page=2)
        assert not second.may_cut()
    assert second.may_cut()
    third.begins(page=3)
    assert not second.may_cut()


def test_between_the_pages_of_a_book_no_core_counts_as_free(timer: Timer) -> None:
    slots = some_slots(timer)
    first, second = Desk(slots), Desk(slots)
    first.begins(page=1)
    second.begins(page=2)
    first.ends()
    timer.now += 0.01  # its next page is on the way
    second.ends()
    second.begins(page=3)
    assert not second.may_cut()
    timer.now += 1  # none came
    assert second.may_cut()


def test_one_picture_after_the_other_may_use_a_second_core_each(timer: Timer) -> None:
    slots = some_slots(timer)
    for _ in range(3):
        desk = Desk(slots)
        desk.begins()
        assert desk.may_cut()
        timer.now += 0.5
        desk.ends()
        timer.now += 0.01


# ---- deadlines and deaths


def test_each_task_has_its_deadline_and_the_end_of_the_request_takes_it_back(timer: Timer) -> None:
    slots = some_slots(timer)
    number = slots.give()
    slots.sit_down(number)
    with slots.request(72):
        assert timer.armed == 72
        with slots.working_on(BOOK, 1, Task.DECODING, 6):
            assert timer.armed == 6
            slots.then(Task.READING, 60)
            assert timer.armed == 60
            timer.now += 61.5
            assert slots.overdue_by(number) == pytest.approx(1.5)
    assert timer.armed is None
    assert slots.overdue_by(number) < 0


def test_a_page_whose_worker_died_may_be_tried_once_more_and_not_a_third_time(timer: Timer) -> None:
    slots = some_slots(timer)
    for times in (1, 2):
        assert (found := slots.death_at(BOOK, 7)) is None or not found.is_final
        desk = Desk(slots)
        desk.begins(BOOK, 7)
        death = slots.take_back(desk.number)
        assert death == Death(task=Task.READING, times=times, overdue=False) == slots.death_at(BOOK, 7)
    assert death.is_final
    assert slots.death_at(BOOK, 8) is None
    assert slots.death_at(LETTER, 7) is None


@pytest.mark.parametrize("task", [Task.INSPECTION, Task.DECODING, Task.READING])
def test_work_that_outlived_its_deadline_is_not_tried_again(timer: Timer, task: Task) -> None:
    slots = some_slots(timer)
    desk = Desk(slots)
    desk.begins(BOOK, 1, task, 5)
    timer.now += 5
    assert slots.take_back(desk.number) == Death(task=task, times=1, overdue=True)
    found = slots.death_at(BOOK, 1)
    assert found is not None
    assert found.is_final


def test_a_worker_that_ends_with_nothing_to_do_leaves_no_memory(timer: Timer) -> None:
    slots = some_slots(timer)
    desk = Desk(slots)
    desk.begins()
    desk.ends()
    assert slots.take_back(desk.number) is None
    assert slots.death_at(BOOK, 1) is None


def test_only_the_latest_deaths_are_remembered(timer: Timer) -> None:
    slots = some_slots(timer)
    for page in range(1, 301):
        desk = Desk(slots)
        desk.begins(BOOK, page)
        slots.take_back(desk.number)
    assert slots.death_at(BOOK, 1) is None
    assert slots.death_at(BOOK, 300) is not None


def test_slots_are_used_again(timer: Timer) -> None:
    slots = some_slots(timer)
    numbers = [slots.give() for _ in range(4)]
    assert sorted(numbers) == [0, 1, 2, 3]
    slots.take_back(2)
    assert slots.give() == 2
    assert slots.give() == 3  # none is free: the last is shared, and nobody fails


def test_the_master_sees_what_a_forked_worker_does_and_died_of() -> None:
    slots = Slots(2, cores=1, arm=limits.arm_deadline, disarm=limits.disarm_deadline)
    number = slots.give()
    pid = fork()
    if not pid:
        slots.sit_down(number)
        with slots.request(60), slots.working_on(BOOK, 3, Task.DECODING, 0.1):
            time.sleep(30)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert slots.take_back(number) == Death(task=Task.DECODING, times=1, overdue=True)
