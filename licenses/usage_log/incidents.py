"""What the entries tell of the clock, of failed cycles and of damage, told once each.

Invariant: none of this speaks against the records; it is what the meter itself wrote down, so that an auditor may ask.
"""

from collections import Counter
from collections.abc import Mapping

from licenses.strict_json import JsonValue
from licenses.usage_log.proof import Find
from licenses.usage_log.report import Severity, counted, duration_text

_CORRECTIONS: Mapping[str, str] = {
    "accepted": "the operator confirmed it",
    "synchronised": "it was synchronised and believed again",
    "anchor": "time was raised to an instant that the vendor vouched for",
    "reset": "time was set with the vendor's token",
    "other": "it was corrected",
}


class Incidents:
    """What the entries tell of the clock, of failed cycles and of damage."""

    def __init__(self) -> None:
        self._steps = 0
        self._largest_ms = 0
        self._corrections: Counter[str] = Counter()
        self._doubted = 0
        self._moved_aside = 0
        self._faults = 0
        self._most_failed = 0

    def add(self, entry: Mapping[str, JsonValue]) -> None:
        """One entry of the kind `clock`, `quarantine` or `fault`."""
        match entry["kind"], entry.get("action"):
            case "clock", "step":
                by_ms = entry.get("by_ms")
                self._steps += 1
                if type(by_ms) is int and abs(by_ms) > abs(self._largest_ms):
                    self._largest_ms = by_ms
            case "clock", action:
                self._corrections[action if isinstance(action, str) and action in _CORRECTIONS else "other"] += 1
            case "quarantine", _ if "begins" in entry:
                self._doubted += entry["begins"] is True
            case "quarantine", _:
                self._moved_aside += 1
            case _:
                self._faults += 1
                failed = entry.get("failed_cycles")
                self._most_failed = max(self._most_failed, failed if type(failed) is int else 0)

    def tell(self, find: Find) -> None:
        """One note of each kind."""
        if self._faults:
            row = f", at most {self._most_failed} in a row" if self._most_failed else ""
            find(
                Severity.NOTE,
                "fault_entries",
                "",
                f"{counted(self._faults, 'metering cycle', 'metering cycles')} failed{row}.",
            )
        parts = []
        if self._steps:
            way = "back" if self._largest_ms < 0 else "ahead"
            parts.append(
                f"{counted(self._steps, 'step', 'steps')}, the largest {duration_text(abs(self._largest_ms))} {way}"
            )
        parts.extend(
            f"{counted(count, 'time', 'times')} {_CORRECTIONS[action]}"
            for action, count in sorted(self._corrections.items())
        )
        if parts:
            message = (
                f"The wall clock: {'; '.join(parts)}. Effective time, which counts here, did not run back by that."
            )
            find(Severity.NOTE, "clock_entries", "", message)
        if self._doubted:
            message = f"The wall clock jumped ahead and was not believed: {counted(self._doubted, 'time', 'times')}."
            find(Severity.NOTE, "quarantine_entries", "", message)
        if self._moved_aside:
            message = f"Damaged pieces of the meter's state that were moved aside: {self._moved_aside}."
            find(Severity.NOTE, "quarantine_entries", "", message)
