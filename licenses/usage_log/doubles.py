"""Uses that were counted twice, found among millions in eight bytes each.

Invariants:

* Every use of the records is remembered by a hash; the few hashes that occur twice are looked up in the files again,
  so that no finding rests on a hash.
* Memory grows by eight bytes per use and by nothing else: the hashes are sorted in parts.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from licenses.errors import RecordError
from licenses.usage_log.entry import Use, parse_entry, read_use, use_from
from licenses.usage_log.files import RecordReader

_PARTS = 256


class SeenUses:
    """Remembers the uses read."""

    def __init__(self) -> None:
        self._parts = [array("q") for _ in range(_PARTS)]

    @property
    def add(self) -> Callable[[bytes, int, bytes], None]:
        """Remember one use, by identity, page and meter; fetched once, called for each entry."""
        parts, mask = self._parts, _PARTS - 1

        def add(identity: bytes, page: int, meter: bytes) -> None:
            mark = hash((identity, page, meter))
            parts[mark & mask].append(mark)

        return add

    def suspects(self) -> set[int]:
        """The hashes that occur more than once; forgets all of them."""
        found: set[int] = set()
        for part in filter(None, self._parts):
            found.update(one for one, other in pairwise(sorted(part)) if one == other)
            del part[:]
        return found


def doubles_in(paths: Sequence[Path], suspects: set[int]) -> Iterator[tuple[Path, Use, int]]:
    """The uses that count again what an earlier one counted.

    Args:
        paths: The record files, in the order in which they were read.
        suspects: Hashes, as `SeenUses.suspects` gave them.

    Returns:
        File, use, and the number of the entry that counted it first.
    """
    if not suspects:
        return
    seen: dict[tuple[bytes, int, bytes], tuple[int, Path]] = {}
    for use, path in _uses_in(paths):
        if hash((use.identity, use.page, use.meter)) in suspects:
            earlier = seen.setdefault((use.identity, use.page, use.meter), (use.seq, path))
            if earlier != (use.seq, path):
                yield path, use, earlier[0]


def _uses_in(paths: Sequence[Path]) -> Iterator[tuple[Use, Path]]:
    for path in paths:
        with suppress(RecordError, OSError), RecordReader(path) as reader:
            for line in reader:
                use = read_use(line)
                if use is None:
                    entry = parse_entry(line)
                    use = use_from(entry) if entry["kind"] == "use" else None
                if use is not None:
                    yield use, path
