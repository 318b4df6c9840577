"""What is read: the project's own pages at 300 DPI, and the printed English ones of the corpus where that is present.

Each page is a single picture in a format that every contender takes (PNG or JPEG), with its truth; those with the most
pixels come first, so that a round does not end with one long page on one processor.
"""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.error_rate import error_rate
from tests.pages import LINES, as_jpeg, encoded, printed_page

CORPUS = Path(__file__).parents[2] / "shared" / "corpus"
_PICTURES = {
    ".png": "png",
    ".jpg": "jpg",
    ".tif": "png",
}  # TIFF as a grey PNG: not every peer takes TIFF, or one bit a pixel
# Pages that Tesseract alone reads as they are; what is turned, slanted or photographed is for `benchmarks.accuracy`.
_LEFT_OUT = {"rotated", "skewed", "scene", "photo", "oddformat", "multipage", "multilang", "lang", "inverted"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPage:
    """One page.

    Attributes:
        name: Of its file, with the suffix that tells the format.
        blob: The file.
        pixels: How many it has.
        truth: What is printed on it.
        fold_case: Whether the truth is to be compared without regard to case.
        is_own: Drawn here, so that any engine must read it nearly without fault.
    """

    name: str
    blob: bytes
    pixels: int
    truth: str
    fold_case: bool = False
    is_own: bool = False

    def error_rate(self, text: str) -> float:
        """Character error rate of a text that was read from it."""
        return error_rate(self.truth, text, fold_case=self.fold_case)


def bench_set() -> list[BenchPage]:
    """All pages, the largest first."""
    return sorted([*_own_pages(), *_corpus_pages()], key=lambda page: (-page.pixels, page.name))


def few_pages(pages: list[BenchPage], count: int) -> list[BenchPage]:
    """Some of all sizes, for contenders that take long."""
    step = len(pages) / count
    return [pages[int(number * step)] for number in range(count)]


def _own_pages() -> list[BenchPage]:
    """Four sheets as scanners give them: two of 8.7 million pixels with an alpha channel, two JPEGs of 5 million."""
    pages = []
    for number, points in enumerate((9, 10, 11, 12)):
        size = (2480, 3508) if number % 2 else (1930, 2600)
        words = round((size[0] - 400) / (points * 300 / 72 * 3.1))
        lines = _prose(seed=number, words=words, lines=round((size[1] - 700) / (points * 300 / 72 * 1.6)))
        page = printed_page(lines, size=size, dpi=300, points=points)
        if number % 2:
            name, blob = f"own-{points}pt.png", encoded(page.image.convert("RGBA"), "PNG", dpi=(300, 300))
        else:
            name, blob = f"own-{points}pt.jpg", as_jpeg(page)
        pages.append(BenchPage(name=name, blob=blob, pixels=size[0] * size[1], truth=page.text, is_own=True))
    return pages


def _prose(*, seed: int, words: int, lines: int) -> list[str]:
    """Lines of plain English words, the same ones at every run."""
    chance, stock = random.Random(seed), " ".join(LINES).split()
    return [" ".join(chance.choice(stock) for _ in range(words)) for _ in range(lines)]


def _corpus_pages() -> list[BenchPage]:
    manifest = CORPUS / "manifest.json"
    if not manifest.exists():
        return []
    return [page for entry in json.loads(manifest.read_text(encoding="utf-8")) if (page := _corpus_page(entry))]


def _corpus_page(entry: dict[str, Any]) -> BenchPage | None:
    path, tags = CORPUS / entry["file"], set(entry["tags"])
    kind = _PICTURES.get(path.suffix)
    if kind is None or entry["lang"] != "eng" or "printed" not in tags or tags & _LEFT_OUT or not entry["truth"]:
        return None
    blob = path.read_bytes()
    with Image.open(io.BytesIO(blob)) as picture:
        pixels = picture.width * picture.height
        if path.suffix == ".tif":
            dpi = picture.info.get("dpi", (300, 300))
            blob = encoded(picture.convert("L"), "PNG", dpi=tuple(map(float, dpi)))
    return BenchPage(
        name=f"{path.stem}.{kind}",
        blob=blob,
        pixels=pixels,
        truth=(CORPUS / entry["truth"]).read_text(encoding="utf-8"),
        fold_case=bool(entry.get("fold_case")),
    )
