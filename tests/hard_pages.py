"""What makes a page hard to read, done to pages with a known truth, and pages without text; everything is drawn here.

unevenly_lit(page), low_contrast(page), inverted(page), blurred(page), noisy(page), photographed(page)
photo_without_text(seed), texture_without_text(seed), noise_without_text(seed), sign_in_a_photo()
"""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from tests.pages import PrintedPage, printed_page, turned


def unevenly_lit(page: PrintedPage, *, darkest: float = 0.2) -> PrintedPage:
    """As a lamp on one side lights it: the far corner keeps a share of the light."""
    light = Image.linear_gradient("L").rotate(60, Image.Resampling.BICUBIC, expand=True)
    width, height = light.size
    light = light.crop((width // 4, height // 4, 3 * width // 4, 3 * height // 4)).resize(page.image.size)
    low, high = light.getextrema()
    light = light.point([round(255 * (darkest + (1 - darkest) * _share(v, low, high))) for v in range(256)])
    return replace(page, image=ImageChops.multiply(page.image, light))


def shadowed(page: PrintedPage, *, light: float = 0.35) -> PrintedPage:
    """With a shadow over its lower right, as the hand that holds the camera throws it."""
    shade = Image.new("L", page.image.size, 255)
    width, height = shade.size
    corners = [(0.45 * width, 0), (width, 0), (width, height), (0.15 * width, height)]
    ImageDraw.Draw(shade).polygon(corners, fill=round(255 * light))
    return replace(page, image=ImageChops.multiply(page.image, shade.filter(ImageFilter.GaussianBlur(width / 60))))


def low_contrast(page: PrintedPage, *, darkest: int = 150, lightest: int = 200) -> PrintedPage:
    """Gray on gray."""
    return replace(page, image=page.image.point([darkest + (lightest - darkest) * v // 255 for v in range(256)]))


def inverted(page: PrintedPage) -> PrintedPage:
    """Light on dark."""
    return replace(page, image=ImageChops.invert(page.image))


def blurred(page: PrintedPage, radius: float = 1.5) -> PrintedPage:
    """Out of focus."""
    return replace(page, image=page.image.filter(ImageFilter.GaussianBlur(radius)))


def noisy(page: PrintedPage, *, spread: float = 40) -> PrintedPage:
    """With the grain of a bad sensor."""
    grain = _grain(page.image.size, spread)
    return replace(page, image=ImageChops.add(page.image, grain, 1, -128))


def photographed(page: PrintedPage, degrees: float = 4) -> PrintedPage:
    """On a dark table, lying askew, unevenly lit, out of focus, grainy."""
    lying = turned(page, degrees)
    table = Image.new("L", (lying.image.width + 200, lying.image.height + 200), 60)
    sheet = Image.new("L", page.image.size, 255).rotate(-degrees, expand=True, fillcolor=0)
    table.paste(lying.image, (100, 100), sheet)
    return noisy(blurred(unevenly_lit(replace(page, image=table, words=()), darkest=0.4), 1), spread=12)


def photo_without_text(seed: int = 1, size: tuple[int, int] = (1200, 900)) -> PrintedPage:
    """A sky, hills, bushes and a wall: edges and textures of every size, and not a letter."""
    chance = random.Random(seed)
    sky = Image.linear_gradient("L").resize(size).point([150 + value // 3 for value in range(256)])
    pen = ImageDraw.Draw(sky)
    width, height = size
    for layer in range(5):
        base, tone = height * (0.35 + 0.13 * layer), 170 - 28 * layer
        waves = [(chance.uniform(0.5, 6), chance.uniform(0, 7), chance.uniform(10, 60)) for _ in range(4)]
        edge = [(x, base - sum(a * math.sin(f * x / width * 6 + p) for f, p, a in waves)) for x in range(0, width, 4)]
        pen.polygon([(0, height), *edge, (width, height)], fill=tone)
    for _ in range(400):
        x, y = chance.uniform(0, width), chance.uniform(height / 2, height)
        radius, tone = chance.uniform(2, 40), chance.randrange(20, 200)
        pen.ellipse((x, y, x + radius, y + radius * chance.uniform(0.4, 1.6)), fill=tone)
    for _ in range(60):
        x, y, length, slope = (
            chance.uniform(0, width),
            chance.uniform(0, height),
            chance.uniform(20, 200),
            chance.uniform(-1, 1),
        )
        pen.line((x, y, x + length * slope, y - length), fill=chance.randrange(10, 120), width=chance.randrange(1, 6))
    return _without_text(noisy(_without_text(sky.filter(ImageFilter.GaussianBlur(1))), spread=10).image)


def texture_without_text(seed: int = 1, size: tuple[int, int] = (1000, 800)) -> PrintedPage:
    """Bricks, with their joints."""
    chance = random.Random(seed)
    wall = Image.new("L", size, 200)
    pen = ImageDraw.Draw(wall)
    for row, y in enumerate(range(0, size[1], 40)):
        for x in range(-80 + 40 * (row % 2), size[0], 80):
            pen.rectangle((x + 3, y + 3, x + 76, y + 36), fill=chance.randrange(80, 150))
    return _without_text(noisy(_without_text(wall), spread=20).image)


def noise_without_text(size: tuple[int, int] = (1000, 800), spread: float = 60) -> PrintedPage:
    """Nothing but grain."""
    return _without_text(_grain(size, spread))


def _grain(size: tuple[int, int], spread: float) -> Image.Image:
    """Gray pixels of a standard deviation, the same each time."""
    reach = spread * math.sqrt(3)
    levels = [min(255, max(0, round(128 + reach * (value - 127.5) / 127.5))) for value in range(256)]
    return Image.frombytes("L", size, random.Random(1).randbytes(size[0] * size[1])).point(levels)


def _without_text(image: Image.Image) -> PrintedPage:
    return PrintedPage(image=image, words=(), text="", dpi=150)


def _share(value: int, low: int, high: int) -> float:
    return min(1.0, max(0.0, (value - low) / max(1, high - low)))


def sign_in_a_photo(words: Sequence[str] = ("Tollgate 7", "Pay here")) -> PrintedPage:
    """A photo with a plate in it, which says a few words on gray."""
    photo = photo_without_text(4, (900, 700)).image
    sign = printed_page(words, size=(420, 260), dpi=72, points=60)
    plate = sign.image.crop((40, 60, 420, 260)).point([40 + 150 * (255 - level) // 255 for level in range(256)])
    photo.paste(plate, (250, 300))
    return PrintedPage(image=photo, words=(), text=sign.text, dpi=72)
