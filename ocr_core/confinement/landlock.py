"""The file system as a confined process sees it (Landlock): a few folders to read, nothing to write.

Invariants:

* What is not named is refused, whatever the process's user may do elsewhere: reading, listing, writing, executing.
* Only what the kernel knows is asked of it; an older one gives less, and the value returned says which version it was.
* A file that is open already stays so; that is how a process is handed what it may not open itself.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from ocr_core.confinement.kernel import system_call

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1

READ_FILE, READ_DIR = 1 << 2, 1 << 3
# All rights over files, as many as each version of the interface knows: execute … make_sym, refer, truncate, ioctl_dev.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP_RIGHTS = 0b11  # bind, connect; from version 4
_SCOPES = 0b11  # sockets with abstract names, signals to processes outside; from version 6


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """Which version of Landlock the kernel has; 0 for none, or one that is switched off."""
    try:
        return system_call(_CREATE_RULESET, 0, 0, _ASK_VERSION)
    except OSError:
        return 0


def restrict(readable: Iterable[Path]) -> int:
    """Leave this thread, and all that it starts, nothing of the file system but these to read.

    Irrevocable. Needs no privilege, but `no_new_privs`.

    Args:
        readable: Folders (with all beneath them) and files; those that are not there are left out.

    Returns:
        The version of Landlock that was used.

    Raises:
        OSError: The kernel has no Landlock, or refused; then nothing is restricted.
    """
    known = version()
    if known == 0:
        raise OSError(errno.EOPNOTSUPP, "the kernel has no Landlock")
    rules = _Ruleset(
        handled_access_fs=(1 << _FILE_RIGHTS.get(known, 16)) - 1,
        handled_access_net=_TCP_RIGHTS if known >= 4 else 0,
        scoped=_SCOPES if known >= 6 else 0,
    )
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    ruleset = system_call(_CREATE_RULESET, ctypes.addressof(rules), size, 0)
    try:
        for path in readable:
            _allow_reading(ruleset, path)
        system_call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return known


def _allow_reading(ruleset: int, path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there, or not to be reached, cannot be read either
    try:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        rule = _PathBeneath(READ_FILE | READ_DIR if is_folder else READ_FILE, descriptor)
        system_call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.addressof(rule), 0)
    finally:
        os.close(descriptor)
