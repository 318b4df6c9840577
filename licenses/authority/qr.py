"""QR codes of acknowledgements, for sites that nothing but a screen or paper reaches. It alone knows `segno` here.

Invariant: what a scanner reads is the file byte for byte; one that does not fit into one code is refused, not split.
"""

import io

import segno

from licenses.errors import ExchangeError

MAX_BYTES = 2953
"""What the largest code holds at the lowest error correction."""


def fits(blob: bytes) -> bool:
    """Whether a file can be shown as one code."""
    return len(blob) <= MAX_BYTES


def qr_code(blob: bytes, kind: str) -> bytes:
    """A picture of a file.

    Args:
        blob: ASCII, at most `MAX_BYTES`.
        kind: "svg" or "png".

    Raises:
        ExchangeError: It does not fit.
    """
    if not fits(blob):
        raise ExchangeError(
            f"the file has {len(blob):,} bytes, and a QR code holds {MAX_BYTES:,} at most",
            next_step="Carry the file itself; an acknowledgement that no licence goes along with fits.",
        )
    out = io.BytesIO()
    segno.make_qr(blob, error="l", boost_error=True).save(out, kind=kind, scale=4, border=4)
    return out.getvalue()
