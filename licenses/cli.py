"""The command `licenses`: keys, licences, and a look at them.

Invariants:

* What is printed can be checked by a person: dates with weekday and days left, who signed, EVALUATION in plain sight,
  and whether the signature was verified at all. `--json` prints the same facts for machines.
* Exit codes: 0 good, 64 wrong use, 65 bad data, 77 no permission, 78 the licence does not hold.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import click

import licenses
from licenses import cli_exchange, cli_upkeep, envelope, issue
from licenses.ack import MAX_ACK_BYTES
from licenses.cli_text import (
    FACTOR_OPTION,
    FILE,
    FIRST_INSTANT,
    JSON_OPTION,
    LAST_INSTANT,
    ExitCode,
    bindings_text,
    describe_license,
    evaluation_banner,
    exit_code,
    license_facts,
    now,
    show,
    table,
)
from licenses.device_key import ROLE as DEVICE_ROLE
from licenses.device_key import load_device_public
from licenses.enrolment import Enrolment, read_enrolment
from licenses.errors import FormatError, IssueError, LicensesError
from licenses.folder import LicenseFile, choose
from licenses.host import Bindings, FactorName, HostFactors, collect
from licenses.keyring import TrustRoot, load_trust_root
from licenses.keys import EVALUATION_PREFIX, KeyId, load_public_key, read_small_file
from licenses.model import CONTAINER_TYPE, PAGE_UNIT, READ_PAGES_METER, License, LicenseId, Meter, Reporting
from licenses.verify import Judgement, day_text, judge, open_license
from licenses.watch import recall_license, recall_revocations


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(licenses.__version__, prog_name="licenses", message="%(prog)s %(version)s")
def cli() -> None:
    """Make, issue and look at Tollgate licences. No command needs a network.

    Exit codes: 0 good, 64 wrong use, 65 bad data, 77 no permission, 78 the licence does not hold.
    """


@cli.command()
@click.option("--out", type=FILE, required=True, help="Folder to write to; made with mode 0700 if it is not there.")
@click.option(
    "--vendor",
    "domain",
    help=f"The vendor's domain. [default: vendor.tollgate.example; with --evaluation: {issue.EVALUATION_VENDOR}]",
)
@click.option("--evaluation", is_flag=True, help="Mark the keys, and everything that they will sign, as evaluation.")
@click.option("--roots", type=click.IntRange(1, 4), default=1, show_default=True, help="How many root keys to make.")
@click.option(
    "--threshold", type=click.IntRange(1, 4), default=1, show_default=True, help="How many must sign a trust root."
)
@click.option("--second-signature", is_flag=True, help="Demand ML-DSA-65 signatures besides those of Ed25519.")
@click.option("--force", is_flag=True, help="Replace the trust root in the folder; the old one is kept beside it.")
@JSON_OPTION
def keygen(
    *,
    out: Path,
    domain: str | None,
    evaluation: bool,
    roots: int,
    threshold: int,
    second_signature: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make the vendor's keys and the trust root that customers get."""
    if domain is None and not evaluation:
        click.echo(
            f"No --vendor DOMAIN was given: the record logs will be named after {issue.UNNAMED_VENDOR}. "
            "That name cannot be changed later.",
            err=True,
        )
    if threshold > roots:
        raise click.UsageError(f"{threshold} of {roots} root keys cannot sign: give --roots too.")
    vendor = issue.generate_vendor(
        domain=domain or (issue.EVALUATION_VENDOR if evaluation else issue.UNNAMED_VENDOR),
        evaluation=evaluation,
        at=now(),
        root_count=roots,
        threshold=threshold,
        second_signature=second_signature,
    )
    files = issue.save_vendor(vendor, out, force=force)
    root = vendor.trust_root
    facts = {
        "vendor": root.vendor,
        "evaluation": root.evaluation,
        "version": root.version,
        "trust_root": str(files[0]),
        "threshold": root.threshold,
        "second_signature": bool(root.second_issuing_keys),
        "private_keys": [str(path) for path in files[1:]],
        "expires_at": root.expires_at.isoformat(),
    }
    uses = {
        **{key.key_id: "signs trust roots: keep it off line" for key in (*vendor.root_keys, *vendor.second_root_keys)},
        vendor.ack_key.key_id: "acknowledges usage",
    }
    lines = [
        *evaluation_banner(root.evaluation),
        *table(
            {
                "Vendor": root.vendor,
                "Trust root": f"{files[0]}  (for customers; version {root.version})",
                "Issue until": day_text(root.expires_at),
                "To sign": f"{root.threshold} of {len(root.root_keys)} root keys"
                + (", each with its ML-DSA-65 key as well" if second_signature else ""),
                **{
                    f"Key {number}": f"{path}  ({uses.get(key.key_id, 'signs licences')})"
                    for number, (path, key) in enumerate(zip(files[1:], vendor.all_keys, strict=True), start=1)
                },
            }
        ),
        "The private keys are readable by you alone and are not encrypted. Back them up; never send them to anyone.",
    ]
    show(facts, lines, as_json=as_json)


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
@click.option(
    "--enrolment", "enrolment_file", type=FILE, help="Bind to what 'licenses request' wrote on the appliance."
)
@click.option("--license-id", help="Id to renew; needs --sequence.  [default: a new one]")
@click.option(
    "--sequence",
    type=click.IntRange(1),
    help="Must grow with every renewal of an id.  [default: 1 for a new id; required with --license-id]",
)
@click.option("--feature", "features", multiple=True, help="A feature granted; may be given several times.")
@click.option("--min-version", help="The oldest product version that may serve.")
@click.option("--max-unacked-days", type=click.IntRange(1), help="Longest time without the vendor's acknowledgement.")
@click.option("--max-unacked-pages", type=click.IntRange(1), help="Most pages without the vendor's acknowledgement.")
@click.option("--evaluation", is_flag=True, help="Mark as evaluation even under a production key.")
@click.option("--no-time-anchor", is_flag=True, help="Do not vouch that the time of issue has passed.")
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
    enrolment_file: Path | None,
    license_id: str | None,
    sequence: int | None,
    features: Sequence[str],
    min_version: str | None,
    max_unacked_days: int | None,
    max_unacked_pages: int | None,
    evaluation: bool,
    no_time_anchor: bool,
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
    if enrolment_file is not None and (bind_file is not None or device_file is not None):
        raise click.UsageError("--enrolment binds host and device: give it alone, or --bind and --device-key.")
    at = now()
    begins = not_before or at
    ends = expires_at or issue.end_of_day((begins + timedelta(days=days or 0)).date())
    issuer = issue.load_issuer(keys_folder)
    enrolled = None if enrolment_file is None else read_enrolment(enrolment_file)
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
            bindings=_bindings(bind_file, enrolled),
            meters=(
                Meter(name=READ_PAGES_METER, unit=PAGE_UNIT, soft=pages_soft, hard=pages_hard, overage_allowed=overage),
            ),
            reporting=Reporting(max_unacked_days=max_unacked_days, max_unacked_units=max_unacked_pages),
            device_pubkey=_device(device_file, enrolled),
            ledger_anchor=None if enrolled is None else enrolled.last_checkpoint,
            time_anchor=None if no_time_anchor else at,
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
    if lic.expires_at <= at:
        click.echo(
            f"This term has ended already, on {day_text(lic.expires_at)}: "
            + ("the licence serves in grace alone." if at < lic.termination_at else "the licence serves nowhere."),
            err=True,
        )
    facts = {"file": str(out), "sha256": digest, **license_facts(lic, at, verified_by=issuer.trust_root)}
    lines = describe_license(lic, at, verified_by=issuer.trust_root, more={"Written to": str(out), "SHA-256": digest})
    show(facts, lines, as_json=as_json)


