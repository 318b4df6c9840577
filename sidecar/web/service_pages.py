"""The service's own pages: home, readiness, status, usage totals, metrics (contract D and C.2).

Invariant: all of them show the one decision that admission holds, and all of them answer in every state.
"""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus

import msgspec
from flask import Blueprint, Response, current_app, render_template

from licenses.model import READ_PAGES_METER
from licenses.verify import Standing as LicenseStanding
from sidecar import __version__
from sidecar.admission import Standing
from sidecar.ledger import API_TYPE
from sidecar.memory import service_bytes
from sidecar.record_output import SERVICE_NAME
from sidecar.states import STATES, next_step, public_word, status_message
from sidecar.web.described import Answer, ApiDocument, Described, Parameter, described
from sidecar.web.errors import error_response
from sidecar.web.metrics import render_metrics
from sidecar.web.origin import origin, root
from sidecar.web.rendered import rendered_newest
from sidecar.web.responses import json_response
from sidecar.web.services import services

bp = Blueprint("service", __name__)
DOCUMENT = ApiDocument(name="service", title="The service itself")
MONTH = Parameter(name="month", meaning="Month, from 1 to 12.", pattern=r"^(0?[1-9]|1[0-2])$", required=True)
YEAR = Parameter(name="year", meaning="Year of four digits.", pattern=r"^(?!0000)[0-9]{4}$", required=True)


class Ready(msgspec.Struct, frozen=True):
    """Whether a query would be served now."""

    service: str
    ready: str
    message: str


