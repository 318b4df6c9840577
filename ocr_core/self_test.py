"""Proof on the spot: draw a page, read it through the whole way of a page, and time it.

Invariant: needs no licence, no lease, no socket, and leaves nothing behind.
"""

import tempfile
import time

from PIL import Image, ImageDraw, ImageFont

from ocr_core import documents
from ocr_core.cpu import Cpu
from ocr_core.engine import OcrEngine
from ocr_core.errors import CoreError
from ocr_core.languages import known_models, supported
from ocr_core.page_reader import PageReader

LINES = (
    "Every page is counted once, and once only.",
    "The quick brown fox jumps over the lazy dog.",
    "A licence lets the service read without a network.",
)
_DPI = 300


def run(engine: OcrEngine, models: tuple[str, ...], cpu: Cpu, max_pixels: int) -> dict[str, object]:
    """What this machine can do.

    Args:
        engine: The engine to try.
        models: Models to read with.
        cpu: What is known of the processor.
        max_pixels: As in service.

    Returns:
        Facts by name; `passed` is True when the drawn page was read without a mistake.
    """
    installed = engine.languages()
    facts: dict[str, object] = {
        "cpu_supported": cpu.supported,
        "cpu": cpu.reason,
        "engine": f"{engine.name} {engine.version}",
        "models": list(installed),
        "languages": list(supported(installed)),
    }
    if not cpu.supported:
        return facts | {"passed": False, "problem": cpu.reason}
    try:
        started = time.monotonic()
        engine.preload(known_models(models, installed))
        loaded = time.monotonic()
        text = _read(engine, models, max_pixels)
        done = time.monotonic()
    except CoreError as exc:
        return facts | {"passed": False, "problem": str(exc)}
    passed = text == list(LINES)
    return facts | {
        "load_seconds": round(loaded - started, 3),
        "page_seconds": round(done - loaded, 3),
        "passed": passed,
        "problem": "" if passed else f"the page was read as: {' / '.join(text)}",
    }


def _read(engine: OcrEngine, models: tuple[str, ...], max_pixels: int) -> list[str]:
    with tempfile.TemporaryFile() as file:
        _drawn().save(file, "PNG", dpi=(_DPI, _DPI))
        file.flush()
        documents.inspect(file)
        image = documents.load_page(file, 1, max_pixels=max_pixels)
    return [line.text for line in PageReader(engine).read(image, models).lines]


def _drawn() -> Image.Image:
    """An A4 sheet at 300 DPI with a few printed lines."""
    sheet = Image.new("L", (2480, 3508), 255)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=52)
    for number, line in enumerate(LINES):
        pen.text((250, 300 + 90 * number), line, font=font, fill=0)
    return sheet
