"""Many licence files may lie in one folder: read them without blocking, and choose the one to serve under.

Invariants:

* `read_folder` does all the reading and no judging; it is bounded in files and bytes and never waits for anyone.
* `choose` does all the judging and no reading; the same files, instant and facts give the same choice.
* A file that does not serve never keeps one that does from serving, and every loser's reason is told.
* A revocation beside the licences takes back what it names, and is itself never a licence.
"""

import contextlib
import errno
import heapq
import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from licenses.errors import FolderError, LicensesError
from licenses.host import HostFactors
from licenses.keyring import TrustRoot
from licenses.keys import KeyId
from licenses.model import CONTAINER_TYPE, License, Revoked
from licenses.revocation import Revocation, is_revocation, open_revocation
from licenses.strict_json import MAX_BYTES
from licenses.verify import Judgement, Standing, judge, open_license

MAX_FILES = 64
MAX_NAMES = 4096

_LEFTOVERS = ("~", ".tmp", ".part", ".partial", ".swp", ".swo", ".swx")


@dataclass(frozen=True, slots=True)
class LicenseFile:
    """One name in the folder.

    Attributes:
        name: The file's name.
        blob: Its bytes; None when they could not be had.
        problem: Why not, in words; None when they could.
    """

    name: str
    blob: bytes | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class FileVerdict:
    """What became of one file.

    Attributes:
        name: The file's name.
        standing_or_problem: A `Standing`, "revocation", the code of an error, or "file_problem".
        reason: In one sentence for a person.
        license: What it grants, if its signature held.
        next_step: What a person can do.
    """

    name: str
    standing_or_problem: str
    reason: str
    license: License | None = None
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """The licence to go by, and why the others are not it.

    Attributes:
        best: The licence that serves; if none does, the one whose standing tells a person most.
        best_name: Its file.
        judgement: How it stands; None when there is no licence at all.
        verdicts: One for each file, in the order of the files.
        revoked_license_ids: All that are known to be revoked, those that the files here revoke included.
        revoked_key_ids: The same for keys.
        revoked_sequence: Of the newest list of revocations that was believed; 0 without any.
        revoked_by: The file, or the remembered bytes, that carries that list.
    """

    best: License | None
    best_name: str | None
    judgement: Judgement | None
    verdicts: tuple[FileVerdict, ...]
    revoked_license_ids: frozenset[str] = frozenset()
    revoked_key_ids: frozenset[str] = frozenset()
    revoked_sequence: int = 0
    revoked_by: bytes | None = None

    @property
    def serves(self) -> bool:
        """Whether there is a licence to serve under."""
        return self.judgement is not None and self.judgement.serves


def read_folder(path: Path) -> tuple[LicenseFile, ...]:
    """Read the files of a licence folder, in the order of their names; of more than `MAX_FILES` the newest.

    An appliance that takes a licence each month has more of them after some years, and serves under the last.

    Hidden names and what editors and copiers leave behind are passed over. Links are followed: that is how
    orchestrators mount single files.

    Args:
        path: The folder.

    Returns:
        At most `MAX_FILES` files, and one more entry that tells of the rest, if any.

    Raises:
        FolderError: The folder is missing or cannot be listed.
    """
    try:
        names = list(_names(path))
        read = sorted(_newest(path, names))
    except OSError as exc:
        error = FolderError.from_os_error(exc, path, doing="read the licence folder", mode="u+rx")
        if isinstance(exc, FileNotFoundError):
            error.next_step = (
                f"Mount a volume and make sure that the directory named by Mounts:License ({path}) exists; "
                f"user id {error.uid} must be able to read it."
            )
        raise error from exc
    except ValueError as exc:
        raise FolderError(
            f"cannot read the licence folder: {exc}", path=path, next_step="Correct Mounts:License."
        ) from exc
    files = [_read(path, name) for name in read]
    if len(names) > len(read):
        unread = f"{len(names) - len(read)} older files were not read: at most {MAX_FILES} are, the newest"
        files.append(LicenseFile("…", None, unread))
    return tuple(files)


