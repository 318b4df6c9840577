"""What `sidecar deploy` does: bring a service up, replace it by another, take it down.

Invariants:

* One command at a time changes a service (`turn`), and each first ends what one before it was cut off in.
* Nothing is changed before all that can be refused was refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

from sidecar.deploy.body import container_body, task_body
from sidecar.deploy.console import Console
from sidecar.deploy.decisions import Up, decide_up, differences, require_no_downgrade, require_ours
from sidecar.deploy.engine import Ended, Engine
from sidecar.deploy.host_check import HostCheck
from sidecar.deploy.images import Images, Source
from sidecar.deploy.plan import STOP_SECONDS, Asked, EngineFacts, Found, Plan, plan_for, require_settings
from sidecar.deploy.readiness import ASK_SECONDS, Readiness
from sidecar.deploy.replacement import Replacement
from sidecar.deploy.standing import Downed, Service
from sidecar.deploy.turn import holder, turn
from sidecar.deploy.words import Told
from sidecar.errors import DeployError


class Deployment:
    """One service of one engine.

    Args:
        engine: The engine.
        name: The service's name.
        console: The person at the command.
        monotonic: Seconds from a clock that never steps.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        console: Console,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._name = name
        self._console = console
        self._task = f"{name}-check"
        self._images = Images(engine, console)
        self._host_check = HostCheck(engine, self._task, console)
        self._readiness = Readiness(engine, console, monotonic=monotonic, sleep=sleep)
        self._replacement = Replacement(engine, name, console, self._readiness)

    def up(self, asked: Asked, source: Source, *, wait_seconds: float, is_agreed: bool) -> Service:
        """Have the service run as asked for; nothing changes when it does already.

        Args:
            asked: What was given.
            source: Where the image comes from.
            wait_seconds: How long to wait until it is ready.
            is_agreed: Whether folders may be given to the service's user without asking.

        Raises:
            DeployError: It cannot be, or the service ended; a container that was made for it is gone then, or stopped.
            SettingsError: A setting cannot be used.
        """
        engine = self._engine.facts()
        with turn(engine.host, self._name):
            self._replacement.settle()
            there = self._engine.find(self._name)
            if there is not None:
                require_ours(self._name, there)
            wanted = self._plan(asked, source, engine, there)
            action = decide_up(wanted, there)
            if action is Up.CREATE:
                self._host_check.require_possible(wanted, engine, is_agreed=is_agreed)
                self._create(wanted)
            elif action is Up.START and there is not None:
                self._engine.start(there.id)
            try:
                told = self._readiness.wait(self._name, wait_seconds)
            except DeployError:
                if action is not Up.NOTHING:
                    self._stop_if_there()
                raise
            except KeyboardInterrupt:
                self._console.tell(
                    f"Interrupted: '{self._name}' goes on starting. 'sidecar deploy status' tells how it is, "
                    "'sidecar deploy down' takes it away."
                )
                raise
            return self._service(told, changed=action is not Up.NOTHING)

    def upgrade(
        self, asked: Asked, source: Source, *, wait_seconds: float, is_agreed: bool, allow_downgrade: bool = False
    ) -> Service:
        """Replace the service by another image or other settings; back to the old one when the new one does not serve.

        Args:
            asked: What was given; the rest stays as it is.
            source: Where the image comes from; nothing given keeps it.
            wait_seconds: How long the new one has to become ready.
            is_agreed: Whether folders may be given to the service's user without asking.
            allow_downgrade: Whether an older version may take the place of a newer one.

        Raises:
            DeployError: It cannot be, or the new one did not serve; the old one serves then, as before.
            SettingsError: A setting cannot be used.
        """
        engine = self._engine.facts()
        with turn(engine.host, self._name):
            self._replacement.settle()
            there, before = self._there()
            wanted = self._plan(asked, source, engine, there, oldest="" if allow_downgrade else there.version)
            otherwise = differences(wanted, before)
            if not otherwise:
                return self._service(self._told_by(there), changed=False)
            self._console.tell(f"To change: {'; '.join(otherwise)}.")
            self._host_check.require_possible(wanted, engine, is_agreed=is_agreed)
            told = self._replacement.replace(there, wanted, self._told_by(there), wait_seconds)
            return self._service(told, changed=True)

    def down(self) -> Downed:
        """Stop the service with its window closed, and take its container away; nothing else is removed.

        Raises:
            DeployError: There is none, or it does not end.
        """
        with turn(self._engine.facts().host, self._name):
            self._replacement.settle()
            found, plan = self._there()
            code = self._replacement.end(found, self._name)
            entries, sealed = self._ledger(plan)
            self._engine.remove(found.id)
        return Downed(
            plan=plan,
            exit_code=code,
            entries=entries,
            open_entries=None if entries is None or sealed is None else entries - sealed,
        )

    def status(self) -> Service:
        """How the service stands; nothing is changed.

        Raises:
            DeployError: There is none.
        """
        found = self._engine.find(self._name)
        is_cut_off = self._replacement.is_begun() and holder(self._engine.facts().host, self._name) is None
        if found is None and is_cut_off:
            step = "run 'sidecar deploy up' or 'sidecar deploy upgrade' again; either ends it first"
            raise DeployError("cut_off", f"an upgrade of '{self._name}' was cut off", next_step=step)
        found, plan = require_ours(self._name, found)
        return Service(found=found, plan=plan, told=self._told_by(found), is_cut_off=is_cut_off)

    def inside(self, command: Sequence[str], seconds: float) -> Ended:
        """Run a command as the service, whether it runs or not.

        Args:
            command: The command's words.
            seconds: How long it may take.

        Raises:
            DeployError: There is no service, or the engine does not do it.
        """
        found, plan = self._there()
        if found.is_running:
            return self._engine.run(found.id, command, seconds)
        with turn(self._engine.facts().host, self._name):  # whoever else has it may need the task's name
            return self._engine.run_task(self._task, task_body(plan, command), seconds)

    # ---- what these are made of -------------------------------------------------------------------------------------

    def _there(self) -> tuple[Found, Plan]:
        return require_ours(self._name, self._engine.find(self._name))

    def _plan(self, asked: Asked, source: Source, engine: EngineFacts, there: Found | None, oldest: str = "") -> Plan:
        """What was asked for, with its image in the engine; an image older than `oldest` is refused."""
        before = None if there is None else there.plan
        require_settings(asked.words, before)
        image, release_key = self._images.take(source, before)
        require_no_downgrade(oldest, image.version)
        return plan_for(self._name, asked, image=image, engine=engine, before=before, release_key=release_key)

    def _create(self, wanted: Plan) -> None:
        """A container that serves, or none."""
        self._console.wait(f"making the container '{self._name}'")
        container = self._engine.create(self._name, container_body(wanted))
        try:
            self._engine.start(container)
        except BaseException:
            self._engine.remove(container)
            raise

    def _stop_if_there(self) -> None:
        """Stop a service that ends by itself: its engine would start it again and again."""
        found = self._engine.find(self._name)
        if found is not None:
            self._engine.stop(found.id, STOP_SECONDS)

    def _told_by(self, found: Found) -> Told | None:
        return self._readiness.ask(found) if found.is_running else None

    def _service(self, told: Told | None, *, changed: bool) -> Service:
        found, plan = self._there()
        return Service(found=found, plan=plan, told=told, changed=changed)

    def _ledger(self, plan: Plan) -> tuple[int | None, int | None]:
        """Entries and sealed entries of a ledger that nobody writes to now."""
        self._console.wait("looking what the ledger holds")
        body = task_body(plan, ["sidecar", "ledger", "status", "--json"])
        done = self._engine.run_task(self._task, body, ASK_SECONDS)
        try:
            facts = json.loads(done.output)
            return int(facts["entries"]), int(facts["sealed"])
        except (ValueError, KeyError, TypeError):
            return None, None
