"""What the command `licenses` shows, and how it ends: the same facts for people and for machines.

Invariant: nothing here decides or writes anything; times come from the caller, except `now`, the one reading of the
clock that a command makes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path

import click

from licenses import issue
from licenses.device_key import device_id_of
from licenses.errors import (
    BadSignatureError,
    FileAccessError,
    FormatError,
    IssueError,
    LicensesError,
    SuccessionError,
    UntrustedKeyError,
)
from licenses.host import Bindings, FactorName
from licenses.keyring import TrustRoot
from licenses.model import LedgerAnchor, License, Meter, Reporting, Revoked
from licenses.strict_json import parse_instant
from licenses.verify import Judgement, day_text, time_left_text


class ExitCode(IntEnum):
    """What the process ends with."""

    OK = 0
    USAGE = 64
    DATA = 65
    PERMISSION = 77
    LICENSE = 78


def _instant(
    day: Callable[[datetime], datetime],
) -> Callable[[click.Context, click.Parameter, str | None], datetime | None]:
    """An option's callback that reads an instant; a bare day means what `day` makes of its first instant."""

    def convert(ctx: click.Context, param: click.Parameter, text: str | None) -> datetime | None:
        if text is None:
            return None
        try:
            if len(text) == 10:
                return day(parse_instant(f"{text}T00:00:00Z", what="the day"))
            return parse_instant(text, what="the time")
        except FormatError as exc:
            raise click.BadParameter(
                f"{text!r} is neither a day such as 2027-03-31 nor a time such as 2027-03-31T12:00:00Z", ctx, param
            ) from exc

    return convert


FIRST_INSTANT = _instant(lambda day: day)
LAST_INSTANT = _instant(lambda day: issue.end_of_day(day.date()))
FILE = click.Path(path_type=Path)
FACTOR_OPTION = click.option(
    "--factor",
    "names",
    multiple=True,
    type=click.Choice([name.value for name in FactorName]),
    callback=lambda _ctx, _param, words: tuple(map(FactorName, words)),
    help="Bind this kind of fact only; may be given several times.  [default: all that can be read]",
)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print the facts as one JSON object.")


def exit_code(exc: LicensesError) -> ExitCode:
    """The exit code that a failure has."""
    match exc:
        case FileAccessError() if isinstance(exc.__cause__, FileNotFoundError | FileExistsError):
            return ExitCode.USAGE
        case FileAccessError():
            return ExitCode.PERMISSION
        case BadSignatureError() | UntrustedKeyError() | SuccessionError():
            return ExitCode.LICENSE
        case IssueError():
            return ExitCode.USAGE
        case _:
            return ExitCode.DATA


def now() -> datetime:
    """The host's time, to the second, aware UTC."""
    return datetime.now(UTC).replace(microsecond=0)


