"""How a version words an operation, in pieces: a large result is never in memory as a whole.

Invariant: the pieces, one after the other, are the bytes of the version's model encoded at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from ocr_core.page_text import PageText
from sidecar.results import Operation

_MARK = b"\x00"
"""Where the pages go in what is around them: no JSON holds it, for strings have control characters escaped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """The words of one version: a list of what the pages hold, and what is around it.

    Attributes:
        around: From an operation and that list to the version's model, which holds the list at most once; pure.
        of_page: What a page adds to the list; pure.
    """

    around: Callable[[Operation, list[Any]], Any]
    of_page: Callable[[PageText], list[Any]]

    def pieces(self, operation: Operation) -> Iterator[bytes]:
        """The answer, in a few pieces and one for each page, made as they are asked for.

        Raises:
            SpoolUnavailableError: A page cannot be read.
        """
        around = msgspec.json.encode(self.around(operation, [msgspec.Raw(_MARK)]))
        before, _, after = around.partition(_MARK)
        yield before
        comma = b""
        for page in operation.pages:
            told = msgspec.json.encode(self.of_page(page))[1:-1]
            if told:
                yield comma + told
                comma = b","
        yield after
