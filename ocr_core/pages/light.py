"""Uneven light: whether text is lost in a shadow, and a page made as if it had been lit evenly.

The engine finds text with one threshold for the whole page. Where a shadow makes even the paper darker than that, text
is lost and nothing says so: what is left reads well. So it is looked for where it would be: structure whose lightest
part is darker than the threshold.

Invariants:

* Pure; a few milliseconds to tell, whatever the size of the page. On a flat scan there is no such place at all.
* Evening the light keeps the picture's size, so a place in it stays the same place.
"""

from collections.abc import Callable, Iterable

from PIL import Image, ImageChops, ImageFilter, ImageMath

_LOOKED_AT_SIDE = 400
_MARK = 16  # of 255: what paper and anything on it differ by at least
_STRUCTURE = 40  # and what lit paper and ink do
_STROKE_REACH = 4
_LOST_SHARE = 0.03

_PAPER_SIDE = 256
_PAPER_REACH = 8
_PAPER_WHITE = 250


def structure(gray: Image.Image, *, outside: Iterable[tuple[int, int, int, int]] = ()) -> float:
    """Share of the page where there is anything but paper, 0..1; 0 for a blank one.

    Args:
        gray: Mode "L".
        outside: Boxes (left, top, right, bottom) in which nothing counts.
    """
    small = _small(gray, _LOOKED_AT_SIDE)
    marks = _differing(*_extremes(small, _STROKE_REACH), _MARK)
    across, down = small.width / gray.width, small.height / gray.height
    for left, top, right, bottom in outside:
        reach = _STROKE_REACH + 1
        box = (
            int(left * across) - reach,
            int(top * down) - reach,
            int(right * across) + reach,
            int(bottom * down) + reach,
        )
        marks.paste(0, box)
    return _share(marks)


def is_uneven(gray: Image.Image) -> bool:
    """Whether a noticeable part of what is on a page lies where even the paper is taken for ink.

    Args:
        gray: Mode "L".
    """
    small = _small(gray, _LOOKED_AT_SIDE)
    lightest, darkest = _extremes(small, _STROKE_REACH)
    marks = _differing(lightest, darkest, _STRUCTURE)
    threshold = _otsu(small.histogram())
    dark = lightest.point([255 * (value <= threshold) for value in range(256)])
    return _share(ImageChops.darker(marks, dark)) > _LOST_SHARE * _share(marks)


def evened(gray: Image.Image) -> Image.Image:
    """The page with each place's paper as light as any other's.

    The paper is what is left when marks as thin as letters are closed: lightened, then darkened back, which leaves the
    edge of a shadow where it is.

    Args:
        gray: Mode "L".
    """
    small = _small(gray, _PAPER_SIDE)
    lightened = _spread(small, ImageChops.lighter, _PAPER_REACH)
    paper = _spread(lightened, ImageChops.darker, _PAPER_REACH).filter(ImageFilter.GaussianBlur(1))
    even: Image.Image = ImageMath.lambda_eval(
        lambda of: of["convert"](of["min"](of["gray"] * _PAPER_WHITE / of["max"](of["paper"], 1), 255), "L"),
        gray=gray,
        paper=paper.resize(gray.size, Image.Resampling.BILINEAR),
    )
    return even


def _small(gray: Image.Image, side: int) -> Image.Image:
    times = max(1, round(max(gray.size) / side))
    return gray.reduce(times) if times > 1 else gray


def _extremes(small: Image.Image, reach: int) -> tuple[Image.Image, Image.Image]:
    return _spread(small, ImageChops.lighter, reach), _spread(small, ImageChops.darker, reach)


def _differing(lightest: Image.Image, darkest: Image.Image, least: int) -> Image.Image:
    return ImageChops.subtract(lightest, darkest).point([255 * (value >= least) for value in range(256)])


def _share(mask: Image.Image) -> float:
    return mask.histogram()[255] / (mask.width * mask.height)


def _spread(image: Image.Image, wins: Callable[[Image.Image, Image.Image], Image.Image], reach: int) -> Image.Image:
    """The lightest or darkest pixel around each, in a square of twice the reach."""
    step = 1
    while step <= reach:
        for across, down in ((step, 0), (0, step)):
            image = wins(image, ImageChops.offset(image, across, down))
        step *= 2
    return ImageChops.offset(image, -reach, -reach)


def _otsu(histogram: list[int]) -> int:
    """The threshold that parts light from dark best (Otsu 1979), as the engine chooses it."""
    count = sum(histogram)
    total = sum(value * pixels for value, pixels in enumerate(histogram))
    below = weight = 0
    best, threshold = -1.0, 0
    for value, pixels in enumerate(histogram):
        below += pixels
        weight += value * pixels
        if not 0 < below < count:
            continue
        between = (weight / below - (total - weight) / (count - below)) ** 2 * below * (count - below)
        if between > best:
            best, threshold = between, value
    return threshold