def license_facts(
    lic: License, at: datetime, *, verified_by: TrustRoot | None, judgement: Judgement | None = None
) -> dict[str, object]:
    """A licence as plain members, for machines."""
    facts: dict[str, object] = {
        **json.loads(lic.to_payload()),
        "key_id": lic.key_id,
        "verified": verified_by is not None,
        "vendor": None if verified_by is None else verified_by.vendor,
        "at": at.isoformat(),
        "days_left": max(0, (lic.expires_at - at) // timedelta(days=1)),
    }
    if judgement is not None:
        facts |= {
            "standing": judgement.standing.value,
            "serves": judgement.serves and verified_by is not None,
            "reason": judgement.reason,
            "next_step": judgement.next_step,
        }
    return facts


def describe_license(
    lic: License,
    at: datetime,
    *,
    verified_by: TrustRoot | None,
    judgement: Judgement | None = None,
    here: bool = True,
    more: Mapping[str, str] | None = None,
) -> list[str]:
    """A licence as lines, for people."""
    rows = {
        "Licence": f"{lic.license_id}  (sequence {lic.sequence})",
        "Customer": lic.customer,
        "Serves": ", ".join(lic.container_types),
        "Issued": day_text(lic.issued_at),
        "Begins": day_text(lic.not_before),
        "Expires": f"{day_text(lic.expires_at)}  ({_distance(lic.expires_at, at)})",
        "Grace until": "no grace" if lic.termination_at == lic.expires_at else day_text(lic.termination_at),
        "Pages": _pages_text(lic.meter()),
        "Host": bindings_text(lic.bindings),
        "Device": "any" if lic.device_pubkey is None else f"only {device_id_of(lic.device_pubkey)}",
    }
    if lic.features:
        rows["Features"] = ", ".join(lic.features)
    if lic.min_version is not None:
        rows["Needs"] = f"product version {lic.min_version} or later"
    if lic.reporting != Reporting():
        rows["Reporting"] = _reporting_text(lic.reporting)
    if lic.ledger_anchor is not None:
        rows["Ledger"] = f"must extend {anchor_text(lic.ledger_anchor)}"
    if lic.revoked.license_ids or lic.revoked.key_ids:
        rows["Revokes"] = revoked_text(lic.revoked)
    if lic.time_anchor is not None:
        rows["Time anchor"] = f"the vendor vouches that {day_text(lic.time_anchor)} has passed"
    if verified_by is None:
        rows["Signed by"] = f"{lic.key_id}, as the file claims"
        rows["Signature"] = "NOT VERIFIED: give --trust-root FILE; until then believe nothing above"
    else:
        rows["Signed by"] = lic.key_id
        rows["Signature"] = f"good, under the trust root of {verified_by.vendor}, version {verified_by.version}"
    if judgement is not None:
        rows["Here" if here else "Verdict"] = _verdict_text(judgement, here=here, verified=verified_by is not None)
        if not judgement.serves:
            rows["Next step"] = judgement.next_step
    return [*evaluation_banner(lic.evaluation), *table({**rows, **(more or {})})]


def _verdict_text(judgement: Judgement, *, here: bool, verified: bool) -> str:
    if here:
        would = "would serve" if judgement.serves else "would NOT serve"
        return f"{would}{'' if verified else ', if the signature is good'}. {judgement.reason}"
    return f"{judgement.standing.value.upper()}. {judgement.reason}"


def revoked_text(revoked: Revoked) -> str:
    """A list of revocations in words."""
    named = ", ".join((*revoked.license_ids, *revoked.key_ids)) or "nothing"
    return f"{named}  (list {revoked.sequence})"


def anchor_text(anchor: LedgerAnchor) -> str:
    """A checkpoint in words."""
    return f"{anchor.origin} at {anchor.size} entries, root {anchor.root.hex()[:16]}…"


def evaluation_banner(evaluation: bool) -> list[str]:
    """The lines that no reader can miss; none for production."""
    return ["*** EVALUATION: not for production; everything done under it is marked so ***", ""] if evaluation else []


def _distance(then: datetime, at: datetime) -> str:
    return f"{time_left_text(then - at)} left" if at < then else f"{time_left_text(at - then)} ago"


def _pages_text(meter: Meter | None) -> str:
    if meter is None:
        return "none: the licence grants no pages"
    if meter.hard is None:
        limit = "without limit"
    elif meter.overage_allowed:
        limit = f"{meter.hard:,} for the term, more are served and billed as overage"
    else:
        limit = f"{meter.hard:,} for the term, then refused"
    return limit if meter.soft is None else f"{limit}; warns from {meter.soft:,} on"


def bindings_text(bindings: Bindings) -> str:
    """The bound factors in words."""
    if bindings.floating:
        return "any"
    names = ", ".join(factor.name.value for factor in bindings.factors)
    return f"{bindings.threshold} of {len(bindings.factors)} must match: {names}"


def _reporting_text(reporting: Reporting) -> str:
    parts = [
        f"at most {value:,} {unit}"
        for value, unit in ((reporting.max_unacked_days, "days"), (reporting.max_unacked_units, "pages"))
        if value is not None
    ]
    return f"{' and '.join(parts)} without acknowledgement"


def table(rows: Mapping[str, str]) -> list[str]:
    """Names and texts, aligned."""
    width = max(map(len, rows))
    return [f"{name:<{width}}  {text}" for name, text in rows.items()]


def show(facts: Mapping[str, object], lines: Sequence[str], *, as_json: bool) -> None:
    """Print the facts for machines or the lines for people."""
    click.echo(json.dumps(facts, ensure_ascii=False, indent=2) if as_json else "\n".join(lines))
