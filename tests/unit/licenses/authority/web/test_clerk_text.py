"""How the clerk's pages say times, numbers and facts; and that their colours can be told apart."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import licenses.authority.web
from licenses.authority.web import clerk_text
from licenses.model import READ_PAGES_METER

NOW = datetime(2027, 1, 15, 12, 30, 59, tzinfo=UTC)
PLACE = Path(licenses.authority.web.__file__).parent


def test_times_are_utc_and_say_so():
    assert clerk_text.instant(NOW) == "2027-01-15 12:30 UTC"
    assert clerk_text.day(NOW) == "2027-01-15"


def test_the_last_day_is_the_one_before_an_end_at_midnight():
    midnight = datetime(2028, 1, 1, tzinfo=UTC)
    assert clerk_text.last_day(midnight) == "2027-12-31"
    assert clerk_text.last_day(midnight - timedelta(seconds=1)) == "2027-12-31"


@pytest.mark.parametrize(
    ("then", "text"),
    [
        (timedelta(0), "just now"),
        (timedelta(seconds=-59), "just now"),
        (timedelta(minutes=-1), "1 minute ago"),
        (timedelta(hours=-1, minutes=-59), "1 hour ago"),
        (timedelta(days=-2, hours=-23), "2 days ago"),
        (timedelta(minutes=59), "in 59 minutes"),
        (timedelta(days=1), "in 1 day"),
        (timedelta(days=1234), "in 1,234 days"),
    ],
)
def test_distances_have_one_unit(then, text):
    assert clerk_text.distance(NOW + then, NOW) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (65536, "64 KiB"), (2**21, "2 MiB"), (2**30, "1 GiB")]
)
def test_sizes_have_a_unit_that_fits(count, text):
    assert clerk_text.size(count) == text


def test_a_meter_that_is_ours_has_a_word():
    assert clerk_text.meter(READ_PAGES_METER) == "pages"
    assert clerk_text.meter("Other.Meter") == "Other.Meter"


def test_facts_are_one_line_of_text():
    facts = {
        "container_type": "x",
        "approved": True,
        "overage": False,
        "device": None,
        "quantity": 12000,
        "root": "ab" * 32,
        "totals": {READ_PAGES_METER: 7000},
        "nothing": {},
        "difference": [["m", "2027-01", -3]],
    }
    assert clerk_text.facts(facts) == (
        "container type: x · approved: yes · overage: no · device: none · quantity: 12,000 · root: abababababababab… · "
        'totals: 7,000 pages · nothing: none · difference: [["m", "2027-01", -3]]'
    )


# ---- colours --------------------------------------------------------------------------------------------------------


def _colours() -> dict[str, dict[str, str]]:
    light, dark = re.findall(r":root \{(.*?)\}", (PLACE / "static" / "clerk.css").read_text(), re.DOTALL)[:2]
    return {
        scheme: dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6})", text))
        for scheme, text in (("light", light), ("dark", dark))
    }


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


TONES = ("good", "warn", "bad", "info")
WORDS = [
    *((ink, ground) for ink in ("ink", "soft", "link") for ground in ("paper", "panel", "row")),
    ("action-ink", "action"),
    *((tone, ground) for tone in TONES for ground in (f"{tone}-soft", "panel")),
    *(("ink", f"{tone}-soft") for tone in TONES),
]
EDGES = [("field", "panel"), ("field", "paper"), ("focus", "panel"), ("focus", "paper"), ("action", "panel")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_edges_can_be_told_from_their_ground(scheme):
    """WCAG 2.2, level AA: 1.4.3 for words, 1.4.11 for the edges of fields and of what has the focus."""
    colours = _colours()[scheme]
    assert set(_colours()["light"]) == set(_colours()["dark"])
    low = {pair: _contrast(colours[pair[0]], colours[pair[1]]) for pair in WORDS}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}
    low = {pair: _contrast(colours[pair[0]], colours[pair[1]]) for pair in EDGES}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 3} == {}


# ---- templates ------------------------------------------------------------------------------------------------------

TEMPLATES = sorted((PLACE / "templates").glob("*.html"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_escape_hold_no_script_and_load_nothing_from_elsewhere(path):
    text = path.read_text()
    assert "|safe" not in text
    assert "autoescape" not in text
    assert not re.search(r"<script|<style|\son[a-z]+=|\sstyle=|javascript:|https?://", text)
    for form in re.findall(r'<form method="post".*?</form>', text, re.DOTALL):
        assert "{{ token_field }}" in form
