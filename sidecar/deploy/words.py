"""What a service says, in a container: `sidecar status --json` and `sidecar diagnose --json`.

Invariant: what comes from a container is of any version; what is not understood is a `ValueError`, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sidecar.deploy.plan import EXIT_CPU, EXIT_LICENSE, EXIT_UNAVAILABLE

_PASSING = frozenset({"STARTING", "CORE_DOWN", "SUSPENDED", "LEDGER_UNAVAILABLE", "SPOOL_UNAVAILABLE"})
"""States that a service passes through while it starts; any other is an answer."""
_OF_THE_LICENSE = frozenset(
    {"UNLICENSED", "MISMATCH", "NOT_YET_VALID", "TERMINATED", "REVOKED", "HOST_MISMATCH", "OUT_OF_QUOTA"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a service says of itself.

    Attributes:
        state: The state's word, as `ACTIVE`.
        title: The same for people.
        reason: Why.
        next_step: What to do; empty when nothing is to be done.
        serves: Whether queries are served.
        version: The product's version.
        warnings: What is amiss although it serves.
        facts: All of `/status`.
    """

    state: str
    title: str
    reason: str
    next_step: str
    serves: bool
    version: str
    warnings: tuple[str, ...]
    facts: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_status(cls, facts: Mapping[str, Any]) -> Told:
        """From the members of `/status`.

        Raises:
            ValueError: They are not what `/status` tells.
        """
        try:
            return cls(
                state=str(facts["state"]),
                title=str(facts["title"]),
                reason=str(facts["reason"]),
                next_step=str(facts["nextStep"]),
                serves=bool(facts["serves"]),
                version=str(facts["version"]),
                warnings=tuple(map(str, facts["warnings"])),
                facts=facts,
            )
        except (KeyError, TypeError) as exc:
            raise ValueError(f"no status: {exc}") from exc

    @property
    def is_settled(self) -> bool:
        """Whether waiting any longer would change nothing."""
        return self.serves or self.state not in _PASSING

    @property
    def exit_code(self) -> int:
        """Exit code of contract H16 for a service in this state."""
        if self.serves:
            return 0
        if self.state in _OF_THE_LICENSE:
            return EXIT_LICENSE
        return EXIT_CPU if self.state == "HOST_UNSUPPORTED" else EXIT_UNAVAILABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check's outcome, from `sidecar diagnose --json` in a container.

    Attributes:
        name: What was looked at.
        result: `ok`, `warn` or `fail`.
        cause: What was found.
        next_step: What to do.
        code: Stable word where a program is to know what it is; else empty.
    """

    name: str
    result: str
    cause: str
    next_step: str
    code: str = ""

    @classmethod
    def from_checks(cls, told: Any) -> list[Finding]:
        """From the parsed output.

        Raises:
            ValueError: It is none.
        """
        try:
            return [
                cls(
                    name=str(one["name"]),
                    result=str(one["result"]),
                    cause=str(one["cause"]),
                    next_step=str(one["next_step"]),
                    code=str(one.get("code", "")),
                )
                for one in told
            ]
        except (KeyError, TypeError, AttributeError) as exc:
            raise ValueError(f"no checks: {exc}") from exc
