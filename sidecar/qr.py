"""QR codes, for sites that only a photograph leaves. The one module that knows `segno`.

Invariant: the text comes out of a scanner byte for byte as it went in; one that does not fit into one code is refused.
"""

from __future__ import annotations

import io

import segno

MAX_BYTES = 2953
"""What the largest code holds at the lowest error correction."""


class QrCode:
    """One code.

    Args:
        text: What it tells, at most `MAX_BYTES` bytes of UTF-8.

    Raises:
        ValueError: The text is longer.
    """

    def __init__(self, text: str) -> None:
        self._code = segno.make_qr(text, error="l", encoding="utf-8", boost_error=True)

    @property
    def version(self) -> int:
        """Its size class, 1 to 40."""
        return int(self._code.version)

    def for_terminal(self) -> str:
        """The code in half blocks, light on dark as terminals are; two rows of modules per line."""
        out = io.StringIO()
        self._code.terminal(out, compact=True)
        return out.getvalue()

    def to_bytes(self, kind: str) -> bytes:
        """The code as a file's bytes.

        Args:
            kind: "svg" or "png".
        """
        out = io.BytesIO()
        self._code.save(out, kind=kind, scale=4, border=4)
        return out.getvalue()
