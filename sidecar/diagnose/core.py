"""The core as it answers, and what it finds when it tries itself out.

Invariant: the self-test runs in a process of its own with the core's own environment, so what it finds is what the core
would find; it gets no secret.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from licenses.errors import LicensesError
from licenses.verify import Standing
from sidecar.bootstrap import build_core_client
from sidecar.clock import EffectiveTime
from sidecar.core_client import CoreHealth, CoreLicense
from sidecar.diagnose.check import Check, Result, fail, ok, warn
from sidecar.diagnose.storage import readable, service_user
from sidecar.errors import SidecarError
from sidecar.ledger import LedgerSnapshot
from sidecar.license_mount import LicenseMount
from sidecar.settings import Settings, is_setting

_SELF_TEST_SECONDS = 120.0
_NO_SUCH_MODULE = "No module named"
_NO_LICENSE = "none"
_SERVING = {one.value for one in Standing if one.serves}
_BY_DATE = {Standing.EXPIRED.value, Standing.NOT_YET_VALID.value}
_RESULTS: dict[str, Result] = {"ok": "ok", "warn": "warn", "fail": "fail"}

SelfTest = Callable[[Mapping[str, str]], "subprocess.CompletedProcess[str]"]


def run_self_test(environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`ocr-core --self-test --json` in an environment.

    Raises:
        OSError: It could not be started.
        subprocess.TimeoutExpired: It did not end.
    """
    command = [sys.executable, "-m", "ocr_core", "--self-test", "--json"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=_SELF_TEST_SECONDS, check=False)


def answer(settings: Settings, now: EffectiveTime, snapshot: LedgerSnapshot | None) -> tuple[CoreHealth | None, Check]:
    """What the running core says; None when it does not answer.

    Args:
        settings: The settings.
        now: What the sidecar judges the licence at.
        snapshot: What the ledger holds.
    """
    try:
        health = build_core_client(settings).health()
    except SidecarError as exc:
        step = "start the service; if it runs, read the core's log"
        return None, warn("core", str(exc), step)
    if health.cpu_problem:
        return health, fail("core", health.cpu_problem, "run on a host that offers AVX2")
    refused = health.license
    if refused is not None and refused.standing not in _SERVING and _serves(settings, now, snapshot):
        return health, _other_license(settings, refused)
    languages = " ".join(health.languages)
    return health, ok("core", f"answers: {health.engine}, {health.workers} pages at a time, {languages}")


def _serves(settings: Settings, now: EffectiveTime, snapshot: LedgerSnapshot | None) -> bool:
    """Whether the sidecar finds a licence that serves; where it finds none, the licence's own check tells so."""
    try:
        return LicenseMount(settings).look(now.at, snapshot).serves
    except (OSError, LicensesError, SidecarError):
        return False


def _other_license(settings: Settings, found: CoreLicense) -> Check:
    """The core finds no licence that serves where the sidecar does: it would refuse each page."""
    cause = f"it finds the licence '{found.standing}': {found.reason.removesuffix('.')}; the sidecar's own serves"
    if found.standing in _BY_DATE:
        # Until a page comes with a lease the core has the wall clock alone, which the page is not judged by.
        return warn("core", cause, "see the check of the clock; when pages are refused too, read the core's log")
    if found.standing == _NO_LICENSE:
        give = readable(settings.license_folder, service_user(settings))
        return fail("core", cause, f"the core's user must read the files too: run '{give}'")
    return fail("core", cause, "start the core with the settings, and on the host, that the sidecar has")


def self_tested(settings: Settings, health: CoreHealth | None, run: SelfTest) -> Iterator[Check]:
    """What the core finds here: the processor, the engine, a page read.

    Args:
        settings: The settings.
        health: The running core's word; beside it no second engine is started, which would take a gigabyte, and what
            the core tells of its own stands for that.
        run: Runs the self-test.
    """
    environ = {name: value for name, value in os.environ.items() if not is_setting(name)}
    environ |= settings.to_environment(secrets=False)
    if health is not None:
        environ["Core__SecondEngine"] = "off"
    try:
        done = run(environ)
    except (OSError, subprocess.TimeoutExpired) as exc:
        yield warn("core self-test", f"it could not be run: {exc}", "run 'ocr-core --self-test' by hand")
        return
    try:
        told = json.loads(done.stdout)
        checks = [_check(one) for one in told["checks"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        if _NO_SUCH_MODULE in last:
            yield warn("core self-test", "the core is not installed here", "run 'ocr-core --self-test' where it is")
        else:
            yield fail("core self-test", last, "mend that, then run 'ocr-core --self-test'")
        return
    for check in checks:
        yield check if health is None or check.name != "second engine" else _second_engine(settings, health)


def _second_engine(settings: Settings, health: CoreHealth) -> Check:
    """What the running core has seen of its second engine."""
    name, second = "second engine", health.second_engine
    if second is None:
        off = " (Core:SecondEngine=off)" if settings.core_second_engine == "off" else ""
        return ok(name, f"the core that runs tells of none{off}: handwriting and photos read worse without it")
    told = f"{second.name}: {second.state}; pictures read since the core started: {second.pictures}"
    if second.died or second.killed:
        step = "read the core's log; if memory was short, give more, or set Core:SecondEngine=off"
        return warn(name, f"{told}; ended by itself: {second.died}; took too long: {second.killed}", step)
    return ok(name, f"{told}; none is tried beside a core that runs")


def _check(told: Any) -> Check:
    return Check(
        name=str(told["name"]),
        result=_RESULTS[told["result"]],
        cause=str(told["cause"]),
        next_step=str(told["next_step"]),
    )
