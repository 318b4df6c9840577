"""`sidecar diagnose`: every cause of a refusal, looked for without the service's help.

Invariants:

* Changes nothing and needs no running service; the files that it writes to try a disk have no name.
* Each check has a result, a cause and a next step; one that breaks is a failed check, never an end to the others.
* Nothing is asked of the network, unless a setting names whom to ask and the service would ask it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from licenses.errors import LicensesError
from sidecar.clock import Clock, effective_time
from sidecar.diagnose import core, host, papers, storage
from sidecar.diagnose.check import Check, fail, rows
from sidecar.errors import SettingsError, SidecarError
from sidecar.settings import Settings

__all__ = ["Check", "diagnose", "rows"]


def diagnose(
    settings: Settings,
    clock: Clock,
    *,
    refused: Sequence[SettingsError] = (),
    unknown: Sequence[str] = (),
    unused: Sequence[tuple[str, str]] = (),
    self_test: core.SelfTest = core.run_self_test,
) -> list[Check]:
    """Run all checks.

    Args:
        settings: The settings.
        clock: Where readings come from.
        refused: What is wrong with settings that keep their default here, since they cannot be used.
        unknown: Names that look like settings and are none.
        unused: Settings without effect here, with the reason.
        self_test: Runs the core's self-test.

    Returns:
        All outcomes.
    """
    snapshot, ledger_check = storage.ledger(settings, clock)
    now = effective_time(clock.read(), snapshot.high_water if snapshot else None)
    health, core_check = core.answer(settings, now, snapshot)
    user = storage.service_user(settings)
    of_folder = "Sidecar:StateDirectory" if settings.is_connected else "Mounts:License"
    checks: list[tuple[str, Callable[[], Iterable[Check]]]] = [
        ("settings", lambda: papers.settings(settings, now, refused, unknown, unused)),
        ("core", lambda: core.self_tested(settings, health, self_test)),
        ("core", lambda: [core_check]),
        ("clock", lambda: host.clock(now, clock)),
        ("trust root", lambda: papers.trust_root(settings)),
        ("licence", lambda: papers.licenses(settings, now, snapshot)),
        ("licence folder", lambda: storage.licenses_readable(settings.license_folder, of_folder, user)),
        ("device key", lambda: papers.device(settings)),
        ("ledger", lambda: [ledger_check]),
        ("metering", lambda: storage.metering(settings, snapshot)),
        ("output", lambda: storage.folder("output", settings.output_directory, "Mounts:Output", user, settings)),
        ("state", lambda: storage.folder("state", settings.state_directory, "Sidecar:StateDirectory", user, settings)),
        ("spool", lambda: storage.folder("spool", settings.shared_directory, "Mounts:Shared", user, settings)),
        ("port", lambda: host.port(settings)),
        ("endpoint", lambda: host.endpoint(settings)),
        ("log", lambda: host.log(settings)),
        ("decision", lambda: papers.decision(settings, clock)),
    ]
    found: list[Check] = []
    for name, check in checks:
        try:
            found += check()
        except (OSError, SidecarError, LicensesError) as exc:
            step = getattr(exc, "next_step", "") or "mend that, and run this again"
            found.append(fail(name, f"{type(exc).__name__}: {exc}", step))
    return found