def choose(
    files: Sequence[LicenseFile],
    trust_root: TrustRoot,
    *,
    at: datetime,
    container_type: str = CONTAINER_TYPE,
    host: HostFactors | None = None,
    device_public: bytes | None = None,
    sequence_floor: int | Mapping[str, int] = 0,
    revoked_license_ids: Collection[str] = (),
    revoked_key_ids: Collection[str] = (),
    product_version: str | None = None,
    remembered: Sequence[bytes] = (),
    used: Mapping[str, int] | None = None,
) -> Choice:
    """Choose the licence to serve under.

    What serves beats what does not. Among licences of one id the highest sequence that serves wins; among different
    ids a production licence beats an evaluation one, one with pages left beats one that is used up, a running term
    beats grace, a later expiry beats an earlier one.

    Args:
        files: As `read_folder` returned them.
        trust_root: Whom to believe.
        at: The effective time, aware UTC.
        container_type: See `judge`, as for all that follow.
        host: See `judge`.
        device_public: See `judge`.
        sequence_floor: See `judge`; a mapping from licence id is best here.
        revoked_license_ids: See `judge`; what the files themselves revoke is added.
        revoked_key_ids: See `judge`; what the files themselves revoke is added.
        product_version: See `judge`.
        remembered: Files that lay in the folder once, of which only what they revoke is believed still.
        used: Pages counted so far, by licence id; None where nobody counts.
    """
    used = used or {}
    opened: dict[int, License] = {}
    lists: list[_List] = []
    verdicts: dict[int, FileVerdict] = {}
    for index, file in enumerate(files):
        try:
            if file.blob is None:
                reason = file.problem or "The file could not be read."
                verdicts[index] = FileVerdict(
                    file.name, "file_problem", reason, next_step="Replace or remove this file."
                )
            elif is_revocation(file.blob):
                revocation = open_revocation(file.blob, trust_root)
                lists.append(_List.of_revocation(revocation, file.blob))
                verdicts[index] = FileVerdict(
                    file.name, "revocation", _told(revocation), next_step="No action needed: leave it in the folder."
                )
            else:
                opened[index] = open_license(file.blob, trust_root)
                lists.append(_List.of_license(opened[index], file.blob))
        except LicensesError as exc:
            verdicts[index] = FileVerdict(file.name, exc.code, str(exc), next_step=exc.next_step)
    lists += _remembered(remembered, trust_root)
    ids, keys, newest = _revocations(lists, opened.values(), frozenset(revoked_license_ids), frozenset(revoked_key_ids))
    judgements = {
        index: judge(
            lic,
            at=at,
            container_type=container_type,
            host=host,
            device_public=device_public,
            sequence_floor=sequence_floor,
            revoked_license_ids=ids,
            revoked_key_ids=keys,
            product_version=product_version,
        )
        for index, lic in opened.items()
    }
    _mark_superseded(opened, judgements)
    for index, judgement in judgements.items():
        verdicts[index] = FileVerdict(
            files[index].name, judgement.standing, judgement.reason, opened[index], judgement.next_step
        )
    spent = {index for index, lic in opened.items() if lic.is_used_up(used.get(lic.license_id, 0))}
    # A licence that was exchanged for one with less, of the same sequence, is used up with it.
    over = {(opened[index].license_id, opened[index].sequence) for index in spent}
    best = min(
        judgements,
        key=lambda index: _rank(
            lic := opened[index],
            judgements[index],
            files[index].name,
            is_used_up=(lic.license_id, lic.sequence) in over,
        ),
        default=None,
    )
    for index in spent:
        if judgements[index].serves:
            verdicts[index] = _used_up(verdicts[index], another_serves=best not in spent)
    return Choice(
        best=None if best is None else opened[best],
        best_name=None if best is None else files[best].name,
        judgement=None if best is None else judgements[best],
        verdicts=tuple(verdicts[index] for index in range(len(files))),
        revoked_license_ids=ids,
        revoked_key_ids=keys,
        revoked_sequence=newest.revoked.sequence if newest is not None else 0,
        revoked_by=newest.blob if newest is not None else None,
    )


_TELLING = (
    Standing.VALID,
    Standing.GRACE,
    Standing.NOT_YET_VALID,
    Standing.EXPIRED,
    Standing.UPGRADE_NEEDED,
    Standing.DEVICE_MISMATCH,
    Standing.HOST_MISMATCH,
    Standing.MISMATCH,
    Standing.SUPERSEDED,
    Standing.REVOKED,
)


def _used_up(verdict: FileVerdict, *, another_serves: bool) -> FileVerdict:
    """The verdict on a file that would serve, had it pages left."""
    more, none = "Ask the vendor for a licence with more pages.", "No action needed: another licence serves."
    return replace(
        verdict, reason=f"{verdict.reason} All its pages are used.", next_step=none if another_serves else more
    )


def _rank(
    lic: License, judgement: Judgement, name: str, *, is_used_up: bool
) -> tuple[bool, bool, bool, int, float, int, float, str, str]:
    """The smallest is the best."""
    return (
        not judgement.serves,
        lic.evaluation,
        is_used_up,
        _TELLING.index(judgement.standing),
        -lic.expires_at.timestamp(),
        -lic.sequence,
        -lic.issued_at.timestamp(),  # the vendor's newer word, not the accident of an id
        lic.license_id,
        name,
    )


