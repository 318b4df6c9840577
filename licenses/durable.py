"""Files that are whole or absent, through any crash and any power cut.

Invariant: a name appears in its folder only when all bytes under it are on the disk: temporary file in the same
folder, fsync, then link or rename, then fsync of the folder. Failures are plain `OSError`; callers name them.
"""

import contextlib
import errno
import hashlib
import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.([1-9][0-9]{0,9})-[0-9]+\.tmp")


def write_file(
    path: Path, chunks: Iterable[bytes], *, mode: int, overwrite: bool, temporary_name: str | None = None
) -> str:
    """Write a file atomically and durably.

    Args:
        path: Where it will appear; its folder must exist.
        chunks: The content, in order.
        mode: Permission bits, set regardless of the umask.
        overwrite: Whether a file of that name may be replaced.
        temporary_name: Name of the file while it is being written; by default one of this thread's own.

    Returns:
        SHA-256 of the content, in hexadecimal.

    Raises:
        FileExistsError: The name is taken and `overwrite` is false.
        OSError: The operating system refused; nothing new is visible under `path`, unless only the very last step,
            making the folder durable, failed.
    """
    temporary = path.with_name(temporary_name or f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    digest = hashlib.sha256()
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb", buffering=256 * 1024) as stream:
            for chunk in chunks:
                digest.update(chunk)
                stream.write(chunk)
            stream.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        if overwrite:
            temporary.replace(path)
        else:
            _appear(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return digest.hexdigest()


def sweep(folder: Path) -> int:
    """Remove the temporary files that killed processes left in a folder.

    Returns:
        How many there were.
    """
    swept = 0
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            found = _TEMPORARY.fullmatch(path.name)
            if found is not None and not _is_alive(int(found[1])):
                with contextlib.suppress(OSError):
                    path.unlink()
                    swept += 1
    return swept


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: The operating system refused.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(folder: Path, *, mode: int = 0o755) -> None:
    """Create a folder and those above it, durably; folders that exist are left as they are.

    Raises:
        OSError: The operating system refused.
    """
    missing: list[Path] = []
    while not folder.is_dir():
        missing.append(folder)
        if folder.parent == folder:
            break
        folder = folder.parent
    for one in reversed(missing):
        with contextlib.suppress(FileExistsError):
            one.mkdir(mode=mode)
        sync_folder(one.parent)


def _appear(temporary: Path, path: Path) -> None:
    """Give the finished file its name unless it is taken; file systems without hard links get a check and a rename."""
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        if path.exists():
            raise FileExistsError(errno.EEXIST, "File exists", str(path)) from None
        temporary.replace(path)