@cli.command()
@click.argument("file", type=FILE)
@click.option("--trust-root", "root_file", type=FILE, help="Trust root to verify with; without it nothing is verified.")
@click.option("--at", callback=FIRST_INSTANT, metavar="TIME", help="Judge at this time.  [default: now]")
@click.option("--operator-id", "--host-id", "operator_id", help="The operator-set id of this host.")
@click.option("--device-key", "device_file", type=FILE, help="The device.pub of this device.")
@click.option("--state-directory", type=FILE, help="Of the service: its device key, and what was in force and revoked.")
@click.option("--sequence-floor", type=click.IntRange(0), default=0, help="The highest sequence ever in force.")
@JSON_OPTION
def inspect(
    *,
    file: Path,
    root_file: Path | None,
    at: datetime | None,
    operator_id: str | None,
    device_file: Path | None,
    state_directory: Path | None,
    sequence_floor: int,
    as_json: bool,
) -> None:
    """Show what a licence says, and why it would or would not serve on this host.

    Trust roots, revocations, enrolments, clock resets and acknowledgements are shown too. Exit code 0 whenever the
    file could be shown; use 'licenses verify' to decide something.
    """
    blob = read_small_file(file, doing="read the file", mode="0644", max_bytes=MAX_ACK_BYTES)
    when = at or now()
    trust_root = None if root_file is None else load_trust_root(root_file)
    if envelope.unverified_payload(blob, max_bytes=MAX_ACK_BYTES).payload_type != envelope.LICENSE_TYPE:
        show(*cli_upkeep.describe_other(file, blob, trust_root), as_json=as_json)
        return
    device_public = None if device_file is None else load_public_key(device_file, DEVICE_ROLE).raw
    if state_directory is not None and device_public is None:
        device_public = load_device_public(state_directory).raw
    lic = _unverified_license(blob) if trust_root is None else open_license(blob, trust_root)
    judgement = _judge_here(
        lic,
        blob,
        trust_root,
        state_directory=state_directory,
        at=when,
        host=collect(operator_id=operator_id),
        device_public=device_public,
        sequence_floor=sequence_floor,
    )
    facts = {"file": str(file), **license_facts(lic, when, verified_by=trust_root, judgement=judgement)}
    show(facts, describe_license(lic, when, verified_by=trust_root, judgement=judgement), as_json=as_json)


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
    when = at or now()
    trust_root = load_trust_root(root_file)
    lic = open_license(issue.read_license_file(file), trust_root)
    unbound = dataclasses.replace(lic, bindings=Bindings(), device_pubkey=None)
    judgement = judge(unbound, at=when, container_type=container_type)
    facts = {"file": str(file), **license_facts(lic, when, verified_by=trust_root, judgement=judgement)}
    lines = describe_license(lic, when, verified_by=trust_root, judgement=judgement, here=False)
    show(facts, lines, as_json=as_json)
    if not judgement.serves:
        raise SystemExit(ExitCode.LICENSE)


