"""`make accuracy`: what is read right, by kind of page, against plain Tesseract on the same files → docs/accuracy.md.

Every reader has each file in turn, so that a noisy machine is noisy for all of them. Times include decoding.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.error_rate import error_rate
from ocr_core import documents, languages
from ocr_core.engine import OcrEngine
from ocr_core.pages.page_reader import PageReader
from ocr_core.settings import Settings
from ocr_core.tesseract import DEFAULT_TESSDATA, TesserocrEngine
from tests import hard_pages, pages

ROOT = Path(__file__).parents[1]
CORPUS = ROOT.parent / "shared" / "corpus"
ANSWER = ROOT / "docs" / "accuracy.md"
_UNCAPPED = documents.MAX_SIDE**2
_MAX_PIXELS = Settings().max_pixels
_TAGS = (
    "printed", "book", "typewritten", "receipt", "multicolumn", "table", "bilevel", "pdf", "multipage", "rotated",
    "skewed", "inverted", "small", "photo", "scene", "handwritten", "form", "multilang", "lang", "notext",
)  # fmt: skip
_BY_LANGUAGE = "language "
_SPARED = "textord_all_prop"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A document and what it says.

    Attributes:
        name: Its file name, or what was drawn.
        data: Its bytes.
        models: Tesseract models of its languages.
        tags: What kind of page it is.
        truth: The text, pages one after the other.
        fold_case: Compare without regard to case.
        is_partial: The truth holds the legible text alone.
    """

    name: str
    data: bytes
    models: tuple[str, ...]
    tags: tuple[str, ...]
    truth: str
    fold_case: bool = False
    is_partial: bool = False


@dataclass
class Reader:
    """One way to read.

    Attributes:
        name: Head of its column.
        read: The text of a page, given the document, the page and the models of its languages.
        rates: Error rate by sample.
        cpu: CPU seconds by sample, of all threads.
        wall: Seconds by sample.
    """

    name: str
    read: Callable[[io.BufferedRandom, int, tuple[str, ...]], str]
    rates: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)


# ---- what is read ---------------------------------------------------------------------------------------------------


def corpus() -> Iterator[Sample]:
    """The corpus, where it is."""
    manifest = CORPUS / "manifest.json"
    if not manifest.exists():
        return
    for entry in json.loads(manifest.read_text()):
        tags = tuple(entry["tags"])
        if entry["truth"] is None and "notext" not in tags:
            continue
        truth = (CORPUS / entry["truth"]).read_text(encoding="utf-8") if entry["truth"] else ""
        yield Sample(
            name=entry["file"],
            data=(CORPUS / entry["file"]).read_bytes(),
            models=tuple(entry["lang"].split("+")),
            tags=tags,
            truth=truth,
            fold_case=bool(entry.get("fold_case")),
            is_partial=bool(entry.get("truth_partial")),
        )


def drawn() -> Iterator[Sample]:
    """Pages that are drawn here, so that something is measured everywhere."""
    sheet = pages.printed_page(pages.LINES * 3, size=(2480, 3508), dpi=300, points=10)
    small = pages.printed_page(pages.LINES * 3, size=(1654, 2339), dpi=200, points=6)
    page = pages.printed_page(pages.LINES * 2)
    half = [line[:34].strip() for line in pages.LINES]
    columns = pages.two_columns(half, half[::-1])
    made: dict[str, tuple[pages.PrintedPage, tuple[str, ...]]] = {
        "A4 at 300 DPI, 10 point": (sheet, ("printed",)),
        "A4 at 200 DPI, 6 point": (small, ("printed", "small")),
        "A4 at 150 DPI, 11 point": (page, ("printed",)),
        "two columns": (columns, ("printed", "multicolumn")),
        "two columns, uneven light": (hard_pages.shadowed(columns), ("multicolumn", "photo")),
        "uneven light": (hard_pages.unevenly_lit(page), ("photo",)),
        "shadow": (hard_pages.shadowed(page), ("photo",)),
        "photographed": (hard_pages.photographed(page), ("photo",)),
        "low contrast": (hard_pages.low_contrast(page), ("printed",)),
        "light on dark": (hard_pages.inverted(page), ("inverted",)),
        "out of focus": (hard_pages.blurred(page), ("photo",)),
        "grainy": (hard_pages.noisy(page), ("photo",)),
        "blank": (pages.empty_page(), ("notext",)),
        "a photo": (hard_pages.photo_without_text(), ("notext",)),
        "bricks": (hard_pages.texture_without_text(), ("notext",)),
        "noise": (hard_pages.noise_without_text(), ("notext",)),
    }
    for degrees in (90, 180, 270):
        made[f"turned by {degrees} degrees"] = (pages.turned(page, degrees), ("rotated",))
    for degrees in (-15, -7, 3, 15):
        made[f"askew by {degrees} degrees"] = (pages.turned(page, degrees), ("skewed",))
    for name, (one, tags) in made.items():
        data = pages.as_png(one)
        yield Sample(name=name, data=data, models=("eng",), tags=tags, truth=one.text)