def _mark_superseded(opened: Mapping[int, License], judgements: dict[int, Judgement]) -> None:
    newest: dict[str, int] = {}
    for index, lic in opened.items():
        if judgements[index].serves:
            newest[lic.license_id] = max(lic.sequence, newest.get(lic.license_id, 0))
    for index, lic in opened.items():
        sequence = newest.get(lic.license_id, 0)
        if judgements[index].serves and lic.sequence < sequence:
            reason = f"Sequence {lic.sequence} is replaced by sequence {sequence} in the same folder."
            judgements[index] = Judgement(Standing.SUPERSEDED, reason)


@dataclass(frozen=True, slots=True)
class _List:
    """One list of revocations, and who vouches for it."""

    revoked: Revoked
    key_id: KeyId
    evaluation: bool
    blob: bytes
    license_id: str = ""

    @classmethod
    def of_license(cls, lic: License, blob: bytes) -> "_List":
        return cls(lic.revoked, lic.key_id, lic.evaluation, blob, lic.license_id)

    @classmethod
    def of_revocation(cls, revocation: Revocation, blob: bytes) -> "_List":
        return cls(revocation.revoked, revocation.key_id, revocation.evaluation, blob)


def _told(revocation: Revocation) -> str:
    revoked = revocation.revoked
    return (
        f"This is a revocation (list {revoked.sequence}): it takes back {len(revoked.license_ids)} licence(s) and "
        f"{len(revoked.key_ids)} key(s)."
    )


def _remembered(blobs: Sequence[bytes], trust_root: TrustRoot) -> Iterator[_List]:
    for blob in blobs:
        with contextlib.suppress(LicensesError):
            if is_revocation(blob):
                yield _List.of_revocation(open_revocation(blob, trust_root), blob)
            else:
                yield _List.of_license(open_license(blob, trust_root), blob)


def _revocations(
    lists: Collection[_List],
    licenses: Collection[License],
    license_ids: frozenset[str],
    key_ids: frozenset[str],
) -> tuple[frozenset[str], frozenset[str], _List | None]:
    """Add what the lists revoke; a revoked licence or key revokes nothing, evaluation ones nothing of production."""
    newest: _List | None = None
    for one in sorted(lists, key=lambda one: (one.evaluation, -one.revoked.sequence, one.license_id, one.blob)):
        if one.license_id in license_ids or one.key_id in key_ids or one.revoked.sequence == 0:
            continue
        newest = one if newest is None else newest
        production = {other.license_id for other in licenses if one.evaluation and not other.evaluation}
        signers = {other.key_id for other in licenses if one.evaluation and not other.evaluation}
        license_ids = license_ids | (set(one.revoked.license_ids) - production - {one.license_id})
        key_ids = key_ids | (set(one.revoked.key_ids) - signers - {one.key_id})
    return license_ids, key_ids, newest


def _names(path: Path) -> Iterator[str]:
    with os.scandir(path) as entries:
        for count, entry in enumerate(entries):
            if count >= MAX_NAMES:
                return
            if not entry.name.startswith((".", "#")) and not entry.name.endswith(_LEFTOVERS):
                yield entry.name


def _newest(folder: Path, names: Sequence[str]) -> Sequence[str]:
    """As many names as are read: all, or those whose files were written last."""
    if len(names) <= MAX_FILES:
        return names

    def age(name: str) -> tuple[int, str]:
        try:
            return -os.stat(folder / name).st_mtime_ns, name
        except OSError:
            return 0, name

    return heapq.nsmallest(MAX_FILES, names, key=age)


def _read(folder: Path, name: str) -> LicenseFile:
    shown = name.encode("utf-8", errors="backslashreplace").decode("utf-8")
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb") as stream:
            kind = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(kind):
                return LicenseFile(shown, None, f"This is {_kind_text(kind)}, not a file.")
            blob = stream.read(MAX_BYTES + 1)
    except IsADirectoryError:
        return LicenseFile(shown, None, "This is a directory, not a file.")
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return LicenseFile(shown, None, "This is a socket, not a file.")
        wanted = f" User id {os.geteuid()} must be able to read it." if isinstance(exc, PermissionError) else ""
        return LicenseFile(shown, None, f"The file cannot be read: {exc.strerror or exc}.{wanted}")
    if len(blob) > MAX_BYTES:
        return LicenseFile(shown, None, f"The file is longer than {MAX_BYTES} bytes: no licence is.")
    return LicenseFile(shown, blob)


def _kind_text(mode: int) -> str:
    for is_kind, words in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if is_kind(mode):
            return words
    return "something else"
