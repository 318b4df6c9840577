"""Does this machine run AVX2? The flags must say so *and* an instruction must run.

Invariants:

* The instruction runs in a child process, so that a CPU (or a hypervisor) that lies costs a dead child, not the core.
* The code page is never writable and executable at once: the bytes are written to a memory file, then mapped
  read-execute, which a service manager's write-xor-execute rule allows.
* `probe` never raises.
"""

import ctypes
import mmap
import os
import platform
import resource
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ocr_core.forked_process import fork

CPUINFO = Path("/proc/cpuinfo")
MAX_CPUINFO_BYTES = 16 * 1024 * 1024

# vpcmpeqd ymm0,ymm0,ymm0 · vpmovmskb eax,ymm0 · vzeroupper · ret: all 32 mask bits set, so the function returns -1.
AVX2_CODE = bytes.fromhex("c5fd76c0 c5fdd7c0 c5f877 c3")
_ALL_ONES = -1

_TRIED_AND_RIGHT = 0
_TRIED_AND_WRONG = 1
_NOT_TRIED = 2
_TRIES_AFTER_KILL = 2
_CHILD_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Cpu:
    """What is known of this machine's processor.

    Attributes:
        supported: True when pages may be read here.
        reason: Why (not), in words; names AVX2.
    """

    supported: bool
    reason: str


def probe(cpuinfo: Path = CPUINFO, *, code: bytes = AVX2_CODE) -> Cpu:
    """Look at the flags, then run one AVX2 instruction in a child.

    Args:
        cpuinfo: The file that lists the flags.
        code: Machine code of a function that returns -1 where AVX2 works.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return Cpu(False, f"AVX2 is needed; this machine is {platform.machine()}, not x86_64")
    try:
        flagged = has_avx2_flag(cpuinfo)
    except OSError as exc:
        return Cpu(False, f"AVX2 is needed; its flag could not be looked up in {cpuinfo}: {exc.strerror}")
    if not flagged:
        return Cpu(False, f"AVX2 is needed; {cpuinfo} does not list the flag avx2")
    status = _run_in_child(code)
    for _ in range(_TRIES_AFTER_KILL):
        # Killed from outside, the child said nothing about the processor.
        if status is None or not os.WIFSIGNALED(status) or os.WTERMSIG(status) not in (signal.SIGKILL, signal.SIGTERM):
            break
        status = _run_in_child(code)
    return _verdict(status)


def has_avx2_flag(cpuinfo: Path) -> bool:
    """Whether every processor listed in the file has the flag `avx2`.

    Raises:
        OSError: The file cannot be read.
    """
    with cpuinfo.open("rb") as file:
        text = file.read(MAX_CPUINFO_BYTES).decode("ascii", "replace")
    flags = [line.partition(":")[2].split() for line in text.splitlines() if line.partition(":")[0].strip() == "flags"]
    return bool(flags) and all("avx2" in of_one for of_one in flags)


def _verdict(wait_status: int | None) -> Cpu:
    if wait_status is None:
        return Cpu(False, "AVX2 is needed; no child process could be started to try it")
    code = os.waitstatus_to_exitcode(wait_status)
    if code == _TRIED_AND_RIGHT:
        return Cpu(True, "AVX2 works")
    if code == -signal.SIGILL:
        return Cpu(False, "AVX2 is needed; the flag is there but the instruction is illegal on this machine")
    if code < 0:
        return Cpu(False, f"AVX2 is needed; trying it ended with {signal.Signals(-code).name}")
    if code == _TRIED_AND_WRONG:
        return Cpu(False, "AVX2 is needed; the instruction ran but gave a wrong result")
    return Cpu(False, "AVX2 is needed; no executable memory could be had to try it (noexec or a security module)")


def _run_in_child(code: bytes) -> int | None:
    try:
        pid = fork()
    except OSError:
        return None
    if pid == 0:
        outcome = _NOT_TRIED
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for number in (signal.SIGILL, signal.SIGALRM, signal.SIGSEGV, signal.SIGBUS):
                signal.signal(number, signal.SIG_DFL)
            signal.alarm(_CHILD_SECONDS)
            outcome = _TRIED_AND_RIGHT if _call(code) == _ALL_ONES else _TRIED_AND_WRONG
        except (OSError, ValueError, AttributeError, MemoryError):
            outcome = _NOT_TRIED
        finally:
            os._exit(outcome)
    return os.waitpid(pid, 0)[1]


def _call(code: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    ]  # fmt: skip
    failed = ctypes.c_void_p(-1).value
    for open_file in (_memory_file, _temporary_file):
        try:
            with open_file() as fd:
                os.write(fd, code)
                address = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, fd, 0)
        except OSError:
            continue
        if address is not None and address != failed:
            return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)())
    raise OSError(ctypes.get_errno(), "no executable mapping")


@contextmanager
def _memory_file() -> Iterator[int]:
    fd = os.memfd_create("avx2", os.MFD_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _temporary_file() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        yield file.fileno()
