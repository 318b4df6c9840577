"""The command `licenses`: keys, licences, and a look at them.

Invariants:

* What is printed can be checked by a person: dates with weekday and days left, who signed, EVALUATION in plain sight,
  and whether the signature was verified at all. `--json` prints the same facts for machines.
* Exit codes: 0 good, 64 wrong use, 65 bad data, 77 no permission, 78 the licence does not hold.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path

import click

import licenses
from licenses import envelope, issue
from licenses.device_key import ROLE as DEVICE_ROLE
from licenses.device_key import device_id_of
from licenses.errors import (
    BadSignatureError,
    FileAccessError,
    FormatError,
    IssueError,
    LicensesError,
    UntrustedKeyError,
)
from licenses.host import Bindings, collect
from licenses.keyring import TrustRoot, load_trust_root
from licenses.keys import EVALUATION_PREFIX, KeyId, load_public_key, read_small_file
from licenses.model import CONTAINER_TYPE, PAGE_UNIT, READ_PAGES_METER, License, LicenseId, Meter, Reporting
from licenses.strict_json import parse_instant
from licenses.verify import Judgement, day_text, judge, open_license, time_left_text


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
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print the facts as one JSON object.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(licenses.__version__, prog_name="licenses", message="%(prog)s %(version)s")
def cli() -> None:
    """Make, issue and look at Tollgate licences. No command needs a network.

    Exit codes: 0 good, 64 wrong use, 65 bad data, 77 no permission, 78 the licence does not hold.
    """


@cli.command()
@click.option("--out", type=FILE, required=True, help="Folder to write to; made with mode 0700 if it is not there.")
@click.option("--vendor", "domain", help=f"The vendor's domain. [default with --evaluation: {issue.EVALUATION_VENDOR}]")
@click.option("--evaluation", is_flag=True, help="Mark the keys, and everything that they will sign, as evaluation.")
@click.option("--force", is_flag=True, help="Replace the trust root in the folder; the old one is kept beside it.")
@JSON_OPTION
def keygen(*, out: Path, domain: str | None, evaluation: bool, force: bool, as_json: bool) -> None:
    """Make the vendor's keys and the trust root that customers get."""
    if domain is None and not evaluation:
        raise click.UsageError("Production keys need --vendor DOMAIN (or give --evaluation).")
    vendor = issue.generate_vendor(domain=domain or issue.EVALUATION_VENDOR, evaluation=evaluation, at=_now())
    files = issue.save_vendor(vendor, out, force=force)
    root = vendor.trust_root
    facts = {
        "vendor": root.vendor,
        "evaluation": root.evaluation,
        "version": root.version,
        "trust_root": str(files[0]),
        "private_keys": [str(path) for path in files[1:]],
        "expires_at": root.expires_at.isoformat(),
    }
    lines = [
        *_evaluation_banner(root.evaluation),
        *_table(
            {
                "Vendor": root.vendor,
                "Trust root": f"{files[0]}  (for customers; version {root.version})",
                "Issue until": day_text(root.expires_at),
                "Root key": f"{files[1]}  (signs the next trust root: keep it off line)",
                "Issuing key": f"{files[2]}  (signs licences)",
                "Ack key": f"{files[3]}  (acknowledges usage)",
            }
        ),
        "The private keys are readable by you alone and are not encrypted. Back them up; never send them to anyone.",
    ]
    _print(facts, lines, as_json=as_json)