# ---- who reads ------------------------------------------------------------------------------------------------------


def _plain() -> Callable[[io.BufferedRandom, int, tuple[str, ...]], str]:
    """Tesseract alone: page segmentation mode 3, the file's resolution, every pixel, the right languages."""
    import tesserocr

    engines: dict[tuple[str, ...], tesserocr.PyTessBaseAPI] = {}

    def read(file: io.BufferedRandom, page: int, models: tuple[str, ...]) -> str:
        engine = engines.get(models)
        if engine is None:
            engine = engines[models] = tesserocr.PyTessBaseAPI(
                path=str(DEFAULT_TESSDATA), lang="+".join(models), psm=tesserocr.PSM.AUTO, oem=tesserocr.OEM.LSTM_ONLY
            )
        image = documents.load_page(file, page, max_pixels=_UNCAPPED)
        gray = image.image
        engine.SetImageBytes(gray.tobytes(), gray.width, gray.height, 1, gray.width)
        if image.dpi is not None:
            engine.SetSourceResolution(image.dpi)
        engine.SetVariable(_SPARED, "0")  # one for the whole process, and the core's engine has spared itself that
        try:
            return str(engine.GetUTF8Text())
        finally:
            engine.SetVariable(_SPARED, "1")

    return read


def _core(
    engine: OcrEngine, second: OcrEngine | None, *, is_told: bool, even_for_print: bool = False
) -> Callable[[io.BufferedRandom, int, tuple[str, ...]], str]:
    """The core as it reads a page, in process."""
    reader = PageReader(engine, second=second, even_for_print=even_for_print)
    installed = engine.languages()
    first = (languages.first_model(installed),)

    def read(file: io.BufferedRandom, page: int, models: tuple[str, ...]) -> str:
        image = documents.load_page(file, page, max_pixels=_MAX_PIXELS)
        found = reader.read(image, models if is_told else first, choices=() if is_told else installed, order="natural")
        return "\n".join(line.text for line in found.lines)

    return read


def _second_engine() -> OcrEngine | None:
    with suppress(ImportError):
        from ocr_core.second_engine.rapid import RapidEngine

        return RapidEngine()
    return None


def _readers() -> list[Reader]:
    engine = TesserocrEngine(cached_sets=6, cached_models=20)
    second = _second_engine()
    found = [
        Reader("Tesseract, told the language", _plain()),
        Reader("core, told", _core(engine, None, is_told=True)),
        Reader("core", _core(engine, None, is_told=False)),
    ]
    if second is not None:
        found += [
            Reader("core and second engine, told", _core(engine, second, is_told=True)),
            Reader("core and second engine", _core(engine, second, is_told=False)),
            Reader("second engine for print, told", _core(engine, second, is_told=True, even_for_print=True)),
        ]
    return found


def measure(samples: Sequence[Sample], readers: Sequence[Reader], rounds: int) -> None:
    """Have every reader read every sample, in turns."""
    installed = TesserocrEngine().languages()
    for sample in samples:
        models = tuple(model for model in sample.models if model in installed) or ("eng",)
        with tempfile.TemporaryFile() as file:
            file.write(sample.data)
            file.flush()
            count = documents.inspect(file, documents.READABLE).pages
            for _ in range(rounds):
                for reader in readers:
                    cpu, wall = time.process_time(), time.perf_counter()
                    text = "\n".join(reader.read(file, page, models) for page in range(1, count + 1))
                    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                    reader.cpu[sample.name] = min(cpu, reader.cpu.get(sample.name, cpu))
                    reader.wall[sample.name] = min(wall, reader.wall.get(sample.name, wall))
                    reader.rates[sample.name] = error_rate(
                        sample.truth, text, fold_case=sample.fold_case, is_partial=sample.is_partial
                    )
        print(f"{sample.name[:60]:60}", *(f"{r.rates[sample.name]:.4f}" for r in readers), flush=True)


# ---- what is told ---------------------------------------------------------------------------------------------------