class Alive(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """That the process answers; with the memory of the whole service where a limit is set."""

    service: str
    alive: bool
    memory_megabytes: int | None = None
    memory_limit_megabytes: int | None = None


class LicenseStatus(msgspec.Struct, frozen=True, rename="camel"):
    """The licence in force, or the best that was found."""

    id: str
    sequence: int
    customer: str
    evaluation: bool
    expires_at: str
    termination_at: str
    days_left: int
    standing: str
    reason: str


class LicenseFileStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What became of one file in the licence folder."""

    file: str
    standing: str
    reason: str
    next_step: str


class MeteringStatus(msgspec.Struct, frozen=True, rename="camel"):
    """How the meter does; pages are of the licence in force."""

    pages: int
    failed_cycles: int
    failure: str
    entries: int
    sealed_entries: int
    pending_files: int
    window_closes_at: str | None


class EndpointStatus(msgspec.Struct, frozen=True, rename="camel"):
    """How the billing endpoint stands, in connected mode; `status` is a word such as `Valid` or `CouldNotConnect`."""

    address: str
    status: str
    problem: str
    last_contact_at: str | None
    pending_reports: int


class CoreStatus(msgspec.Struct, frozen=True, rename="camel"):
    """How the core does."""

    answers: bool
    workers: int
    engine: str
    cpu_problem: str


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """The decision in three fields, then the same in more words, with the facts behind it."""

    service: str
    api_status: str
    api_status_message: str
    state: str
    title: str
    reason: str
    next_step: str
    serves: bool
    evaluation: bool
    warnings: list[str]
    version: str
    effective_time: str
    clock_quarantined: bool
    license: LicenseStatus | None
    license_files: list[LicenseFileStatus]
    metering: MeteringStatus | None
    endpoint: EndpointStatus | None
    core: CoreStatus


class UsageMeter(msgspec.Struct, frozen=True, rename="camel"):
    """Units of one meter; `billedUnit` counts against the commitment."""

    name: str
    quantity: int
    billed_unit: int


class UsageLogs(msgspec.Struct, frozen=True, rename="camel"):
    """Totals of the usage records (contract C.2, the superset)."""

    type: str
    meters: list[UsageMeter]
    api_type: str
    service_name: str


@bp.get("/ready")
@described(
    Described(
        document=DOCUMENT,
        summary="Whether a query would be served",
        operation_id="ready",
        answers={
            HTTPStatus.OK: Answer(meaning="It would.", model=Ready),
            HTTPStatus.SERVICE_UNAVAILABLE: Answer(meaning="It would not, and why.", model=Ready),
        },
    )
)
def ready() -> Response:
    """200 when a query would be served, else 503 with the reason."""
    verdict = services(current_app).admission.recent().verdict
    message = "Api is ready.." if verdict.serves and not verdict.warnings else status_message(verdict)
    body = Ready(SERVICE_NAME, "ready" if verdict.serves else "notready", message)
    status = HTTPStatus.OK if verdict.serves else HTTPStatus.SERVICE_UNAVAILABLE
    return json_response(body, status)


@bp.get("/status")
@described(
    Described(
        document=DOCUMENT,
        summary="State and reason, in every state",
        operation_id="status",
        answers={HTTPStatus.OK: Answer(meaning="The state.", model=Status)},
    )
)
def status() -> Response:
    """The decision and its reason; 200 in every state, so that it can be read when nothing else can."""
    return rendered_newest(services(current_app).admission.recent(), describe)


@bp.get("/ContainerLiveness")
@bp.get("/containerliveness")
@described(
    Described(
        document=DOCUMENT,
        summary="That the process answers",
        operation_id="containerLiveness",
        answers={
            HTTPStatus.OK: Answer(meaning="It does.", model=Alive),
            HTTPStatus.SERVICE_UNAVAILABLE: Answer(
                meaning="The service takes more memory than HealthCheck:MemoryUpperboundInMB.", model=Alive
            ),
        },
    )
)
def liveness() -> Response:
    """200 as long as this process answers and the service takes no more memory than it may."""
    limit = services(current_app).settings.memory_limit_megabytes
    if limit is None:
        return json_response(Alive(SERVICE_NAME, alive=True))
    megabytes = service_bytes() // 2**20
    body = Alive(SERVICE_NAME, alive=megabytes <= limit, memory_megabytes=megabytes, memory_limit_megabytes=limit)
    return json_response(body, HTTPStatus.OK if body.alive else HTTPStatus.SERVICE_UNAVAILABLE)


@bp.get("/records/usage-logs/", strict_slashes=False)
@described(
    Described(
        document=DOCUMENT,
        summary="Totals of all usage",
        operation_id="usageLogs",
        answers={HTTPStatus.OK: Answer(meaning="The totals.", model=UsageLogs)},
    )
)
def usage_logs() -> Response:
    """Totals of everything that was ever counted."""
    return _usage(None)


@bp.get("/records/usage-logs/<month>/<year>", strict_slashes=False)
@bp.get("/records/usage-logs/<month>/<year>/", strict_slashes=False)
@described(
    Described(
        document=DOCUMENT,
        summary="Totals of one month",
        operation_id="usageLogsOfMonth",
        path=(MONTH, YEAR),
        answers={HTTPStatus.OK: Answer(meaning="The totals.", model=UsageLogs)},
        errors=(400,),
    )
)
def usage_logs_of_month(month: str, year: str) -> Response:
    """Totals of one month; both `3/2031` and `03/2031`."""
    if not MONTH.holds(month):
        return _bad_month("The month must be a number from 1 to 12.")
    if not YEAR.holds(year):
        return _bad_month("The year must have four digits.")
    return _usage(f"{year}-{int(month):02d}")


@bp.get("/metrics")
@described(
    Described(
        document=DOCUMENT,
        summary="Metrics for Prometheus",
        operation_id="metrics",
        answers={HTTPStatus.OK: Answer(meaning="The metrics.", media="text/plain")},
    )
)
def metrics() -> Response:
    """Prometheus metrics."""
    one = services(current_app)
    return Response(*render_metrics(one))


@bp.get("/")
def home() -> Response:
    """The home page: state, licence, metering, how to send the first document."""
    one = services(current_app)
    standing = one.admission.standing
    status = describe(standing)
    page = render_template(
        "home.html",
        status=status,
        reason=_sentence(status.reason),
        warnings=[_sentence(warning) for warning in _warnings_beside_the_reason(status)],
        days_left=_days_left(standing),
        months=one.ledger.months(READ_PAGES_METER)[-12:] if standing.ledger else [],
        origin=origin(),
        root=root(),
        version=__version__,
        now=standing.effective_at,
    )
    return Response(page, content_type="text/html; charset=utf-8")


@bp.get("/favicon.ico")
def favicon() -> Response:
    """The page's icon."""
    return current_app.send_static_file("icon.svg")


def describe(standing: Standing) -> Status:
    """The decision with the facts behind it, as `/status` tells them."""
    verdict, view, snapshot, core = standing.verdict, standing.view, standing.ledger, standing.core
    lic, judgement = view.license, view.judgement
    return Status(
        service=SERVICE_NAME,
        api_status=public_word(verdict),
        api_status_message=status_message(verdict),
        state=verdict.state.value,
        title=STATES[verdict.state].title,
        reason=verdict.reason,
        next_step=next_step(verdict),
        serves=verdict.serves,
        evaluation=standing.evaluation,
        warnings=list(verdict.warnings),
        version=__version__,
        effective_time=_instant(standing.effective_at),
        clock_quarantined=standing.quarantined,
        license=None
        if lic is None or judgement is None
        else LicenseStatus(
            id=lic.license_id,
            sequence=lic.sequence,
            customer=lic.customer,
            evaluation=lic.evaluation,
            expires_at=_instant(lic.expires_at),
            termination_at=_instant(lic.termination_at),
            days_left=max(0, (lic.expires_at - standing.effective_at).days),
            standing=judgement.standing.value,
            reason=judgement.reason,
        ),
        license_files=[
            LicenseFileStatus(one.name, str(one.standing_or_problem), one.reason, one.next_step)
            for one in view.verdicts
        ],
        metering=None
        if snapshot is None
        else MeteringStatus(
            pages=snapshot.license_pages.get(lic.license_id, 0) if lic else 0,
            failed_cycles=snapshot.failed_cycles,
            failure=snapshot.failure,
            entries=snapshot.size,
            sealed_entries=snapshot.sealed_size,
            pending_files=snapshot.pending_files,
            window_closes_at=None if standing.window_closes_at is None else _instant(standing.window_closes_at),
        ),
        endpoint=None
        if standing.endpoint is None
        else EndpointStatus(
            address=standing.endpoint.address,
            status=standing.endpoint.word,
            problem=standing.endpoint.problem,
            last_contact_at=None if standing.endpoint.contact_at is None else _instant(standing.endpoint.contact_at),
            pending_reports=standing.endpoint.pending_reports,
        ),
        core=CoreStatus(
            answers=core is not None,
            workers=core.workers if core else 0,
            engine=core.engine if core else "",
            cpu_problem=core.cpu_problem if core else "",
        ),
    )


def _warnings_beside_the_reason(status: Status) -> list[str]:
    """The warnings that tell more than the reason does, which tells in grace when that ends."""
    told = status.reason
    ends = "" if status.license is None else _minute(status.license.termination_at)
    return [one for one in status.warnings if one != told and not (ends and ends in one and ends in told)]


def _days_left(standing: Standing) -> int:
    """Whole days until the licence expires, or once it has, until its grace ends."""
    lic, judgement = standing.view.license, standing.view.judgement
    if lic is None or judgement is None:
        return 0
    ends = lic.termination_at if judgement.standing is LicenseStanding.GRACE else lic.expires_at
    return max(0, (ends - standing.effective_at).days)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith('.') else '.'}"


def _minute(instant: str) -> str:
    """An instant of the wire as sentences name it, to the minute."""
    return instant[:16].replace("T", " ")


def _usage(month: str | None) -> Response:
    totals = services(current_app).ledger.totals(month)
    meters = [UsageMeter(name, quantity, quantity) for name, quantity in totals]
    return json_response(UsageLogs("CommerceUsageResponse", meters, API_TYPE, SERVICE_NAME))


def _bad_month(message: str) -> Response:
    return error_response(HTTPStatus.BAD_REQUEST, "BadArgument", message)


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