@cli.command("issue")
@click.option("--keys", "keys_folder", type=FILE, required=True, help="The folder that keygen wrote.")
@click.option("--customer", required=True, help="To whom the licence is granted.")
@click.option("--container-type", "container_types", multiple=True, default=[CONTAINER_TYPE], show_default=True)
@click.option(
    "--expires",
    "expires_at",
    callback=LAST_INSTANT,
    metavar="TIME",
    help="Last day of the term (it ends 23:59:59 UTC), or a time.",
)
@click.option("--days", type=click.IntRange(1, 36_525), help="Instead of --expires: length of the term in days.")
@click.option(
    "--not-before", callback=FIRST_INSTANT, metavar="TIME", help="First day of the term, or a time.  [default: now]"
)
@click.option(
    "--grace-days", type=click.IntRange(0, 3650), default=0, show_default=True, help="Serve this long after expiry."
)
@click.option("--pages-soft", type=click.IntRange(0), help="Warn from this many pages on.")
@click.option("--pages-hard", type=click.IntRange(0), help="The grant ends with this many pages.  [default: no limit]")
@click.option("--overage", is_flag=True, help="Serve beyond --pages-hard, to be billed.")
@click.option("--bind", "bind_file", type=FILE, help="Factor file of the customer's host, from 'licenses factors'.")
@click.option("--device-key", "device_file", type=FILE, help="The customer's device.pub; only that device may serve.")
@click.option("--license-id", help="Id to renew.  [default: a new one]")
@click.option("--sequence", type=click.IntRange(1), help="Must grow with every renewal of an id.  [default: 1]")
@click.option("--feature", "features", multiple=True, help="A feature granted; may be given several times.")
@click.option("--min-version", help="The oldest product version that may serve.")
@click.option("--max-unacked-days", type=click.IntRange(1), help="Longest time without the vendor's acknowledgement.")
@click.option("--max-unacked-pages", type=click.IntRange(1), help="Most pages without the vendor's acknowledgement.")
@click.option("--evaluation", is_flag=True, help="Mark as evaluation even under a production key.")
@click.option("--armour", is_flag=True, help="Wrap the file in BEGIN/END lines, to survive mail and terminals.")
@click.option("--out", type=FILE, required=True, help="The licence file to write.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@JSON_OPTION
def issue_command(
    *,
    keys_folder: Path,
    customer: str,
    container_types: Sequence[str],
    expires_at: datetime | None,
    days: int | None,
    not_before: datetime | None,
    grace_days: int,
    pages_soft: int | None,
    pages_hard: int | None,
    overage: bool,
    bind_file: Path | None,
    device_file: Path | None,
    license_id: str | None,
    sequence: int | None,
    features: Sequence[str],
    min_version: str | None,
    max_unacked_days: int | None,
    max_unacked_pages: int | None,
    evaluation: bool,
    armour: bool,
    out: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Issue one licence file."""
    if (expires_at is None) == (days is None):
        raise click.UsageError("Give the end of the term once: either --expires or --days.")
    if overage and pages_hard is None:
        raise click.UsageError("--overage needs --pages-hard: without a limit there is no overage.")
    if license_id is not None and sequence is None:
        raise click.UsageError("A renewal (--license-id) needs --sequence, higher than that of the licence before.")
    at = _now()
    begins = not_before or at
    ends = expires_at or issue.end_of_day((begins + timedelta(days=days or 0)).date())
    issuer = issue.load_issuer(keys_folder)
    try:
        lic = License(
            license_id=LicenseId(license_id) if license_id is not None else issue.new_license_id(),
            sequence=sequence or 1,
            customer=customer,
            container_types=tuple(dict.fromkeys(container_types)),
            features=tuple(dict.fromkeys(features)),
            evaluation=evaluation,
            issued_at=at,
            not_before=begins,
            expires_at=ends,
            termination_at=ends + timedelta(days=grace_days),
            bindings=Bindings() if bind_file is None else _load_bindings(bind_file),
            meters=(
                Meter(name=READ_PAGES_METER, unit=PAGE_UNIT, soft=pages_soft, hard=pages_hard, overage_allowed=overage),
            ),
            reporting=Reporting(max_unacked_days=max_unacked_days, max_unacked_units=max_unacked_pages),
            device_pubkey=None if device_file is None else load_public_key(device_file, DEVICE_ROLE).raw,
            min_version=min_version,
            key_id=issuer.issuing_key.key_id,
        )
    except FormatError as exc:
        raise IssueError(str(exc)) from exc
    except OverflowError as exc:
        raise IssueError("the term ends beyond the year 9999") from exc
    blob = issue.seal_license(lic, issuer)
    digest = issue.write_license_file(
        out, envelope.armour(blob, envelope.LICENSE_TYPE) if armour else blob + b"\n", force=force
    )
    lic = open_license(blob, issuer.trust_root)
    facts = {"file": str(out), "sha256": digest, **_facts(lic, at, verified_by=issuer.trust_root)}
    lines = _describe(lic, at, verified_by=issuer.trust_root, more={"Written to": str(out), "SHA-256": digest})
    _print(facts, lines, as_json=as_json)


@cli.command()
@click.argument("file", type=FILE)
@click.option("--trust-root", "root_file", type=FILE, help="Trust root to verify with; without it nothing is verified.")
@click.option("--at", callback=FIRST_INSTANT, metavar="TIME", help="Judge at this time.  [default: now]")
@click.option("--operator-id", help="The operator-set id of this host.")
@click.option("--device-key", "device_file", type=FILE, help="The device.pub of this device.")
@JSON_OPTION
def inspect(
    *,
    file: Path,
    root_file: Path | None,
    at: datetime | None,
    operator_id: str | None,
    device_file: Path | None,
    as_json: bool,
) -> None:
    """Show what a licence says, and why it would or would not serve on this host.

    Exit code 0 whenever the file could be shown; use 'licenses verify' to decide something.
    """
    blob = issue.read_license_file(file)
    when = at or _now()
    device_public = None if device_file is None else load_public_key(device_file, DEVICE_ROLE).raw
    trust_root = None if root_file is None else load_trust_root(root_file)
    lic = _unverified_license(blob) if trust_root is None else open_license(blob, trust_root)
    judgement = judge(
        lic, at=when, host=collect(operator_id=operator_id), device_public=device_public, container_type=CONTAINER_TYPE
    )
    facts = {"file": str(file), **_facts(lic, when, verified_by=trust_root, judgement=judgement)}
    _print(facts, _describe(lic, when, verified_by=trust_root, judgement=judgement), as_json=as_json)


@cli.command()
@click.argument("file", type=FILE)
@click.option("--trust-root", "root_file", type=FILE, required=True, help="Whom to believe.")
@click.option("--at", callback=FIRST_INSTANT, metavar="TIME", help="Judge at this time.  [default: now]")
@click.option("--container-type", default=CONTAINER_TYPE, show_default=True)
@JSON_OPTION
def verify(*, file: Path, root_file: Path, at: datetime | None, container_type: str, as_json: bool) -> None:
    """Verify signature, type and term of a licence; exit code 0 only if it holds.

    To which host or device it is bound is shown, not judged: this command may run anywhere.
    """
    when = at or _now()
    trust_root = load_trust_root(root_file)
    lic = open_license(issue.read_license_file(file), trust_root)
    unbound = dataclasses.replace(lic, bindings=Bindings(), device_pubkey=None)
    judgement = judge(unbound, at=when, container_type=container_type)
    facts = {"file": str(file), **_facts(lic, when, verified_by=trust_root, judgement=judgement)}
    lines = _describe(lic, when, verified_by=trust_root, judgement=judgement, here=False)
    _print(facts, lines, as_json=as_json)
    if not judgement.serves:
        raise SystemExit(ExitCode.LICENSE)


@cli.command()
@click.option("--out", type=FILE, required=True, help="The factor file to write, for the vendor.")
@click.option("--operator-id", help="An id that you set yourself; the one factor that containers see too.")
@click.option("--threshold", type=click.IntRange(1), help="How many must match later.  [default: all but one]")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@JSON_OPTION
def factors(*, out: Path, operator_id: str | None, threshold: int | None, force: bool, as_json: bool) -> None:
    """Write the salted factors of this host, for 'licenses issue --bind'; the facts themselves stay here."""
    bindings = collect(operator_id=operator_id).bind(threshold=threshold)
    digest = issue.write_license_file(out, bindings.to_bytes(), force=force)
    facts = {
        "file": str(out),
        "sha256": digest,
        "threshold": bindings.threshold,
        "factors": [factor.name.value for factor in bindings.factors],
    }
    lines = _table({"Factors": _bindings_text(bindings), "Written to": str(out), "SHA-256": digest})
    _print(facts, lines, as_json=as_json)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; every failure becomes a message with a next step, and an exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = cli.main(args=arguments, prog_name="licenses", standalone_mode=False)
        raise SystemExit(code or ExitCode.OK)
    except click.ClickException as exc:
        exc.show()
        raise SystemExit(ExitCode.USAGE) from exc
    except click.Abort as exc:
        raise SystemExit(130) from exc
    except LicensesError as exc:
        if "--json" in arguments:
            report = {"error": {"code": exc.code, "message": str(exc), "next_step": exc.next_step}}
            click.echo(json.dumps(report, ensure_ascii=False))
        click.echo(f"licenses: {exc}.\nNext step: {exc.next_step}", err=True)
        raise SystemExit(_exit_code(exc)) from exc


def _exit_code(exc: LicensesError) -> ExitCode:
    match exc:
        case FileAccessError() if isinstance(exc.__cause__, FileNotFoundError | FileExistsError):
            return ExitCode.USAGE
        case FileAccessError():
            return ExitCode.PERMISSION
        case BadSignatureError() | UntrustedKeyError():
            return ExitCode.LICENSE
        case IssueError():
            return ExitCode.USAGE
        case _:
            return ExitCode.DATA


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _load_bindings(path: Path) -> Bindings:
    return Bindings.from_bytes(read_small_file(path, doing="read the factor file", mode="0644"))


def _unverified_license(blob: bytes) -> License:
    claimed = envelope.unverified_payload(blob, envelope.LICENSE_TYPE)
    lic = License.from_payload(claimed.payload, key_id=KeyId(claimed.key_ids[0]))
    evaluation = lic.evaluation or any(key_id.startswith(EVALUATION_PREFIX) for key_id in claimed.key_ids)
    return dataclasses.replace(lic, evaluation=evaluation)


def _facts(
    lic: License, at: datetime, *, verified_by: TrustRoot | None, judgement: Judgement | None = None
) -> dict[str, object]:
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


def _describe(
    lic: License,
    at: datetime,
    *,
    verified_by: TrustRoot | None,
    judgement: Judgement | None = None,
    here: bool = True,
    more: Mapping[str, str] | None = None,
) -> list[str]:
    rows = {
        "Licence": f"{lic.license_id}  (sequence {lic.sequence})",
        "Customer": lic.customer,
        "Serves": ", ".join(lic.container_types),
        "Issued": day_text(lic.issued_at),
        "Begins": day_text(lic.not_before),
        "Expires": f"{day_text(lic.expires_at)}  ({_distance(lic.expires_at, at)})",
        "Grace until": "no grace" if lic.termination_at == lic.expires_at else day_text(lic.termination_at),
        "Pages": _pages_text(lic.meter()),
        "Host": _bindings_text(lic.bindings),
        "Device": "any" if lic.device_pubkey is None else f"only {device_id_of(lic.device_pubkey)}",
    }
    if lic.features:
        rows["Features"] = ", ".join(lic.features)
    if lic.min_version is not None:
        rows["Needs"] = f"product version {lic.min_version} or later"
    if lic.reporting != Reporting():
        rows["Reporting"] = _reporting_text(lic.reporting)
    if lic.ledger_anchor is not None:
        rows["Ledger"] = f"must extend {lic.ledger_anchor.origin} at {lic.ledger_anchor.size} entries"
    if lic.revoked.license_ids or lic.revoked.key_ids:
        rows["Revokes"] = ", ".join((*lic.revoked.license_ids, *lic.revoked.key_ids))
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
    return [*_evaluation_banner(lic.evaluation), *_table({**rows, **(more or {})})]


def _verdict_text(judgement: Judgement, *, here: bool, verified: bool) -> str:
    if here:
        would = "would serve" if judgement.serves else "would NOT serve"
        return f"{would}{'' if verified else ', if the signature is good'}. {judgement.reason}"
    return f"{judgement.standing.value.upper()}. {judgement.reason}"


def _evaluation_banner(evaluation: bool) -> list[str]:
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


def _bindings_text(bindings: Bindings) -> str:
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


def _table(rows: Mapping[str, str]) -> list[str]:
    width = max(map(len, rows))
    return [f"{name:<{width}}  {text}" for name, text in rows.items()]


def _print(facts: Mapping[str, object], lines: Sequence[str], *, as_json: bool) -> None:
    click.echo(json.dumps(facts, ensure_ascii=False, indent=2) if as_json else "\n".join(lines))
