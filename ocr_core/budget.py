"""What one document may use of the process that decodes it, in the kernel's hands.

Invariant: limits are only ever moved below what the process was given.
"""

import resource
import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one document may use.

    Attributes:
        cpu_seconds: Of work. A document is judged by this alone: that the machine is busy is none of its doing.
        wall_seconds: Of waiting, after which there is no verdict.
        place_seconds: Of waiting before that for a place among those that may take much memory; None takes a place
            when it is needed, and does not wait for one.
        is_last: Whether a document that exceeds it is damaged; otherwise it may be given more another time.
    """

    cpu_seconds: float
    wall_seconds: float
    place_seconds: float | None = None
    is_last: bool = True

    @property
    def longest_seconds(self) -> float:
        """When it is used up at the latest."""
        return self.wall_seconds + (self.place_seconds or 0.0)


def limit_data(limit_bytes: int) -> None:
    """Refuse this process more data than that, so that a bomb ends here."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(
        resource.RLIMIT_DATA, (limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard), hard)
    )


def arm(budget: Budget) -> None:
    """Let the kernel kill this process when the budget is used up: SIGPROF for work, SIGALRM for waiting.

    Timers and not a limit of the process's CPU time, because a process under a filter of system calls may not move its
    limits any more.
    """
    signal.setitimer(signal.ITIMER_PROF, budget.cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, budget.wall_seconds)


def disarm() -> None:
    """Take the budget back."""
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