def by_tag(samples: Sequence[Sample], readers: Sequence[Reader]) -> str:
    """Mean error rate for each kind of page, and the time against the first reader's."""
    heads = ["Pages", "Files", *(reader.name for reader in readers)]
    rows = []
    groups = [(tag, [s for s in samples if tag in s.tags]) for tag in _TAGS]
    groups += [
        (_BY_LANGUAGE + model, [s for s in samples if s.models[0] == model and "notext" not in s.tags])
        for model in sorted({s.models[0] for s in samples})
    ]
    groups.append(("all", list(samples)))
    for name, group in groups:
        if group:
            means = [sum(reader.rates[s.name] for s in group) / len(group) for reader in readers]
            rows.append([name, str(len(group)), *(f"{value:.4f}" for value in means)])
    return _table(heads, rows)


def times(samples: Sequence[Sample], readers: Sequence[Reader]) -> str:
    """CPU and wall time of each reader as a share of the first one's."""
    first = readers[0]
    heads = ["Pages", *(f"{reader.name}: CPU / wall" for reader in readers[1:])]
    rows = []
    for tag in (*_TAGS, "all"):
        group = [s.name for s in samples if tag in s.tags or tag == "all"]
        if group:
            shares = [
                f"{_total(reader.cpu, group) / _total(first.cpu, group):.2f} / "
                f"{_total(reader.wall, group) / _total(first.wall, group):.2f}"
                for reader in readers[1:]
            ]
            rows.append([tag, *shares])
    return _table(heads, rows)


def by_file(samples: Sequence[Sample], readers: Sequence[Reader]) -> str:
    """Error rate of each file."""
    rows = [[s.name, " ".join(s.tags), *(f"{reader.rates[s.name]:.4f}" for reader in readers)] for s in samples]
    return _table(["File", "Tags", *(reader.name for reader in readers)], rows)


def _total(values: dict[str, float], names: Sequence[str]) -> float:
    return sum(values[name] for name in names)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---" if number == 0 else "---:" for number in range(len(heads))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


_INTRODUCTION = """\
# How well it reads

Written by `make accuracy`; do not edit. The figure is the character error rate: edits for each character of the truth,
0 is perfect, at most 1, for a page without text 1 where any text is told. Means are over files, each file counts once.
Compared after NFC, with plain quotes and dashes, hyphens at line ends joined and white space collapsed; natural reading
order; without regard to case where the truth was written so. Where the truth holds the legible text alone, what is read
before and after it is not counted.

* **Tesseract, told the language**: the engine alone (tesserocr, automatic page segmentation), every pixel, the file's
  resolution, the right models. Pages of a PDF are drawn by the same renderer.
* **core**: what Tollgate makes of the page, up to {megapixels:g} megapixels, told nothing; **told**: told the models of
  its languages.
* **second engine**: with the optional extra `handwriting`, which reads handwriting and photos; **for print**: and print
  that Tesseract reads badly (`Core:SecondEngineForPrint=true`).
"""


def report(sets: Sequence[tuple[str, str, Sequence[Sample]]], readers: Sequence[Reader]) -> str:
    """The whole document."""
    parts = [_INTRODUCTION.format(megapixels=_MAX_PIXELS / 1e6)]
    for title, about, samples in sets:
        parts.append(f"## {title}\n\n{about}\n")
        if samples:
            parts += [
                "Mean error rate by kind of page; a file may be of several kinds.\n",
                by_tag(samples, readers),
                "Time, decoding included, as a share of what plain Tesseract takes.\n",
                times(samples, readers),
                "Each file.\n",
                by_file(samples, readers),
            ]
    return "\n".join(parts)


def main() -> None:
    """Measure and write the document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="how often each file is read; the best time counts")
    parser.add_argument(
        "--only", default="", help="regular expression: names or tags of the files to read; writes nothing"
    )
    parser.add_argument("--readers", default="", help="regular expression: readers to ask; the first is always asked")
    options = parser.parse_args()
    chosen = re.compile(options.only)
    real, own = (
        [sample for sample in found if chosen.search(" ".join((sample.name, *sample.tags)))]
        for found in (corpus(), drawn())
    )
    readers = _readers()
    readers[1:] = [reader for reader in readers[1:] if re.search(options.readers, reader.name)]
    print(f"{'file':60}", *(reader.name for reader in readers), sep=" | ")
    measure([*real, *own], readers, options.rounds)
    sets = [
        ("The corpus", "Real pages from public repositories." if real else "It was not there.", real),
        ("Drawn pages", "Made by the tests, with a known truth.", own),
    ]
    text = report(sets, readers)
    if options.only or options.readers:
        print("\n" + text)
    else:
        ANSWER.write_text(text, encoding="utf-8")
        print(f"\nwrote {ANSWER.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
