"""Charts as inline SVG: bars over periods, ranges of entries, and what happened over time.

Invariants:

* Pure: values in, markup out. No script, no font and no picture from anywhere else.
* Colour never speaks alone: each coverage has its own pattern and its own word, each mark a title to be read out.
* All text is escaped, whatever the records hold; the number of marks is bounded.
"""

import html
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from licenses.usage_log.report import Coverage, EntryRange, printable

WIDTH = 720
MAX_MARKS = 400
PATTERNS = """<svg class="defs" width="0" height="0" aria-hidden="true" focusable="false"><defs>
<pattern id="p-acked" width="6" height="6" patternUnits="userSpaceOnUse"><rect width="6" height="6" class="f-acked"/>
<path d="M3 0V6" class="l-paper" stroke-opacity=".4"/></pattern>
<pattern id="p-sealed" width="6" height="6" patternUnits="userSpaceOnUse"><rect width="6" height="6" class="f-sealed"/>
</pattern>
<pattern id="p-unpinned" width="6" height="6" patternUnits="userSpaceOnUse"><rect width="6" height="6"
 class="f-unpinned"/><path d="M0 3H6" class="l-paper"/></pattern>
<pattern id="p-unsealed" width="7" height="7" patternUnits="userSpaceOnUse"><rect width="7" height="7"
 class="f-unsealed"/><path d="M-1 8L8 -1" class="l-paper"/></pattern>
<pattern id="p-pruned" width="6" height="6" patternUnits="userSpaceOnUse"><rect width="6" height="6" class="f-pruned"/>
<circle cx="3" cy="3" r="1.1" class="d-ink"/></pattern>
<pattern id="p-missing" width="7" height="7" patternUnits="userSpaceOnUse"><rect width="7" height="7" class="f-missing"
/><path d="M-1 -1L8 8" class="l-bad"/></pattern>
<pattern id="p-damaged" width="7" height="7" patternUnits="userSpaceOnUse"><rect width="7" height="7" class="f-damaged"
/><path d="M0 0L7 7M0 7L7 0" class="l-paper"/></pattern>
</defs></svg>"""

_STEPS_MS = [minutes * 60_000 for minutes in (1, 5, 10, 30, 60, 180, 360, 720, 1440, 2880, 7200, 14_400)]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Bar:
    """One period's quantity.

    Attributes:
        name: The period.
        label: The same, short, for the axis; empty to leave it out there.
        quantity: Units.
        coverage: The weakest coverage of the period; None when nothing is known of it.
    """

    name: str
    label: str
    quantity: int
    coverage: Coverage | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of time in a row of a timeline.

    Attributes:
        from_ms: Its beginning, milliseconds since 1970 UTC.
        until_ms: Its end.
        style: Name of the style class.
        title: What it is, in words.
        label: Shown on it where there is room.
    """

    from_ms: int
    until_ms: int
    style: str
    title: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a timeline."""

    name: str
    stretches: Sequence[Stretch]


def text(value: str) -> str:
    """Any text as markup, with quotes escaped and what cannot be printed made visible."""
    return html.escape(printable(value), quote=True)


def bar_chart(key: str, title: str, bars: Sequence[Bar]) -> str:
    """Bars side by side over a scale from 0.

    Args:
        key: A word that no other chart of the page has.
        title: What is shown.
        bars: In order; must not be empty.
    """
    height, left, top, bottom = 210, 64, 22, 26
    plot_width, plot_height = WIDTH - left - 8, height - top - bottom
    highest = max(bar.quantity for bar in bars)
    step = _nice_step(highest / 4)
    ceiling = max(step, math.ceil(highest / step) * step)
    slot = plot_width / len(bars)
    width = max(0.8, min(slot * 0.72, 64))
    parts: list[str] = []
    for tick in range(0, ceiling + 1, step):
        y = top + plot_height * (1 - tick / ceiling)
        parts.append(f'<path d="M{left} {y:.1f}H{WIDTH - 8}" class="grid"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 3.5:.1f}" class="tick end">{tick:,}</text>')
    for number, bar in enumerate(bars):
        x, tall = left + slot * (number + 0.5), plot_height * bar.quantity / ceiling
        covered = "nothing is here of it" if bar.coverage is None else bar.coverage.value
        hover = f"<title>{text(bar.name)}: {bar.quantity:,} ({covered})</title>"
        if bar.quantity:
            fill = f"url(#p-{(bar.coverage or Coverage.UNSEALED).value})"
            parts.append(
                f'<rect x="{x - width / 2:.1f}" y="{top + plot_height - tall:.1f}" width="{width:.1f}" '
                f'height="{max(tall, 0.8):.1f}" fill="{fill}" class="{"bar" if width > 5 else "thin"}">{hover}</rect>'
            )
        if bar.quantity and slot >= 44:
            y = top + plot_height - tall - 5
            parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="value">{bar.quantity:,}</text>')
        if bar.label:
            parts.append(f'<text x="{x:.1f}" y="{height - 8}" class="tick mid">{text(bar.label)}</text>')
    parts.append(f'<path d="M{left} {top + plot_height}H{WIDTH - 8}" class="axis"/>')
    told = f"{len(bars)} bars from {bars[0].name} to {bars[-1].name}; the highest is {highest:,}. The table has each."
    return _svg(key, title, told, height, parts)


