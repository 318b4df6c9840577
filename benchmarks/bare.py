"""The limit: bare tesserocr, one process per worker, on pages that lie in memory; nothing but decode and recognise."""

from __future__ import annotations

import io
import multiprocessing
import os
import time
from collections.abc import Sequence

TESSDATA = os.environ.get("TESSDATA_PREFIX", "/usr/share/tesseract-ocr/5/tessdata")
_engine: object | None = None


def _start() -> None:
    import tesserocr

    global _engine  # noqa: PLW0603 - one engine per process, as in every worker of this kind
    _engine = tesserocr.PyTessBaseAPI(path=TESSDATA, lang="eng", psm=3, oem=1)


def _read(page: bytes) -> int:
    from PIL import Image

    engine = _engine
    assert engine is not None
    with Image.open(io.BytesIO(page)) as opened:
        dpi = round(opened.info.get("dpi", (0, 0))[0])
        image = opened.convert("L")
    engine.SetImageBytes(image.tobytes(), image.width, image.height, 1, image.width)  # type: ignore[attr-defined]
    if 70 <= dpi <= 1200:
        engine.SetSourceResolution(dpi)  # type: ignore[attr-defined]
    return len(engine.GetUTF8Text())  # type: ignore[attr-defined]


class BareTesserocr:
    """A pool of bare engines.

    Args:
        processes: How many.
    """

    def __init__(self, processes: int) -> None:
        self._pool = multiprocessing.get_context("spawn").Pool(processes, initializer=_start)

    def seconds_for(self, pages: Sequence[bytes]) -> float:
        """Read all pages; how long it took."""
        started = time.perf_counter()
        for _ in self._pool.imap_unordered(_read, pages, chunksize=1):
            pass
        return time.perf_counter() - started

    def close(self) -> None:
        """End the processes."""
        self._pool.terminate()
        self._pool.join()
