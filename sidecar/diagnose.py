"""`sidecar diagnose`: every cause of a refusal, looked for without the service's help.

Invariant: changes nothing, needs no running service, and gives each check a result, a cause and a next step.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from licenses.errors import LicensesError
from licenses.keyring import load_trust_root
from licenses.model import READ_PAGES_METER
from licenses.verify import day_text
from sidecar.admission import Admission
from sidecar.bootstrap import build_core_client, ledger_path
from sidecar.clock import Clock, EffectiveTime, effective_time
from sidecar.errors import SettingsError, SidecarError
from sidecar.gate import State
from sidecar.ledger import Ledger, LedgerSnapshot
from sidecar.license_mount import LicenseMount
from sidecar.log_files import require_log_mount
from sidecar.settings import Settings
from sidecar.states import STATES

Result = Literal["ok", "warn", "fail"]
_FINE = {"valid", "superseded", "revocation"}
_NONE_BYTES = 1024 * 1024
_LOW_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check's outcome.

    Attributes:
        name: What was looked at.
        result: `ok`, `warn` or `fail`.
        cause: What was found.
        next_step: What to do; empty when nothing is to be done.
    """

    name: str
    result: Result
    cause: str
    next_step: str = ""


def diagnose(
    settings: Settings, clock: Clock, *, unknown: Sequence[str] = (), unused: Sequence[tuple[str, str]] = ()
) -> list[Check]:
    """Run all checks; a check that breaks is a failed check, never an end to the others.

    Args:
        settings: The settings.
        clock: Where readings come from.
        unknown: Names that look like settings and are none.
        unused: Settings without effect here, with the reason.

    Returns:
        All outcomes.
    """
    snapshot, ledger_check = _ledger(settings, clock)
    now = effective_time(clock.read(), snapshot.high_water if snapshot else None)
    checks: list[Callable[[], Iterator[Check]]] = [
        lambda: _settings(settings, unknown, unused),
        lambda: _processor(settings),
        lambda: _clock(now),
        lambda: _trust_root(settings),
        lambda: _licenses(settings, now, snapshot),
        lambda: iter([ledger_check]),
        lambda: _metering(snapshot),
        lambda: _folder("output", settings.output_directory, "Mounts:Output"),
        lambda: _folder("state", settings.state_directory, "Sidecar:StateDirectory"),
        lambda: _folder("spool", settings.shared_directory, "Mounts:Shared"),
        lambda: _core(settings),
        lambda: _port(settings),
        lambda: _state(settings, clock),
    ]
    found: list[Check] = []
    for check in checks:
        try:
            found += check()
        except (OSError, SidecarError, LicensesError) as exc:
            found.append(Check(name="check", result="fail", cause=f"{type(exc).__name__}: {exc}"))
    return found


def _settings(settings: Settings, unknown: Sequence[str], unused: Sequence[tuple[str, str]]) -> Iterator[Check]:
    for name in unknown:
        yield Check(
            name="settings", result="warn", cause=f"{name} is not known", next_step="see 'sidecar --help' for its name"
        )
    for name, reason in unused:
        yield Check(name="settings", result="ok", cause=f"{name} is not used here: {reason}")
    try:
        require_log_mount(settings)
    except SettingsError as exc:
        yield Check(name="log", result="fail", cause=str(exc), next_step=exc.next_step)


def _processor(settings: Settings) -> Iterator[Check]:
    try:
        text = settings.cpu_info.read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        yield Check(
            name="processor", result="fail", cause=f"{settings.cpu_info}: {exc.strerror}", next_step="set Core:CpuInfo"
        )
        return
    flags = next((line.partition(":")[2].split() for line in text.splitlines() if line.startswith("flags")), [])
    if "avx2" in flags:
        yield Check(name="processor", result="ok", cause="AVX2 is among the flags; the core also executes it at start")
    else:
        yield Check(
            name="processor",
            result="fail",
            cause=f"AVX2 is not among the flags in {settings.cpu_info}",
            next_step="run on a host, or a virtual machine with a CPU model, that offers AVX2",
        )


def _clock(now: EffectiveTime) -> Iterator[Check]:
    wall_ns = now.reading.wall_ns
    behind = (now.ns - wall_ns) / 1e9
    if now.quarantined:
        yield Check(
            name="clock",
            result="warn",
            cause=f"the wall clock is {-behind:.0f} s ahead of what the time since boot allows; it is not believed",
            next_step="correct the host's clock",
        )
    elif behind > 1:
        yield Check(
            name="clock",
            result="warn",
            cause=f"the wall clock is {behind:.0f} s behind time already reached; effective time goes on from there",
            next_step="correct the host's clock",
        )
    else:
        yield Check(name="clock", result="ok", cause=f"effective time {day_text(now.at)}")


def _trust_root(settings: Settings) -> Iterator[Check]:
    try:
        root = load_trust_root(settings.trust_root)
    except LicensesError as exc:
        yield Check(name="trust root", result="fail", cause=str(exc), next_step=exc.next_step)
    else:
        kind = "evaluation" if root.evaluation else "production"
        yield Check(name="trust root", result="ok", cause=f"{kind} keys of {root.vendor}, version {root.version}")


