"""A service's container replaced by another: forward, or back, and an attempt that was cut off ended.

Invariants:

* A service is replaced by going forward or going back, never by half: the old container is put aside, and taken away
  only when the new one serves. Cut off anywhere, the next command ends it (`decisions.mend`).
* Two containers of one service never run side by side: one ledger has one writer. The old one has ended, its window
  closed, before the new one starts.
"""

from __future__ import annotations

from sidecar.deploy.body import container_body
from sidecar.deploy.console import Console
from sidecar.deploy.decisions import Mend, mend, require_ours
from sidecar.deploy.engine import Engine
from sidecar.deploy.plan import EXIT_SOFTWARE, STOP_SECONDS, Found, Plan
from sidecar.deploy.readiness import Readiness
from sidecar.deploy.words import Told
from sidecar.errors import DeployError

_BACK_SECONDS = 120


class Replacement:
    """The containers of one service: the one that serves, and in an upgrade the one before and the one to come.

    Args:
        engine: The engine.
        name: The service's name.
        console: The person at the command.
        readiness: What services say.
    """

    def __init__(self, engine: Engine, name: str, console: Console, readiness: Readiness) -> None:
        self._engine = engine
        self._name = name
        self._console = console
        self._readiness = readiness
        self._previous, self._next = f"{name}-previous", f"{name}-next"

    def is_begun(self) -> bool:
        """Whether there is a container of an upgrade that has not ended."""
        return any(self._engine.find(name) is not None for name in (self._previous, self._next))

    def replace(self, old: Found, wanted: Plan, standing: Told | None, wait_seconds: float) -> Told | None:
        """Put another container in the place of the one there is; back to that when the new one does not serve.

        Args:
            old: The container there is.
            wanted: The service as it should be.
            standing: What the old one said last.
            wait_seconds: How long the new one has to become ready.

        Returns:
            What the new one says.

        Raises:
            DeployError: The new one did not serve; the old one is back.
        """
        try:
            new = self._engine.create(self._next, container_body(wanted))
            self.end(old, self._name)
            self._engine.rename(old.id, self._previous)
            self._engine.rename(new, self._name)
            self._engine.start(new)
            told = self._readiness.wait(self._name, wait_seconds)
            if not _is_as_good(told, standing):
                said = "it did not answer" if told is None else f"{told.state}: {told.reason}"
                raise DeployError("not_ready", f"the new one is not ready after {wait_seconds:.0f} s: {said}")
        except (DeployError, KeyboardInterrupt) as exc:
            self._console.tell(f"Going back to the old one: {exc or 'interrupted'}")
            self.settle(serves=False)
            back = self._readiness.wait(self._name, max(wait_seconds, _BACK_SECONDS))
            if isinstance(exc, KeyboardInterrupt):
                raise
            state = "it is not ready yet" if back is None else f"it is {back.state}"
            raise DeployError(
                "rolled_back",
                f"not upgraded: {exc}. The old one is back, and {state}; nothing that was counted is lost",
                next_step=exc.next_step or "read what the new one said above, mend that, and run this again",
                exit_code=EXIT_SOFTWARE,
            ) from exc
        self._engine.remove(old.id)
        return told

    def end(self, container: Found, name: str) -> int:
        """Stop a container so that its window is closed; its exit code.

        Args:
            container: The container.
            name: Its name.

        Raises:
            DeployError: It runs on.
        """
        if container.is_running:
            self._console.wait(f"waiting until '{name}' has finished its pages and closed its window")
            self._engine.stop(container.id, STOP_SECONDS)
        found = self._engine.find(name)
        if found is not None and found.is_running:
            step = "look at the engine's log; the service was asked to end and is still there"
            raise DeployError("not_stopped", f"the container '{name}' runs on", next_step=step, exit_code=EXIT_SOFTWARE)
        return found.exit_code if found is not None else 0

    def settle(self, *, serves: bool | None = None) -> None:
        """End an upgrade that was cut off.

        Args:
            serves: Whether the container under the service's name is good; None asks it.

        Raises:
            DeployError: A container that is in the way is another's, or the engine does not do it.
        """
        current, previous, following = map(self._engine.find, (self._name, self._previous, self._next))
        for name, one in ((self._previous, previous), (self._next, following)):
            if one is not None:
                require_ours(self._name, one, called=name)
        if previous is None and following is None:
            return
        if serves is None:
            self._console.tell("An upgrade was cut off here; it is ended first.")
            told = self._readiness.ask(current) if current is not None and current.is_running else None
            serves = told is not None and told.serves
        for step in mend(current, previous, following, serves=serves):
            self._carry_out(step, current, previous, following)

    def _carry_out(self, step: Mend, current: Found | None, previous: Found | None, following: Found | None) -> None:
        self._console.wait(step.value)
        if step is Mend.REMOVE_NEXT and following is not None:
            self._engine.remove(following.id)
        elif step is Mend.STOP_CURRENT and current is not None:
            self._engine.stop(current.id, STOP_SECONDS)
        elif step is Mend.REMOVE_CURRENT and current is not None:
            self._engine.remove(current.id)
        elif step is Mend.BRING_BACK and previous is not None:
            self._engine.rename(previous.id, self._name)
        elif step is Mend.START_CURRENT and (back := previous or current) is not None:
            self._engine.start(back.id)
        elif step is Mend.REMOVE_PREVIOUS and previous is not None:
            self._engine.remove(previous.id)


def _is_as_good(told: Told | None, standing: Told | None) -> bool:
    """Whether a new service may take the old one's place: it serves, or is refused for the same as the old one."""
    if told is None:
        return False
    return told.serves or (standing is not None and not standing.serves and told.state == standing.state)
