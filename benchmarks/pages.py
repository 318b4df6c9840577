"""What is read: the project's own pages at 300 DPI, and the printed ones of the corpus where that is present."""

from __future__ import annotations

import json
from pathlib import Path

from tests.pages import LINES, as_jpeg, as_png, printed_page

CORPUS = Path(__file__).parents[2] / "shared" / "corpus"
_IMAGES = {".png", ".jpg", ".tif", ".bmp"}


def bench_pages() -> list[tuple[str, bytes]]:
    """Name and bytes of each page; single images, because the baseline knows nothing of documents."""
    pages = []
    for number, points in enumerate((9, 10, 11, 12)):
        page = printed_page(LINES * 5, size=(2480, 3508), dpi=300, points=points)
        pages.append((f"own-{points}pt", as_png(page) if number % 2 else as_jpeg(page)))
    manifest = CORPUS / "manifest.json"
    if manifest.exists():
        for entry in json.loads(manifest.read_text()):
            path = CORPUS / entry["file"]
            if entry["lang"] == "eng" and "printed" in entry["tags"] and path.suffix in _IMAGES:
                pages.append((path.name, path.read_bytes()))
    return pages