def _licenses(settings: Settings, now: EffectiveTime, snapshot: LedgerSnapshot | None) -> Iterator[Check]:
    view = LicenseMount(settings).look(now.at, snapshot.license_floors if snapshot else None)
    if view.license is None or view.judgement is None:
        yield Check(
            name="licence",
            result="fail",
            cause=view.problem,
            next_step="put a licence file into the folder named by Mounts:License",
        )
    else:
        result: Result = "fail" if not view.serves else "ok" if view.judgement.standing.name == "VALID" else "warn"
        yield Check(
            name="licence",
            result=result,
            cause=f"{view.name}: {view.judgement.reason}{' EVALUATION.' if view.license.evaluation else ''}",
            next_step="" if result == "ok" else view.judgement.next_step,
        )
    if view.trust_root_problem:
        yield Check(
            name="trust root",
            result="warn",
            cause=view.trust_root_problem,
            next_step="the one before it stays in force; install the one that the vendor sent last",
        )
    for verdict in view.verdicts:
        if verdict.name != view.name and verdict.standing_or_problem not in _FINE:
            yield Check(
                name="licence file",
                result="warn",
                cause=f"{verdict.name}: {verdict.reason}",
                next_step=verdict.next_step,
            )


def _ledger(settings: Settings, clock: Clock) -> tuple[LedgerSnapshot | None, Check]:
    path = ledger_path(settings)
    if not path.exists():
        return None, Check(
            name="ledger",
            result="warn",
            cause=f"there is none yet at {path}",
            next_step="it is made at the first start",
        )
    try:
        ledger = Ledger(path, clock=clock, instance="", version="")
        try:
            snapshot = ledger.snapshot(READ_PAGES_METER)
        finally:
            ledger.close()
    except SidecarError as exc:
        return None, Check(name="ledger", result="fail", cause=str(exc), next_step=exc.next_step)
    return snapshot, Check(
        name="ledger", result="ok", cause=f"{snapshot.size} entries, {snapshot.sealed_size} of them sealed"
    )


def _metering(snapshot: LedgerSnapshot | None) -> Iterator[Check]:
    if snapshot is None:
        return
    if snapshot.failed_cycles:
        yield Check(
            name="metering",
            result="fail" if snapshot.failed_cycles >= 10 else "warn",
            cause=f"{snapshot.failed_cycles} consecutive failed tries; the last: {snapshot.failure}",
            next_step="mend that cause; the next try delivers all that is pending",
        )
    else:
        yield Check(name="metering", result="ok", cause=f"no failed try; {snapshot.pending_files} record files pending")


def _folder(name: str, path: os.PathLike[str], setting: str) -> Iterator[Check]:
    uid, gid = os.geteuid(), os.getegid()
    if not os.path.isdir(path):
        yield Check(
            name=name,
            result="fail",
            cause=f"{path} is no folder",
            next_step=f"make it and run 'chown {uid}:{gid} {path}' ({setting})",
        )
        return
    found = os.stat(path)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield Check(
            name=name,
            result="fail",
            cause=f"{path} belongs to {found.st_uid}:{found.st_gid} and cannot be written by {uid}:{gid}",
            next_step=f"run 'chown -R {uid}:{gid} {path}' on the host ({setting})",
        )
        return
    free = shutil.disk_usage(path).free
    low = free < _LOW_BYTES
    yield Check(
        name=name,
        result="fail" if free < _NONE_BYTES else "warn" if low else "ok",
        cause=f"{path} is writable, {free // 2**20:,} MiB free",
        next_step="free some space" if low else "",
    )


def _core(settings: Settings) -> Iterator[Check]:
    try:
        health = build_core_client(settings).health()
    except SidecarError as exc:
        yield Check(
            name="core", result="warn", cause=str(exc), next_step="start the service; else ocr-core --self-test"
        )
        return
    if health.cpu_problem:
        yield Check(name="core", result="fail", cause=health.cpu_problem, next_step="run on a host that offers AVX2")
    else:
        yield Check(
            name="core", result="ok", cause=f"{health.engine}, {health.workers} workers, {' '.join(health.languages)}"
        )


def _port(settings: Settings) -> Iterator[Check]:
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.settimeout(1)
        used = probe.connect_ex((host, settings.port)) == 0
    yield Check(name="port", result="ok", cause=f"{settings.listen} is {'in use (the service?)' if used else 'free'}")


def _state(settings: Settings, clock: Clock) -> Iterator[Check]:
    """The decision itself, made here from the same facts as in the service."""
    path = ledger_path(settings)
    if not path.exists():
        return
    ledger = Ledger(path, clock=clock, instance="", version="")
    try:
        admission = Admission(
            settings=settings,
            clock=clock,
            ledger=ledger,
            licenses=LicenseMount(settings),
            core=build_core_client(settings),
        )
    finally:
        ledger.close()
    verdict = admission.standing.verdict
    healthy = verdict.serves and not verdict.warnings
    yield Check(
        name="state",
        result="ok" if healthy else "warn" if verdict.serves or verdict.state is State.STARTING else "fail",
        cause=f"{verdict.state}: {verdict.reason}",
        next_step=STATES[verdict.state].next_step,
    )
