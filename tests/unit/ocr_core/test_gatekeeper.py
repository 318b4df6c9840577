import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocr_core.cpu import Cpu
from ocr_core.errors import (
    CoreError,
    CpuUnsupportedError,
    DocumentNotFoundError,
    FailedToProcessError,
    LeaseRefusedError,
    LicenseRefusedError,
)
from ocr_core.gatekeeper import Gate, Gatekeeper
from ocr_core.wall import LicenseStanding

LEASE = "a lease"


class FakeWall:
    """Admits one lease; raises what it is told to."""

    cpu = Cpu(True, "AVX2 works")

    def __init__(self) -> None:
        self.refusal: Exception | None = None

    def admit(self, lease_header: str | None) -> None:
        if self.refusal is not None:
            raise self.refusal
        if lease_header != LEASE:
            raise LeaseRefusedError("no lease")

    def license_standing(self) -> LicenseStanding:
        return LicenseStanding(standing="valid", reason="good", license_id=None)


class House:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wall = FakeWall()
        self.keeper = Gatekeeper(self.wall, folder)  # type: ignore[arg-type]
        self.keeper.start()

    @property
    def gate(self) -> Gate:
        return self.keeper.gate

    @property
    def outlet(self) -> socket.socket:
        return self.keeper._outlet

    def put(self, content: bytes) -> str:
        name = str(uuid.uuid4())
        (self.folder / "operations" / name).mkdir(parents=True)
        (self.folder / "operations" / name / "document").write_bytes(content)
        return name


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.keeper.close()


def test_a_lease_lets_through_and_a_document_comes_open(house: House) -> None:
    house.gate.admit(LEASE)
    with house.gate.open_document(LEASE, house.put(b"a page").upper()) as file:
        assert file.read() == b"a page"
        assert not os.get_inheritable(file.fileno())
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(file.fileno(), b"not to be written")
    assert house.gate.license_standing() == LicenseStanding(standing="valid", reason="good", license_id=None)
    assert house.gate.cpu.supported


def test_without_a_lease_nothing_is_opened(house: House) -> None:
    name = house.put(b"a page")
    for lease in (None, "", "another"):
        with pytest.raises(LeaseRefusedError, match="no lease"):
            house.gate.admit(lease)
        with pytest.raises(LeaseRefusedError):
            house.gate.open_document(lease, name)


@pytest.mark.parametrize(
    "refusal",
    [CpuUnsupportedError("old"), LicenseRefusedError("over"), LeaseRefusedError("late"), FailedToProcessError("a")],
)
def test_a_refusal_arrives_as_it_was_raised(house: House, refusal: CoreError) -> None:
    house.wall.refusal = refusal
    with pytest.raises(type(refusal)) as caught:
        house.gate.admit(LEASE)
    assert type(caught.value) is type(refusal)
    assert str(caught.value) == str(refusal)


def test_a_fault_of_the_wall_is_one_failure_and_the_next_is_answered(house: House) -> None:
    house.wall.refusal = ZeroDivisionError()
    with pytest.raises(FailedToProcessError):
        house.gate.admit(LEASE)
    house.wall.refusal = None
    house.gate.admit(LEASE)


def test_a_document_is_named_by_a_guid_alone(house: House, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    (tmp_path / "operations").mkdir()
    with pytest.raises(DocumentNotFoundError):
        house.gate.open_document(LEASE, str(uuid.uuid4()))
    for name in ("../secret", "", "a" * 36, "/etc/passwd", f"{uuid.uuid4()}/../../secret"):
        with pytest.raises(FailedToProcessError):
            house.gate.open_document(LEASE, name)
    link = str(uuid.uuid4())
    (tmp_path / "operations" / link).mkdir()
    (tmp_path / "operations" / link / "document").symlink_to(tmp_path / "secret")
    with pytest.raises(DocumentNotFoundError):
        house.gate.open_document(LEASE, link)


@pytest.mark.parametrize(
    "question",
    [
        b"{",
        b"null",
        b"[]",
        b'{"about":"keys"}',
        b'{"about":"document"}',
        b"\xff" * 70_000,
        b'{"about":1}',
        b"[" * 60_000,
    ],
)
def test_a_malformed_question_is_the_last_of_nobody(house: House, question: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        socket.send_fds(house.outlet, [question], [theirs.fileno()])
        house.outlet.send(question)  # and nowhere to answer
        house.outlet.send(b"")
    house.gate.admit(LEASE)


def test_what_is_sent_to_answer_on_need_not_be_a_socket(house: House, tmp_path: Path) -> None:
    file = os.open(tmp_path, os.O_RDONLY)
    full, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        full.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while full.send(b"a" * 1000):
                pass
        before = len(os.listdir("/proc/self/fd"))
        for descriptor in (file, full.fileno()):
            socket.send_fds(house.outlet, [b'{"about":"standing"}'], [descriptor])
        socket.send_fds(house.outlet, [b'{"about":"standing"}'], [file, file, file])
        house.gate.admit(LEASE)
        until = time.monotonic() + 5
        while len(os.listdir("/proc/self/fd")) > before:  # the last one is closed a moment after the answer
            assert time.monotonic() < until
    finally:
        os.close(file)
        full.close()
        other.close()


def test_many_ask_at_once(house: House) -> None:
    names = [house.put(str(number).encode()) for number in range(8)]
    wrong: list[int] = []

    def ask(number: int) -> None:
        for _ in range(25):
            with house.gate.open_document(LEASE, names[number]) as file:
                if file.read() != str(number).encode():
                    wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
