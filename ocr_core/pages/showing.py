"""One page before an engine, until a point in time: turned as it is asked, read, and kept with the way back.

Invariant: whatever was done to the raster is undone by the reading's `back`, so a place in it is a place on the page
as a viewer shows it.
"""

import time
from collections.abc import Callable
from copy import copy
from dataclasses import replace

from PIL import Image

from ocr_core.documents import PageImage
from ocr_core.engine import FoundLine, FoundOrientation, OcrEngine, Picture
from ocr_core.errors import EngineTimeoutError
from ocr_core.languages import are_latin
from ocr_core.pages import light, resolution, skew
from ocr_core.pages.geometry import Affine
from ocr_core.pages.reading import Reading
from ocr_core.pages.turning import (
    STRAIGHTENED_FROM_DEGREES,
    common_slope,
    level_degrees,
    line_stood_up,
    turned_back,
)

_MOST_WORK_SECONDS = 4.0
"""Five times what a full page of print takes; of processor time, so that a busy machine reads no worse."""


class Showing:
    """A page and the engine that reads it.

    Args:
        image: The page.
        engine: The engine.
        until: When to give up, by `monotonic`.
        monotonic: Seconds from a clock that never steps.
        processor: Seconds of processor time that this process has used.
    """

    def __init__(
        self,
        image: PageImage,
        engine: OcrEngine,
        *,
        until: float,
        monotonic: Callable[[], float],
        processor: Callable[[], float] = time.process_time,
    ) -> None:
        self.image = image
        self._as_it_came: Showing | None = None
        self._engine = engine
        self._until = until
        self._monotonic = monotonic
        self._processor = processor
        self._began = processor()
        self._slopes: dict[int, skew.Skew] = {}
        self._guess: tuple[FoundOrientation | None] | None = None
        self._looked_for_steep = False

    def before(self, engine: OcrEngine) -> "Showing":
        """The same page before another engine."""
        other = copy(self)
        other._engine = engine  # noqa: SLF001 - of this class
        return other

    def evened(self) -> "Showing":
        """The same page as if it had been lit evenly."""
        image = replace(self.image, image=light.evened(self.image.image))
        other = copy(self)
        other.image = image
        other._slopes, other._guess = {}, None  # noqa: SLF001 - of this class
        return other

    def smaller(self) -> "Showing | None":
        """The same page with as many pixels as its letters need; None where it has no more than that.

        Nor is there one of a page that must be straightened: it takes from the letters what it can spare.
        """
        raster = self.image.image
        shrink = resolution.enough(raster)
        if shrink >= 1 or level_degrees(self.slope(0)):
            return None
        size = max(1, round(raster.width * shrink)), max(1, round(raster.height * shrink))
        dpi = self.image.dpi and round(self.image.dpi * shrink)
        other = copy(self)
        other._as_it_came = self  # noqa: SLF001 - of this class
        other.image = replace(self.image, image=raster.resize(size, Image.Resampling.HAMMING), dpi=dpi)
        other._slopes = {}  # noqa: SLF001 - of this class
        return other

    @property
    def remaining_seconds(self) -> float:
        """Until the time is over."""
        return self._until - self._monotonic()

    @property
    def is_costly(self) -> bool:
        """Whether so much work went into the page that another try is not worth it: noise, say, read four ways."""
        return self._processor() - self._began > _MOST_WORK_SECONDS

    def slope(self, quarters: int) -> skew.Skew:
        """How much the lines slope when the page is turned back by quarters: the same either way up."""
        if quarters % 2 not in self._slopes:
            self._slopes[quarters % 2] = skew.estimate(turned_back(self.image.image, quarters % 2), exact=False)
        return self._slopes[quarters % 2]

    def look_for_steep_lines(self) -> bool:
        """Look for lines that slope more than `slope` looks for; whether it finds any, and then tells them."""
        if self._looked_for_steep:
            return False
        self._looked_for_steep = True
        steep = skew.estimate_steep(self.image.image)
        if abs(steep.degrees) <= skew.MAX_DEGREES or not level_degrees(steep):
            return False
        self._slopes[0] = steep
        return True

    def orientation(self) -> FoundOrientation | None:
        """The engine's guess of how the page lies, made once."""
        if self._guess is None:
            self._guess = (self._engine.orientation(_picture(self.image.image, self.image.dpi)),)
        return self._guess[0]

    def orientation_of(self, raster: Image.Image) -> FoundOrientation | None:
        """The engine's guess for a picture of unknown resolution."""
        return self._engine.orientation(_picture(raster, None))

    def turned(self, quarters: int, models: tuple[str, ...]) -> Reading:
        """The page turned back by quarters, and by its slope where that is plain; not read yet."""
        degrees = level_degrees(self.slope(quarters))
        raster = turned_back(self.image.image, quarters, degrees)
        return self._shown(raster, 90.0 * quarters + degrees, (), models)

    def read(self, quarters: int, models: tuple[str, ...]) -> Reading:
        """The page turned back by quarters, and by its slope where that is plain.

        Raises:
            EngineTimeoutError: The time was not enough.
            FailedToProcessError: The engine failed.
        """
        turned = self.turned(quarters, models)
        return replace(turned, lines=self.lines(turned.raster, models))

    def read_again(self, reading: Reading, models: tuple[str, ...]) -> Reading:
        """The same raster read with other models; the reading itself when that fails for want of time.

        Letters of other alphabets may need the pixels that a smaller showing went without.
        """
        whole = None if are_latin(models) else self._as_it_came
        try:
            if whole is not None:
                return whole.read(round(reading.turned / 90) % 4, models)
            again = replace(reading, lines=self.lines(reading.raster, models), models=models)
        except EngineTimeoutError:
            return reading
        return again if reading.turned else self.stood_up(again)

    def stood_up(self, reading: Reading) -> Reading:
        """The reading of text that the engine found lying on its side, as if it had been shown standing.

        It is read once more, standing: lying text loses a word here and there.
        """
        direction = common_slope(reading.lines)
        quarters = round(direction / 90) % 4
        if quarters not in (1, 3) or reading.turned:
            return reading
        is_sloped = abs(direction - 90 * round(direction / 90)) >= STRAIGHTENED_FROM_DEGREES
        as_found = reading if is_sloped else self.stood_up_as_found(reading)
        try:
            level = self.read(quarters, reading.models)
        except EngineTimeoutError:
            return as_found
        stands = round(common_slope(level.lines) / 90) % 4 == 0
        return level if stands and level.evidence >= reading.evidence else as_found

    def stood_up_as_found(self, reading: Reading) -> Reading:
        """The same lines in a raster that is turned so that they stand; nothing is read."""
        quarters = round(common_slope(reading.lines) / 90) % 4
        if quarters not in (1, 3):
            return reading
        lines = tuple(line_stood_up(line, quarters, reading.raster.size) for line in reading.lines)
        raster = turned_back(reading.raster, quarters)
        return self._shown(raster, (reading.turned + 90.0 * quarters) % 360, lines, reading.models)

    def lines(self, raster: Image.Image, models: tuple[str, ...]) -> tuple[FoundLine, ...]:
        """What the engine finds in a raster of the page.

        Raises:
            EngineTimeoutError: The time was not enough.
            FailedToProcessError: The engine failed.
        """
        remaining = self.remaining_seconds
        if remaining <= 0:
            raise EngineTimeoutError("The page was not read in time.")
        return self._engine.read(_picture(raster, self.image.dpi), models, timeout_seconds=remaining)

    def _shown(
        self, raster: Image.Image, turned: float, lines: tuple[FoundLine, ...], models: tuple[str, ...]
    ) -> Reading:
        image = self.image
        back = Affine.scaling(image.width / image.image.width, image.height / image.image.height).after(
            Affine.turning(turned, of=raster.size, onto=image.image.size)
        )
        return Reading(lines=lines, raster=raster, back=back, turned=turned, models=models)


def _picture(gray: Image.Image, dpi: int | None) -> Picture:
    return Picture(pixels=gray.tobytes(), width=gray.width, height=gray.height, dpi=dpi)
