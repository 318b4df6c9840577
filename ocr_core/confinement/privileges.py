"""What a process gives up for good: privileges, the network, the secrets in its environment.

Invariant: nothing here can be taken back by the process or by anything that it starts.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from ocr_core.confinement.kernel import process_control, system_call

_NO_NEW_PRIVS = 38
_CAP_BOUNDING_DROP, _CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL = 24, 47, 4
_PRCTL, _CAPGET, _CAPSET, _CAPABILITY_VERSION_3 = 157, 125, 126, 0x20080522
_UNSHARE, _NEW_NETWORK, _NEW_USER = 272, 0x40000000, 0x10000000
_LAST_CAPABILITY = Path("/proc/sys/kernel/cap_last_cap")

CAN_READ_ALL = 2
"""CAP_DAC_READ_SEARCH: reading what belongs to others, as root can."""
CAN_DO_ALL_TO_FILES = 1
"""CAP_DAC_OVERRIDE: reading and writing what belongs to others, as root can."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def gain_nothing_more() -> None:
    """No program started from here gets more rights than its starter (`no_new_privs`).

    Raises:
        OSError: The kernel refused.
    """
    process_control(_NO_NEW_PRIVS, 1)


def held_capabilities() -> int:
    """The capabilities that this thread may use, as a set of bits."""
    header, sets = _Header(_CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    system_call(_CAPGET, ctypes.addressof(header), ctypes.addressof(sets))
    return int(sets[0].permitted) | int(sets[1].permitted) << 32


def drop_capabilities(*, keep: Iterable[int] = ()) -> None:
    """Give up root's privileges except some.

    Args:
        keep: Numbers of capabilities to keep if they are held.

    Raises:
        OSError: The kernel refused.
    """
    held = held_capabilities()
    kept = held & sum(1 << number for number in keep)
    if held == kept:
        return
    with contextlib.suppress(OSError):  # needs CAP_SETPCAP; without it nothing can be gained from the bounding set
        for number in range(int(_LAST_CAPABILITY.read_text()) + 1):
            process_control(_CAP_BOUNDING_DROP, number)
    with contextlib.suppress(OSError):
        system_call(_PRCTL, _CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = _Header(_CAPABILITY_VERSION_3, 0)
    sets = (_Sets * 2)(*(_Sets(bits, bits, 0) for bits in (kept & 0xFFFFFFFF, kept >> 32)))
    system_call(_CAPSET, ctypes.addressof(header), ctypes.addressof(sets))


_own_network = False  # a fact about the process, and inherited by those it forks


def leave_the_network() -> None:
    """Move this process into a network of its own, without any interface; sockets with a path still work.

    Only while the process has one thread.

    Raises:
        OSError: The kernel, or what contains this process, does not permit it.
    """
    global _own_network  # noqa: PLW0603 - see there
    if _own_network:
        return
    user, group = os.geteuid(), os.getegid()
    try:
        system_call(_UNSHARE, _NEW_NETWORK)
    except PermissionError:
        if user == 0 or held_capabilities():
            raise  # in a user namespace of its own, root would be nobody, and capabilities would be worth nothing
        system_call(_UNSHARE, _NEW_USER | _NEW_NETWORK)
        # In the new user namespace everyone is who they were.
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    _own_network = True


# ---- the environment ------------------------------------------------------------------------------------------------

_KEPT_VARIABLES = {
    "HOME", "INVOCATION_ID", "JOURNAL_STREAM", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LD_PRELOAD", "LISTEN_FDNAMES",
    "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "PATH", "TERM", "TESSDATA_PREFIX", "TMPDIR", "TZ", "USER",
    "VIRTUAL_ENV", "WATCHDOG_PID", "WATCHDOG_USEC",
}  # fmt: skip
_KEPT_PREFIXES = ("LC_", "MALLOC_", "OMP_", "OPENBLAS_", "PYTHON")


def forget_environment() -> int:
    """Keep the variables that the core's libraries need; take the others away, from the process's memory too.

    Settings are read from the environment before this, and secrets of other processes may stand in it.

    Returns:
        How many variables were taken away.
    """
    doomed = [name for name in os.environ if name not in _KEPT_VARIABLES and not name.startswith(_KEPT_PREFIXES)]
    _wipe([name.encode("utf-8", "surrogateescape") for name in doomed])
    for name in doomed:
        del os.environ[name]
    return len(doomed)


def _wipe(names: list[bytes]) -> None:
    """Overwrite the values where the kernel put them at the start, so that `/proc/<pid>/environ` shows none."""
    try:
        # The command's name is in parentheses and may hold anything; fields 50 and 51 are the block's bounds.
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        start, end = int(fields[47]), int(fields[48])
    except (OSError, ValueError, IndexError):
        return
    if not 0 < start < end:
        return
    at = start
    for entry in ctypes.string_at(start, end - start).split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals and name in names:
            ctypes.memset(at + len(name) + 1, 0, len(value))
        at += len(entry) + 1