def range_bar(key: str, title: str, ranges: Sequence[EntryRange]) -> str:
    """The ranges of entries side by side, each as wide as it is long but never invisible."""
    shown = list(ranges[:MAX_MARKS])
    whole = sum(part.end - part.first for part in shown) or 1
    least = min(14.0, WIDTH / len(shown)) if shown else 0.0
    room = WIDTH - least * len(shown)
    parts, x = [], 0.0
    for part in shown:
        width = least + room * (part.end - part.first) / whole
        word = part.coverage.value
        parts.append(
            f'<rect x="{x:.1f}" y="2" width="{width:.1f}" height="34" fill="url(#p-{word})" class="range">'
            f"<title>[{part.first:,}, {part.end:,}) {word}</title></rect>"
        )
        if width > 9 * len(word):
            parts.append(f'<text x="{x + width / 2:.1f}" y="23.5" class="on c-{word}">{word.upper()}</text>')
        if width > 8 * len(f"{part.first:,}") or x == 0:
            parts.append(f'<text x="{x:.1f}" y="51" class="tick">{part.first:,}</text>')
        x += width
    if shown and x - WIDTH < 1:
        parts.append(f'<text x="{WIDTH}" y="51" class="tick end">{shown[-1].end:,}</text>')
    told = "; ".join(f"entries {part.first:,} to {part.end:,} {part.coverage.value}" for part in shown[:20])
    return _svg(key, title, told, 56, parts)


def timeline(key: str, title: str, told: str, *, from_ms: int, until_ms: int, rows: Sequence[Row]) -> str:
    """Rows of stretches over one scale of time.

    Args:
        key: A word that no other chart of the page has.
        title: What is shown.
        told: The same in words.
        from_ms: The left edge, milliseconds since 1970 UTC.
        until_ms: The right edge.
        rows: From the top.
    """
    left, tall, gap = 92, 20, 10
    height = 8 + len(rows) * (tall + gap) + 20
    span = max(1, until_ms - from_ms)
    scale = (WIDTH - left - 8) / span
    parts: list[str] = []
    bottom = height - 20
    last = -100.0
    for at_ms, label in _time_ticks(from_ms, until_ms):
        x = left + (at_ms - from_ms) * scale
        parts.append(f'<path d="M{x:.1f} 4V{bottom}" class="grid"/>')
        if x - last > 7 * len(label) and x + 3.5 * len(label) < WIDTH + 4:
            parts.append(f'<text x="{x:.1f}" y="{height - 6}" class="tick mid">{label}</text>')
            last = x
    for number, row in enumerate(rows):
        y = 8 + number * (tall + gap)
        parts.append(f'<text x="0" y="{y + 14}" class="name">{text(row.name)}</text>')
        parts.extend(_stretch_marks(row.stretches, left=left, y=y, tall=tall, from_ms=from_ms, scale=scale))
    return _svg(key, title, told, height, parts)


def _stretch_marks(
    stretches: Iterable[Stretch], *, left: int, y: int, tall: int, from_ms: int, scale: float
) -> Iterator[str]:
    for one in list(stretches)[:MAX_MARKS]:
        x, width = left + (one.from_ms - from_ms) * scale, max(2.5, (one.until_ms - one.from_ms) * scale)
        yield (
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{tall}" class="{one.style}">'
            f"<title>{text(one.title)}</title></rect>"
        )
        if one.label and width > 6.6 * len(one.label) + 8:
            yield f'<text x="{x + 6:.1f}" y="{y + 14}" class="in">{text(one.label)}</text>'


def _svg(key: str, title: str, told: str, height: int, parts: Iterable[str]) -> str:
    return (
        f'<div class="scroll"><svg viewBox="0 0 {WIDTH} {height}" role="img" class="chart" '
        f'aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{text(title)}</title><desc id="{key}-d">{text(told)}</desc>{"".join(parts)}</svg></div>'
    )


def _nice_step(least: float) -> int:
    """1, 2 or 5 times a power of ten, at least `least`."""
    power = 10 ** max(0, math.floor(math.log10(least))) if least > 1 else 1
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)


def _time_ticks(from_ms: int, until_ms: int) -> Iterator[tuple[int, str]]:
    span = until_ms - from_ms
    step = next((step for step in _STEPS_MS if span / step <= 7), None)
    if step is not None:
        form = "%H:%M" if span <= 86_400_000 else "%d %b %H:%M" if step < 86_400_000 else "%d %b"
        for at_ms in range(-(-from_ms // step) * step, until_ms + 1, step):
            yield at_ms, _date_text(at_ms, form)
        return
    months = max(1, math.ceil(span / (30.44 * 86_400_000) / 7))
    yield from _month_ticks(from_ms, until_ms, months)


def _month_ticks(from_ms: int, until_ms: int, step: int) -> Iterator[tuple[int, str]]:
    try:
        at = _EPOCH + timedelta(milliseconds=from_ms)
        number = at.year * 12 + at.month
        for _ in range(12):
            month = datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)
            at_ms = int(month.timestamp()) * 1000
            if at_ms > until_ms:
                return
            yield at_ms, month.strftime("%b %Y")
            number += step
    except (ValueError, OverflowError):
        return


def _date_text(at_ms: int, form: str) -> str:
    try:
        return (_EPOCH + timedelta(milliseconds=at_ms)).strftime(form)
    except (ValueError, OverflowError):
        return ""
