"""The limit: bare tesserocr, one process per processor; nothing but decode and recognise.

Run as `python -m benchmarks.bare` it is one such engine: a path a line on stdin, a line of JSON with its text on
stdout.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

TESSDATA = os.environ.get("TESSDATA_PREFIX", "/usr/share/tesseract-ocr/5/tessdata")


def stock_engine() -> Any:
    """One engine for English, as every program of this kind makes it."""
    import tesserocr

    return tesserocr.PyTessBaseAPI(path=TESSDATA, lang="eng", psm=3, oem=1)


def stock_text(engine: Any, path: str) -> str:
    """What the engine reads on a picture as it is."""
    from PIL import Image

    with Image.open(path) as opened:
        dpi = round(opened.info.get("dpi", (0, 0))[0])
        image = opened.convert("L")
    engine.SetImageBytes(image.tobytes(), image.width, image.height, 1, image.width)
    if 70 <= dpi <= 1200:
        engine.SetSourceResolution(dpi)
    return str(engine.GetUTF8Text())


def _serve() -> None:
    engine = stock_engine()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(stock_text(engine, line.rstrip("\n"))), flush=True)


if __name__ == "__main__":
    _serve()