@cli.command()
@click.option("--out", type=FILE, required=True, help="The factor file to write, for the vendor.")
@click.option(
    "--operator-id",
    "--host-id",
    "operator_id",
    help="An id that you set yourself; the one factor that containers see too.",
)
@FACTOR_OPTION
@click.option("--threshold", type=click.IntRange(1), help="How many must match later.  [default: all but one]")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@JSON_OPTION
def factors(
    *,
    out: Path,
    operator_id: str | None,
    names: Sequence[FactorName],
    threshold: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write the salted factors of this host, for 'licenses issue --bind'; the facts themselves stay here."""
    bindings = collect(operator_id=operator_id).bind(threshold=threshold, names=names or tuple(FactorName))
    digest = issue.write_license_file(out, bindings.to_bytes(), force=force)
    facts = {
        "file": str(out),
        "sha256": digest,
        "threshold": bindings.threshold,
        "factors": [factor.name.value for factor in bindings.factors],
    }
    lines = table({"Factors": bindings_text(bindings), "Written to": str(out), "SHA-256": digest})
    show(facts, lines, as_json=as_json)


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
        raise SystemExit(exit_code(exc)) from exc


def _load_bindings(path: Path) -> Bindings:
    return Bindings.from_bytes(read_small_file(path, doing="read the factor file", mode="0644"))


def _unverified_license(blob: bytes) -> License:
    claimed = envelope.unverified_payload(blob, envelope.LICENSE_TYPE)
    lic = License.from_payload(claimed.payload, key_id=KeyId(claimed.key_ids[0]))
    evaluation = lic.evaluation or any(key_id.startswith(EVALUATION_PREFIX) for key_id in claimed.key_ids)
    return dataclasses.replace(lic, evaluation=evaluation)


def _bindings(bind_file: Path | None, enrolled: Enrolment | None) -> Bindings:
    if enrolled is not None:
        return enrolled.bindings
    return Bindings() if bind_file is None else _load_bindings(bind_file)


def _device(device_file: Path | None, enrolled: Enrolment | None) -> bytes | None:
    if enrolled is not None:
        return enrolled.device_public
    return None if device_file is None else load_public_key(device_file, DEVICE_ROLE).raw


def _judge_here(
    lic: License,
    blob: bytes,
    trust_root: TrustRoot | None,
    *,
    state_directory: Path | None,
    at: datetime,
    host: HostFactors,
    device_public: bytes | None,
    sequence_floor: int,
) -> Judgement:
    """Judge as the service with this state directory would, if the licence lay alone in its folder."""
    if trust_root is None:
        return judge(
            lic,
            at=at,
            host=host,
            device_public=device_public,
            sequence_floor=sequence_floor,
            product_version=licenses.__version__,
        )
    floor: dict[str, int] = {lic.license_id: sequence_floor}
    kept = None if state_directory is None else recall_license(state_directory)
    if kept is not None and kept.blob is not None:
        try:
            before = open_license(kept.blob, trust_root)
            floor[before.license_id] = max(floor.get(before.license_id, 0), before.sequence)
        except LicensesError:
            pass  # of another vendor, or revoked: it sets no floor
    choice = choose(
        [LicenseFile("", blob)],
        trust_root,
        at=at,
        host=host,
        device_public=device_public,
        sequence_floor=floor,
        product_version=licenses.__version__,
        remembered=() if state_directory is None else recall_revocations(state_directory),
    )
    if choice.judgement is None:
        raise IssueError("the licence was changed while it was looked at")
    return choice.judgement


class _Authority(click.Group):
    """The commands of `licenses.authority`, which are loaded when one of them is asked for: they bring a database."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return _authority().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _authority().get_command(ctx, cmd_name)


def _authority() -> click.Group:
    try:
        from licenses.authority.cli import authority
    except ModuleNotFoundError as exc:
        name = exc.name or ""
        raise IssueError(
            "the vendor's side is no part of an appliance's installation"
            if name.startswith("licenses.")
            else f"the vendor's side needs the package {name}, which is not installed",
            next_step="Install the extra 'authority' on the vendor's machine: pip install 'tollgate[authority]'.",
        ) from exc
    return authority


for command in (*cli_upkeep.COMMANDS, *cli_exchange.COMMANDS):
    cli.add_command(command)
cli.add_command(
    _Authority(
        "authority",
        short_help="Keep the vendor's books, and serve them.",
        help="Keep the vendor's books: customers, keys, devices, licences, usage and acknowledgements.\n\n"
        "Nothing here belongs on an appliance. Begin with 'licenses keygen' and 'licenses authority init'.",
    )
)
