"""One page read by two cores: cut once at a blank row near the middle of its text, each half read by a thread.

Invariants:

* A page is cut only where the engine would see nothing: through no ink but a frame's or a speck's, beside no column
  that runs on below the cut, and only where either half alone is told from its paper at the same shade as the whole.
* Only print is cut. What a hand wrote, and a scan full of noise, reads differently for the slightest reason.
* Lines come back in the frame of the whole picture, the upper half's first, and no block is in both halves.
* Each half has an engine of its own; no engine is used by two threads at a time.
"""

import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache

from PIL import Image, ImageDraw

from ocr_core.engine import FoundLine, FoundOrientation, OcrEngine, Picture

_CELL = 8  # pixels: how finely columns are looked at
_STEEPEST_DEGREES = 1.0  # beyond, a page is straightened before it is read
_TILT_STEPS = 12
_MIDDLE = (0.36, 0.64)  # a cut farther from the half gains too little
_FEWEST_ROWS = 4  # of text in either half
_MOST_LOOKED_AT = 12  # gaps, over all tilts
_SPECK = 3  # pixels: what is less tall parts no rows
_MOST_UNEVEN = 0.4  # the middle half of the rows' heights, in their median: print keeps to one height, a hand does not
_LEAST_TEXT, _MOST_TEXT = 6, 200  # pixels: heights of what is taken for a row of text
_LEAST_GAP = 2  # pixels
_GUTTER_HEIGHTS = 1.5  # a blank column this wide, in heights of a row, may part two columns
_GUTTER_ROWS = 1.3  # and this tall, on either side of the cut
_ROWS_OF_A_COLUMN = 2
_MOST_ROWS_LOOKED_AT = 12
_CELLS_OF_A_COLUMN = 3  # else it is a rule, or what is left of one
_MARGIN = 12  # pixels of paper that each half gets beyond the cut, as the edge of a page has
_SAME_SHADE = 12  # of 255: the halves' thresholds from the whole's
_TILTS = [
    sign * math.tan(math.radians(_STEEPEST_DEGREES * step / _TILT_STEPS))
    for step in range(_TILT_STEPS + 1)
    for sign in ((1, -1) if step else (1,))
]
_INK = re.compile(rb"[^\0]+")
_BLANK = re.compile(rb"\0+")
_TALL = re.compile(rb"[^\0]{%d}" % (_MOST_TEXT + 1))


@dataclass(frozen=True, slots=True)
class Cut:
    """A straight line from edge to edge through paper alone.

    Attributes:
        left: Row at the left edge.
        right: Row at the right edge.
        paper: Shade of the paper along it.
    """

    left: int
    right: int
    paper: int


