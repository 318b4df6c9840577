"""What entitles the service to serve: settings, trust root, licence files, its own key, and the decision from all that.

Invariant: judged by the same functions as in the service, at the same effective time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from licenses.device_key import PRIVATE_NAME, PUBLIC_NAME, device_id_of, instance_id_of, load_device_public
from licenses.errors import LicensesError
from licenses.keyring import load_trust_root
from sidecar.admission import Admission
from sidecar.bootstrap import build_core_client, ledger_path, meter_problem, require_cadence
from sidecar.clock import Clock, EffectiveTime
from sidecar.diagnose.check import Check, fail, ok, warn
from sidecar.errors import SettingsError
from sidecar.gate import State
from sidecar.ledger import Ledger, LedgerSnapshot
from sidecar.license_mount import LicenseMount
from sidecar.settings import Settings, require_start
from sidecar.states import next_step

_START = (
    "start the service with these settings, with 'sidecar run', 'systemctl start ocr-sidecar.target' or its container; "
    "if it is started, read the meter's log"
)
_FINE = {"valid", "superseded", "revocation"}


def settings(
    given: Settings,
    now: EffectiveTime,
    refused: Sequence[SettingsError],
    unknown: Sequence[str],
    unused: Sequence[tuple[str, str]],
) -> Iterator[Check]:
    """Whether the service would start with these, under the licence that is there."""
    starts = not refused
    for problem in refused:
        told = f"the service does not start: {problem} (looked at below with the default)"
        yield fail("settings", told, problem.next_step)
    try:
        require_start(given)
    except SettingsError as exc:
        starts = False
        yield warn("settings", f"the service does not start with these: {exc}", exc.next_step)
    try:
        require_cadence(given, LicenseMount(given), now.at)
    except SettingsError as exc:
        starts = False
        yield fail("settings", f"the service does not start with these: {exc}", exc.next_step)
    if starts and not unknown:
        yield ok("settings", "the service starts with these")
    for name in unknown:
        yield warn("settings", f"{name} is not known", "see 'sidecar --help' for its name")
    for name, reason in unused:
        yield ok("settings", f"{name} is not used here: {reason}")


def trust_root(given: Settings) -> Iterator[Check]:
    """The vendor's public keys."""
    try:
        root = load_trust_root(given.trust_root)
    except LicensesError as exc:
        yield fail("trust root", str(exc), exc.next_step or "set Sidecar:TrustRoot to the file that the vendor gave")
    else:
        kind = "evaluation" if root.evaluation else "production"
        yield ok("trust root", f"{kind} keys of {root.vendor}, version {root.version}, in {given.trust_root}")


def licenses(given: Settings, now: EffectiveTime, snapshot: LedgerSnapshot | None) -> Iterator[Check]:
    """The licence to go by, then every other file beside it."""
    mount = LicenseMount(given)
    view = mount.look(now.at, snapshot)
    if mount.trust_root is None:
        yield fail("licence", "no file can be judged without a trust root", "mend the trust root first")
    elif view.license is None or view.judgement is None:
        step = f"put a licence file into {given.license_folder} (Mounts:License)"
        if view.verdicts:
            step = f"do what is said below of each file that is there, or {step}"
        if given.is_connected:
            step = "the meter fetches it from the billing endpoint: see the check of that, and the meter's log"
        yield fail("licence", view.problem, step)
    else:
        cause = f"{view.name}: {view.judgement.reason}{' EVALUATION.' if view.license.evaluation else ''}"
        if not view.serves:
            yield fail("licence", cause, view.judgement.next_step or "ask the vendor for another licence")
        elif view.judgement.standing.name == "VALID":
            yield ok("licence", cause)
        else:
            yield warn("licence", cause, view.judgement.next_step or "ask the vendor for the next licence")
    if view.trust_root_problem:
        step = "the one before it stays in force; install the one that the vendor sent last"
        yield warn("trust root", view.trust_root_problem, step)
    for verdict in view.verdicts:
        if verdict.name == view.name and verdict.license == view.license:
            continue
        cause = f"{verdict.name}: {verdict.reason}"
        if verdict.name == view.name:
            cause = f"{cause.removesuffix('.')}; the service still goes by what it read from it before"
        if verdict.standing_or_problem in _FINE:
            yield ok("licence file", cause)
        else:
            yield warn("licence file", cause, verdict.next_step or "take the file away, or ask the vendor for another")


def device(given: Settings) -> Iterator[Check]:
    """The key that the meter signs with."""
    public = given.state_directory / PUBLIC_NAME
    try:
        if not public.exists():
            yield warn("device key", f"there is no {public} yet", "the meter makes one at its first start")
            return
        key = load_device_public(given.state_directory)
    except LicensesError as exc:
        yield fail("device key", str(exc), exc.next_step or "restore the state directory from its backup")
        return
    told = f"device {device_id_of(key.raw)}, instance {instance_id_of(key.raw)}"
    private = given.device_key_directory / PRIVATE_NAME
    # A service manager may hand the private half over, sealed; then it is not here.
    try:
        is_open = private.is_file() and bool(private.stat().st_mode & 0o077)
    except OSError as exc:
        yield warn("device key", f"{told}; {private}: {exc.strerror}", "run this as the service's user, or as root")
        return
    if is_open:
        yield fail("device key", f"{told}; {private} may be read by others", f"run 'chmod 0400 {private}'")
    else:
        yield ok("device key", told)


def decision(given: Settings, clock: Clock) -> Iterator[Check]:
    """The decision itself, made here from the same facts as in the service."""
    path = ledger_path(given)
    if not path.exists():
        return
    ledger = Ledger(path, clock=clock, instance="", version="")
    try:
        admission = Admission(
            settings=given,
            clock=clock,
            ledger=ledger,
            licenses=LicenseMount(given),
            core=build_core_client(given),
        )
    finally:
        ledger.close()
    verdict = admission.standing.verdict
    cause = f"{verdict.state}: {verdict.reason}"
    step = next_step(verdict)
    if verdict.state is State.STARTING:
        # This process has waited for nothing yet: whether the service will come to serve shows in its meter.
        down = meter_problem(given)
        if down:
            cause, step = f"no lease is minted for the core: {down}", _START
        else:
            step = "wait a few seconds and run this again; if it stays like this, read the log of the service"
    elif verdict.state is State.UNLICENSED and not verdict.next_step:
        step = "do what is said above of the licence and of each licence file"
    if verdict.serves and not verdict.warnings:
        yield ok("decision", cause)
    elif verdict.serves or verdict.state is State.STARTING:
        told = (cause, *(warning.removesuffix(".") for warning in verdict.warnings))
        yield warn("decision", "; ".join(dict.fromkeys(told)), step or "see the checks above")
    else:
        yield fail("decision", cause, step)
