"""Proof on the spot: what this machine can do, by doing it.

The processor executes an AVX2 instruction, a child is confined, pages are drawn here and read through the whole way of
a page, and the second engine, where there is one, is started and shown a picture.

Invariant: needs no licence, no lease, no socket, and leaves nothing behind; whatever breaks is a failed check.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

from ocr_core import documents
from ocr_core.check import Check
from ocr_core.confinement import Confinement
from ocr_core.cpu import Cpu
from ocr_core.engine import OcrEngine, Picture
from ocr_core.errors import CoreError
from ocr_core.languages import FIRST_MODEL, first_model, known_models, supported
from ocr_core.limits import SECOND_ENGINE_BYTES, WORKER_BYTES
from ocr_core.page_text import PageText
from ocr_core.pages.page_reader import PageReader
from ocr_core.second_engine import SecondEngineMissingError, Standing, host, standing
from ocr_core.settings import Settings
from ocr_core.tesseract import ORIENTATION_MODEL

LINES = (
    "Every page is counted once, and once only.",
    "The quick brown fox jumps over the lazy dog.",
    "A licence lets the service read without a network.",
)
LEFT = (
    "Whoever reads a page of",
    "two columns goes down",
    "the left one, line after",
    "line, until nothing is",
    "left of it, and looks for",
    "what comes next.",
)
RIGHT = (
    "Then the right one is",
    "read in the same way, to",
    "its end. A program that",
    "goes straight across both",
    "tells a story that no",
    "person ever wrote.",
)
_DPI = 200
_SECOND_ENGINE_SECONDS = 40.0


@dataclass(slots=True, kw_only=True)
class SelfTest:
    """What was found.

    Attributes:
        checks: In the order they were made.
        facts: What programs ask for, by name.
    """

    checks: list[Check] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether pages can be read here."""
        return all(check.result != "fail" for check in self.checks)

    @property
    def problem(self) -> str:
        """Why not, in words; empty when they can."""
        return "; ".join(check.cause for check in self.checks if check.result == "fail")


def run(
    settings: Settings,
    *,
    engine: OcrEngine,
    cpu: Cpu,
    confined: Callable[[], Confinement | None],
    memory_bytes: int | None,
) -> SelfTest:
    """Try everything that reading a page needs.

    Args:
        settings: What the core would be told in service.
        engine: The engine to try.
        cpu: What is known of the processor.
        confined: Tries out how readers would be confined; None when they are not to be.
        memory_bytes: What this process and those like it may use; None where that is not known.
    """
    found = SelfTest()
    found.facts |= {"cpu_supported": cpu.supported, "cpu": cpu.reason}
    if not cpu.supported:  # the engine itself would die of it
        step = "run on a host, or a virtual machine with a CPU model, that offers AVX2"
        found.checks.append(Check(name="processor", result="fail", cause=cpu.reason, next_step=step))
        return found
    found.checks.append(Check(name="processor", result="ok", cause=f"{cpu.reason}: the flag is there, and it executes"))
    found.checks += _confinement(confined())
    found.checks += _models(settings, engine, found.facts)
    if found.passed:
        found.checks += _pages(settings, engine, found.facts)
    second = standing(settings.second_engine)
    found.checks += _second_engine(second, found.facts)
    found.checks += _memory(settings, second, memory_bytes)
    return found


def _confinement(found: Confinement | None) -> Iterator[Check]:
    if found is None:
        yield Check(
            name="confinement",
            result="warn",
            cause="off: a hostile document may do what the core's user may do",
            next_step="take Core:Confinement=off away",
        )
    elif not found.complete:
        yield Check(
            name="confinement",
            result="warn",
            cause=f"this system refuses {'; '.join(found.refused)}; done: {'; '.join(found.lowered) or 'nothing'}",
            next_step="the unit ocr-core.service does it from outside; else allow these in the container's profile",
        )
    else:
        steps = (step.partition(" (")[0] for step in found.lowered)
        yield Check(name="confinement", result="ok", cause=f"readers of documents give up: {', '.join(steps)}")


def _models(settings: Settings, engine: OcrEngine, facts: dict[str, object]) -> Iterator[Check]:
    installed = engine.languages()
    languages = supported(installed)
    facts |= {
        "engine": f"{engine.name} {engine.version}",
        "models": list(installed),
        "languages": list(languages),
    }
    yield Check(name="engine", result="ok", cause=f"{engine.name} {engine.version}")
    if not installed:
        yield Check(
            name="models",
            result="fail",
            cause=f"there is no Tesseract model in {settings.tessdata}",
            next_step="install tesseract-ocr-eng, or set Core:Tessdata",
        )
        return
    try:
        known_models(settings.languages or (first_model(installed),), installed)
    except CoreError as exc:
        yield Check(
            name="models",
            result="fail",
            cause=str(exc),
            next_step=f"install it, or set Core:Languages to some of {' '.join(installed)}",
        )
        return
    told = f"{' '.join(installed)}: {len(languages)} languages may be asked for"
    yield Check(name="models", result="ok", cause=told)
    if not (settings.tessdata / f"{ORIENTATION_MODEL}.traineddata").is_file():
        yield Check(
            name="models",
            result="warn",
            cause="osd is missing: pages that do not stand upright take longer, and short ones may be read as they lie",
            next_step="install tesseract-ocr-osd",
        )