def find_cut(gray: Image.Image) -> Cut | None:
    """Where a page may be cut so that its halves hold about as much text; None where it must not be.

    Args:
        gray: Mode "L".
    """
    if gray.width < 32 * _CELL or gray.height < 4 * _FEWEST_ROWS * _LEAST_TEXT:
        return None
    histogram = gray.histogram()
    threshold = _otsu(histogram)
    paper = _median(histogram)
    if paper <= threshold:
        return None  # white on black
    cells = _Cells(gray, threshold + (paper - threshold) // 4)
    text_height = cells.text_height
    if text_height is None:
        return None
    looked_at = 0
    for tilt in _TILTS:
        profile = cells.tilted(tilt)
        for start, end in profile.gaps_near_the_middle():
            if not profile.parts_columns(start, end, text_height):
                row, shift = (start + end) // 2, tilt * gray.width / 2
                cut = Cut(left=round(row - shift), right=round(row + shift), paper=_paper_along(gray, row))
                return cut if _same_shade(gray, row, threshold) else None
            looked_at += 1
            if looked_at == _MOST_LOOKED_AT:
                return None
    return None


class _Cells:
    """Where ink is: columns of cells, a byte for each row of pixels, 0 for paper, for specks and for upright rules."""

    def __init__(self, gray: Image.Image, threshold: int) -> None:
        ink = gray.point([255] * threshold + [0] * (256 - threshold))
        across = gray.width // _CELL
        # One pixel of ink in a cell of 8 makes a mean of 32, so none is lost in rounding.
        cells = ink.resize((across, gray.height), Image.Resampling.BOX).point([0] + [255] * 255)
        pixels, self._height = cells.transpose(Image.Transpose.TRANSPOSE).tobytes(), gray.height
        self._width = gray.width
        starts = range(0, len(pixels), gray.height)
        self._columns = _without_rules([_without_specks(pixels[start : start + gray.height]) for start in starts])

    @property
    def text_height(self) -> int | None:
        """How tall rows of text are, pixels: the median; None where there are too few."""
        heights = sorted(
            found.end() - found.start()
            for column in self._columns[:: max(1, len(self._columns) // 48)]
            for found in _INK.finditer(column)
            if _LEAST_TEXT <= found.end() - found.start() <= _MOST_TEXT
        )
        return heights[len(heights) // 2] if len(heights) >= 8 * _FEWEST_ROWS else None

    def tilted(self, tilt: float) -> "_Profile":
        """The same with rows along a slope, so many pixels down for each to the right."""
        pitch, middle = self._width / len(self._columns), (len(self._columns) - 1) / 2
        shifted = []
        for number, column in enumerate(self._columns):
            down = round(tilt * pitch * (number - middle))
            shifted.append(column[down:] + bytes(down) if down >= 0 else bytes(-down) + column[:down])
        return _Profile(shifted, self._height, pitch)


class _Profile:
    """Cells as seen along one slope."""

    def __init__(self, columns: list[bytes], height: int, pitch: float) -> None:
        self._columns = columns
        self._height = height
        self._pitch = pitch
        inked = 0
        for column in columns:
            inked |= int.from_bytes(column, "big")
        self._rows = inked.to_bytes(height, "big")

    def gaps_near_the_middle(self) -> list[tuple[int, int]]:
        """First and last row of the gaps between rows of text that leave about half above them, the best first."""
        gaps = [
            (found.start(), found.end())
            for found in _BLANK.finditer(self._rows)
            if found.end() - found.start() >= _LEAST_GAP and found.start() > 0 and found.end() < self._height
        ]
        middle = gaps[_FEWEST_ROWS - 1 : len(gaps) - _FEWEST_ROWS + 1]
        if not middle or not self._is_even():
            return []
        work = self._work()
        shares = [(work[(start + end) // 2] / (work[-1] or 1.0), start, end) for start, end in middle]
        return [
            (start, end)
            for share, start, end in sorted(shares, key=lambda item: abs(item[0] - 0.5))
            if _MIDDLE[0] <= share <= _MIDDLE[1]
        ]

    def _is_even(self) -> bool:
        heights = sorted(len(found[0]) for found in _INK.finditer(self._rows) if len(found[0]) >= _LEAST_TEXT)
        quarter = len(heights) // 4
        return bool(heights) and heights[-1 - quarter] - heights[quarter] <= _MOST_UNEVEN * heights[len(heights) // 2]

    def _work(self) -> list[float]:
        """How much of the engine's work lies above each row.

        The engine scales every line to one height, so a column of ink costs the less the taller its line is.
        """
        steps = [0.0] * (self._height + 1)
        for column in self._columns[::4]:
            for found in _INK.finditer(column):
                tall = found.end() - found.start()
                if _LEAST_TEXT <= tall <= _MOST_TEXT:
                    steps[found.end()] += 1 / tall
        total = 0.0
        for row, step in enumerate(steps):
            total += step
            steps[row] = total
        return steps

    def parts_columns(self, start: int, end: int, text_height: int) -> bool:
        """Whether text stands side by side both above and below the gap, so that it is read downwards, not across."""
        middle, wide = (start + end) // 2, max(2, math.ceil(_GUTTER_HEIGHTS * text_height / self._pitch))
        reach = end - start + math.ceil(_GUTTER_ROWS * text_height)
        rises = [middle - len(column[:middle].rstrip(b"\0")) for column in self._columns]
        falls = [self._height - middle - len(column[middle:].lstrip(b"\0")) for column in self._columns]
        for left in range(1, len(rises) - wide):
            right = left + wide
            rise, fall = min(rises[left:right]), min(falls[left:right])
            if min(rise, fall) < reach:
                continue
            # Beside a gutter there is text where ink comes before the gutter ends.
            left_above, right_above = min(rises[:left]) < rise, min(rises[right:]) < rise
            left_below, right_below = min(falls[:left]) < fall, min(falls[right:]) < fall
            if ((left_above and right_below) or (right_above and left_below)) and (
                self._stand_beside(left, right, middle - rise, middle)
                or self._stand_beside(left, right, middle, middle + fall)
            ):
                return True
        return False

    def _stand_beside(self, left: int, right: int, top: int, bottom: int) -> bool:
        """Whether several rows stand on either side of a gutter; one alone is parted by any space that is wide."""
        for side in (self._columns[:left], self._columns[right:]):
            columns = [column[top:bottom] for column in side]
            inked = 0
            for column in columns:
                inked |= int.from_bytes(column, "big")
            rows = [found.span() for found in _INK.finditer(inked.to_bytes(bottom - top, "big"))]
            widths = [sum(any(column[start:end]) for column in columns) for start, end in rows[:_MOST_ROWS_LOOKED_AT]]
            if sum(width >= _CELLS_OF_A_COLUMN for width in widths) < _ROWS_OF_A_COLUMN:
                return False
        return True


def _without_specks(column: bytes) -> bytes:
    """A column without runs of ink shorter than `_SPECK`: eroded, and grown again."""
    ink = int.from_bytes(column, "big")
    for _ in range(_SPECK - 1):
        ink &= ink << 8
    for _ in range(_SPECK - 1):
        ink |= ink >> 8
    return (ink & _ones(len(column))).to_bytes(len(column), "big")


def _without_rules(columns: list[bytes]) -> list[bytes]:
    """Columns without what is taller than text and thin: the frame of a page, the edge of a sheet."""
    tall = [_only_tall(column) for column in columns]
    if not any(tall):
        return columns
    # Four columns of cells in a row are a picture.
    wide = [a & b & c & d for a, b, c, d in zip(tall, tall[1:], tall[2:], tall[3:], strict=False)]
    around = [0, 0, 0, *wide, 0, 0, 0]
    kept = []
    for number, column in enumerate(columns):
        picture = around[number] | around[number + 1] | around[number + 2] | around[number + 3]
        thin = tall[number] & ~picture
        kept.append((int.from_bytes(column, "big") & ~thin).to_bytes(len(column), "big") if thin else column)
    return kept


def _only_tall(column: bytes) -> int:
    if _TALL.search(column) is None:
        return 0
    return int.from_bytes(
        _INK.sub(lambda run: run[0] if len(run[0]) > _MOST_TEXT else bytes(len(run[0])), column), "big"
    )


@lru_cache(maxsize=4)
def _ones(length: int) -> int:
    return int.from_bytes(b"\xff" * length, "big")


def _otsu(histogram: list[int]) -> int:
    """The shade that parts ink from paper best, as Otsu has it."""
    total, weighted = sum(histogram), sum(shade * count for shade, count in enumerate(histogram))
    best, found, below, below_weighted = -1.0, 0, 0, 0
    for shade, count in enumerate(histogram):
        below += count
        below_weighted += shade * count
        above = total - below
        if not below or not above:
            continue
        apart = below_weighted / below - (weighted - below_weighted) / above
        between = below * above * apart * apart
        if between > best:
            best, found = between, shade
    return found


def _median(histogram: list[int]) -> int:
    half, passed = sum(histogram) / 2, 0
    for shade, count in enumerate(histogram):
        passed += count
        if passed >= half:
            return shade
    return 255


def _paper_along(gray: Image.Image, row: int) -> int:
    return _median(gray.crop((0, max(0, row - 1), gray.width, row + 2)).histogram())


def _same_shade(gray: Image.Image, row: int, threshold: int) -> bool:
    """Whether the engine, which looks for one threshold in what it is given, finds the same in the halves."""
    halves = (0, 0, gray.width, row), (0, row, gray.width, gray.height)
    return all(abs(_otsu(gray.crop(half).histogram()) - threshold) <= _SAME_SHADE for half in halves)


class HalvesEngine:
    """An engine that reads a page with two others, where a core is free for it and the page allows.

    Args:
        first: Reads whole pages, upper halves, and tells orientations.
        second: Reads lower halves; the same engine with the same models.
        free_core: Lends a second core for the time of the context, or tells that there is none.
    """

    def __init__(
        self, first: OcrEngine, second: OcrEngine, free_core: Callable[[], AbstractContextManager[bool]]
    ) -> None:
        self._first = first
        self._second = second
        self._free_core = free_core
        self._thread: ThreadPoolExecutor | None = None

    @property
    def name(self) -> str:
        """See `OcrEngine.name`."""
        return self._first.name

    @property
    def version(self) -> str:
        """See `OcrEngine.version`."""
        return self._first.version

    def languages(self) -> tuple[str, ...]:
        """See `OcrEngine.languages`."""
        return self._first.languages()

    def preload(self, languages: tuple[str, ...]) -> None:
        """See `OcrEngine.preload`; the second loads when it is first needed, for the start must be quick."""
        self._first.preload(languages)

    def orientation(self, picture: Picture) -> FoundOrientation | None:
        """See `OcrEngine.orientation`."""
        return self._first.orientation(picture)

    def read(self, picture: Picture, languages: tuple[str, ...], *, timeout_seconds: float) -> tuple[FoundLine, ...]:
        """See `OcrEngine.read`."""
        if picture.dpi is not None:  # else the engine guesses one from what it is shown, for each half its own
            with self._free_core() as is_free:
                if is_free and (cut := find_cut(_image(picture))) is not None:
                    return self._read_halves(picture, cut, languages, timeout_seconds)
        return self._first.read(picture, languages, timeout_seconds=timeout_seconds)

    def _read_halves(
        self, picture: Picture, cut: Cut, languages: tuple[str, ...], timeout_seconds: float
    ) -> tuple[FoundLine, ...]:
        if self._thread is None:  # after the fork: a thread does not survive one
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="half")
        upper, lower, top = halves(picture, cut)
        reading = self._thread.submit(self._second.read, lower, languages, timeout_seconds=timeout_seconds)
        try:
            lines = self._first.read(upper, languages, timeout_seconds=timeout_seconds)
        finally:
            reading.exception()  # both end before either is told
        blocks = max((line.block for line in lines), default=-1) + 1
        return lines + tuple(_lowered(line, top, blocks) for line in reading.result())


def halves(picture: Picture, cut: Cut) -> tuple[Picture, Picture, int]:
    """The two halves, each with a margin of paper beyond the cut, and the row of the whole that the lower begins at."""
    whole = _image(picture)
    low, high = max(cut.left, cut.right), min(cut.left, cut.right)
    bottom, top = min(whole.height, low + _MARGIN), max(0, high - _MARGIN)
    upper, lower = whole.crop((0, 0, whole.width, bottom)), whole.crop((0, top, whole.width, whole.height))
    right = whole.width
    # The blank row itself stays, on either side of the line.
    ImageDraw.Draw(upper).polygon([(0, cut.left), (right, cut.right), (right, bottom), (0, bottom)], fill=cut.paper)
    ImageDraw.Draw(lower).polygon([(0, -1), (right, -1), (right, cut.right - top), (0, cut.left - top)], fill=cut.paper)
    return _picture(upper, picture.dpi), _picture(lower, picture.dpi), top


def _lowered(line: FoundLine, down: int, blocks: int) -> FoundLine:
    """A line of the lower half in the frame of the whole."""
    x1, y1, x2, y2 = line.baseline
    words = []
    for word in line.words:
        left, top, right, bottom = word.box
        words.append(replace(word, box=(left, top + down, right, bottom + down)))
    return replace(line, words=tuple(words), baseline=(x1, y1 + down, x2, y2 + down), block=line.block + blocks)


def _image(picture: Picture) -> Image.Image:
    return Image.frombuffer("L", (picture.width, picture.height), picture.pixels, "raw", "L", 0, 1)


def _picture(gray: Image.Image, dpi: int | None) -> Picture:
    return Picture(pixels=gray.tobytes(), width=gray.width, height=gray.height, dpi=dpi)
