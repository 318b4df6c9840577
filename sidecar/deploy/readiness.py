"""How a service does after its start: asked inside its container, until it serves or a person must mend something.

Invariant: every wait ends in time and says what it waits for.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from sidecar.deploy.console import Console
from sidecar.deploy.engine import Engine
from sidecar.deploy.plan import EXIT_SOFTWARE, Found
from sidecar.deploy.words import Told
from sidecar.errors import DeployError

ASK_SECONDS = 20
"""How long a question to the service may take."""
_POLL_SECONDS = 0.5
_BEFORE_SETTLED = 2
"""An answer that refuses must come twice in a row: a licence is looked for only once the service has begun."""
_BEFORE_RUNNING = {"created", "initialized", "configured"}
_FINAL_CODES = {64, 65, 69, 73, 77, 78}
_LAST_LINES = 5


class Readiness:
    """What the services of one engine say.

    Args:
        engine: The engine.
        console: The person at the command.
        monotonic: Seconds from a clock that never steps.
        sleep: Waits so many seconds.
    """

    def __init__(
        self, engine: Engine, console: Console, *, monotonic: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self._engine = engine
        self._console = console
        self._monotonic = monotonic
        self._sleep = sleep

    def ask(self, found: Found) -> Told | None:
        """What a running service says of itself, asked inside its container: that needs no way to its port.

        Args:
            found: Its container.

        Returns:
            What it says; None when it says nothing.
        """
        try:
            done = self._engine.run(found.id, ["sidecar", "status", "--json"], ASK_SECONDS)
            return Told.from_status(json.loads(done.output)) if done.code == 0 else None
        except (DeployError, ValueError):
            return None  # it may just have ended, which is looked at next

    def wait(self, name: str, seconds: float) -> Told | None:
        """Wait until the service serves, or has settled in a state that a person must mend.

        Args:
            name: Its container's name.
            seconds: How long at most.

        Returns:
            What it said last; None when it said nothing until the time was up.

        Raises:
            DeployError: It ended by itself.
        """
        until = self._monotonic() + seconds
        restarts: int | None = None
        refusals = 0
        told: Told | None = None
        while True:
            found = self._engine.find(name)
            if found is None:
                raise DeployError(
                    "absent", f"the container '{name}' was taken away meanwhile", next_step="run this again"
                )
            restarts = found.restarts if restarts is None else restarts
            if found.restarts > restarts or not (found.is_running or found.status in _BEFORE_RUNNING):
                raise self._ended(found)
            now = self.ask(found) if found.is_running else None
            told = now or told
            refusals = refusals + 1 if now is not None and now.is_settled else 0
            if now is not None and (now.serves or refusals >= _BEFORE_SETTLED):
                return now
            left = until - self._monotonic()
            if left <= 0:
                return told
            said = "the service does not answer yet" if told is None else f"{told.title}: {told.reason}"
            self._console.wait(f"waiting until '{name}' is ready, {left:.0f} s at most: {said}")
            self._sleep(min(_POLL_SECONDS, left))

    def _ended(self, found: Found) -> DeployError:
        lines = b"".join(self._engine.logs(found.id, tail=_LAST_LINES)).decode("utf-8", "replace")
        for line in lines.splitlines():
            self._console.tell(f"  | {line}")
        return DeployError(
            "ended",
            f"the service ended by itself{f', with exit code {found.exit_code}' if found.exit_code else ''}",
            next_step="its last lines stand above, more with 'sidecar deploy logs'; mend that and run this again, or "
            "take it away with 'sidecar deploy down'",
            exit_code=found.exit_code if found.exit_code in _FINAL_CODES else EXIT_SOFTWARE,
        )