# ---- pages ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """A page to try.

    Attributes:
        name: What it shows.
        image: The page.
        lines: What it reads.
        orientation: How it lies, in quarter turns.
    """

    name: str
    image: Image.Image
    lines: tuple[str, ...]
    orientation: int = 0

    def difference(self, found: PageText) -> str:
        """What is wrong with a reading of it; empty when nothing is."""
        lines = tuple(line.text for line in found.lines)
        if lines != self.lines:
            return f"it was read as: {' / '.join(lines) or 'nothing'}"
        return "" if found.orientation == self.orientation else f"it was taken to lie at {90 * found.orientation}°"


def _pages(settings: Settings, engine: OcrEngine, facts: dict[str, object]) -> Iterator[Check]:
    installed = engine.languages()
    models = (FIRST_MODEL,) if FIRST_MODEL in installed else (first_model(installed),)
    upright = _drawn((LINES,))
    facts["page_seconds"] = 0.0
    try:
        started = time.monotonic()
        engine.preload(models)
        facts["load_seconds"] = round(time.monotonic() - started, 3)
    except CoreError as exc:
        step = f"install the model {models[0]} again"
        yield Check(name="page", result="fail", cause=str(exc), next_step=step)
        return
    for page in (
        _Page(name="page", image=upright, lines=LINES),
        _Page(name="lying page", image=upright.transpose(Image.Transpose.ROTATE_270), lines=LINES, orientation=1),
        _Page(name="two columns", image=_drawn((LEFT, RIGHT)), lines=(*LEFT, *RIGHT)),
    ):
        started = time.monotonic()
        try:
            difference = page.difference(_read(page.image, engine, models, settings))
        except CoreError as exc:
            difference = str(exc)
        seconds = time.monotonic() - started
        if page.name == "page":
            facts["page_seconds"] = round(seconds, 3)
        if not difference:
            yield Check(name=page.name, result="ok", cause=f"drawn here, read without a mistake in {seconds:.2f} s")
        elif models == (FIRST_MODEL,):
            step = f"install the package of the model {FIRST_MODEL} again (tesseract-ocr-eng), and this product"
            yield Check(name=page.name, result="fail", cause=difference, next_step=step)
        else:
            step = "install tesseract-ocr-eng to have this tried"
            cause = f"the page drawn here is in English, and {models[0]} reads something else"
            yield Check(name=page.name, result="warn", cause=cause, next_step=step)
            return


def _read(image: Image.Image, engine: OcrEngine, models: tuple[str, ...], settings: Settings) -> PageText:
    with tempfile.TemporaryFile() as file:
        image.save(file, "PNG", dpi=(_DPI, _DPI))
        file.flush()
        documents.inspect(file)
        page = documents.load_page(file, 1, max_pixels=settings.max_pixels)
    timeout = settings.page_timeout_seconds
    return PageReader(engine).read(page, models, order="natural", language="en", timeout_seconds=timeout)


def _drawn(columns: tuple[tuple[str, ...], ...]) -> Image.Image:
    """A sheet of A5 at 200 DPI with a few printed lines, in columns side by side."""
    sheet = Image.new("L", (1654, 1169), 255)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=36)
    for column, lines in enumerate(columns):
        for number, line in enumerate(lines):
            pen.text((150 + 800 * column, 200 + 60 * number), line, font=font, fill=0)
    return sheet


# ---- what is beside -------------------------------------------------------------------------------------------------


def _second_engine(found: Standing, facts: dict[str, object]) -> Iterator[Check]:
    name = "second engine"
    facts["second_engine"] = f"{found.name} {found.version}" if found.available else None
    if not found.available:
        if found.wish == "required":
            step = "install it (pip install tollgate[handwriting]), or set Core:SecondEngine=auto"
            yield Check(name=name, result="fail", cause=found.reason, next_step=step)
        else:
            cause = f"not tried, as {found.reason}: handwriting and photos read worse without it"
            yield Check(name=name, result="ok", cause=cause)
        return
    step = "read the messages above; Core:SecondEngine=off goes on without it"
    text = "Every page is counted once"
    image = Image.new("L", (900, 120), 255)
    ImageDraw.Draw(image).text((40, 35), text, font=ImageFont.load_default(size=40), fill=0)
    picture = Picture(pixels=image.tobytes(), width=image.width, height=image.height, dpi=None)
    started = time.monotonic()
    try:
        running = host(found.wish)
        if running is None:
            return
        try:
            running.tend()
            lines = running.engine.read(picture, (FIRST_MODEL,), timeout_seconds=_SECOND_ENGINE_SECONDS)
        finally:
            running.close()
    except (CoreError, SecondEngineMissingError) as exc:
        yield Check(name=name, result="fail", cause=f"{found.name} {found.version}: {exc}", next_step=step)
        return
    seconds = time.monotonic() - started
    read = " ".join(word.text for line in lines for word in line.words)
    if read == text:
        cause = f"{found.name} {found.version}: started and read a line in {seconds:.1f} s"
        yield Check(name=name, result="ok", cause=cause)
    else:
        cause = f"{found.name} {found.version}: a line was read as: {read or 'nothing'}"
        yield Check(name=name, result="fail", cause=cause, next_step=step)


def _memory(settings: Settings, second: Standing, memory_bytes: int | None) -> Iterator[Check]:
    told = f"{settings.workers} pages at a time, at most {settings.memory_bytes >> 20:,} MiB for each"
    needed = settings.workers * WORKER_BYTES + (SECOND_ENGINE_BYTES if second.available else 0)
    if memory_bytes is None:
        yield Check(name="workers", result="ok", cause=told)
    elif memory_bytes >= needed:
        yield Check(name="workers", result="ok", cause=f"{told}; {memory_bytes >> 20:,} MiB of memory here")
    else:
        yield Check(
            name="workers",
            result="warn",
            cause=f"{told}; {memory_bytes >> 20:,} MiB of memory here, and large pages may need {needed >> 20:,}",
            next_step="give the core more memory, or set Core:Workers lower"
            + (", or Core:SecondEngine=off" if second.available else ""),
        )
