"""Which level of the log counts for which sink and which category, as the original container's framework decides it.

Invariant: pure. A rule for one sink beats a rule for all of them, whatever their categories; among those, the longest
category that the logger's name begins with wins. Names are folded (`sidecar.settings.canonical_name`) before they come
here, categories compare without regard to letter case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

LEVELS = ("Trace", "Debug", "Information", "Warning", "Error", "Critical", "None")
DEFAULT_LEVEL = "Information"
SINKS = ("Console", "Disk", "Fluentd")
LEVEL_FAMILY = (
    ("Logging:LogLevel:Default", DEFAULT_LEVEL, "what is logged, from this level on"),
    ("Logging:LogLevel:<Category>", "", "the same for categories that begin so, as in Tollgate.Meter"),
    ("Logging:Console:LogLevel:Default", "", "the same for the console alone; so with <Category>"),
    ("Logging:Disk:LogLevel", "", "the same for the log on disk; so with :Default and :<Category>"),
    ("Logging:Fluentd:LogLevel:Default", "", "the same for what is sent to Fluentd; so with <Category>"),
)
_NAME = re.compile(r"logging(?::(?P<sink>console|disk|fluentd))?:loglevel(?::(?P<category>.+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLevels:
    """The rules.

    Attributes:
        rules: `(sink, category, level)`; an empty sink stands for all sinks, an empty category for all categories.
    """

    rules: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> LogLevels:
        """Rules from folded names, each of which is a level's name, and levels."""
        rules = {}
        for name in sorted(settings):
            sink, category = _parts(name)
            # `Logging:Disk:LogLevel=Debug` is how the contract writes what is `…:LogLevel:Default` elsewhere.
            if name.endswith(":loglevel") and f"{name}:default" in settings:
                continue
            rules[sink, category] = settings[name]
        return cls(rules=tuple((sink, category, level) for (sink, category), level in sorted(rules.items())))

    def to_settings(self) -> dict[str, str]:
        """The settings that say so."""
        return {
            ":".join(["Logging", *([sink] if sink else []), "LogLevel", category or "Default"]): level
            for sink, category, level in self.rules
        }

    @property
    def lowest(self) -> str:
        """The lowest level that goes anywhere."""
        given = {level for _, _, level in self.rules} | {self.level(sink, "") for sink in SINKS}
        return min(given, key=LEVELS.index)

    def level(self, sink: str, category: str) -> str:
        """From which level on a category's events go to a sink."""
        folded = category.lower()
        found = [rule for rule in self.rules if rule[0] in ("", sink) and _matches(rule[1], folded)]
        return max(found, key=lambda rule: (rule[0] != "", len(rule[1])), default=("", "", DEFAULT_LEVEL))[2]


def is_level_name(canonical: str) -> bool:
    """Whether a folded name sets a level."""
    return _NAME.fullmatch(canonical) is not None


def level_name(canonical: str) -> str:
    """A level's folded name as people write it."""
    sink, category = _parts(canonical)
    return ":".join(["Logging", *([sink] if sink else []), "LogLevel", category or "Default"])


def _parts(canonical: str) -> tuple[str, str]:
    match = _NAME.fullmatch(canonical)
    if match is None:
        raise ValueError(canonical)
    category = match["category"] or "default"
    return (match["sink"] or "").capitalize(), "" if category == "default" else category


def _matches(pattern: str, category: str) -> bool:
    """A category begins with the pattern, or with what stands before its `*` and ends with what stands after."""
    before, _, after = pattern.partition("*")
    return len(category) >= len(before) + len(after) and category.startswith(before) and category.endswith(after)
