"""What comes after the first licence: enrol, revoke, rotate, reset a clock. Part of the command `licenses`.

Invariant: each command says what it wrote, where it belongs and what to do next; nothing is written when it fails.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import click

import licenses
from licenses import envelope, issue, rotation
from licenses.ack import MAX_ACK_BYTES, Ack, open_ack
from licenses.cli_text import (
    FACTOR_OPTION,
    FILE,
    FIRST_INSTANT,
    JSON_OPTION,
    anchor_text,
    bindings_text,
    evaluation_banner,
    now,
    revoked_text,
    show,
    table,
)
from licenses.clock_reset import LONGEST, ClockReset, open_clock_reset
from licenses.device_key import ROLE as DEVICE_ROLE
from licenses.device_key import DeviceKey, device_id_of, handed_over_key
from licenses.enrolment import Enrolment, enrol, open_enrolment, read_enrolment
from licenses.errors import FormatError, IssueError
from licenses.host import FactorName, collect
from licenses.keyring import TrustRoot, load_trust_root
from licenses.keys import KeyId, load_public_key
from licenses.model import LedgerAnchor
from licenses.revocation import Revocation, open_revocation
from licenses.rotation import Wish
from licenses.verify import day_text, open_license

Shown = tuple[dict[str, object], list[str]]

_KEYS = click.option("--keys", "keys_folder", type=FILE, required=True, help="The folder that keygen wrote.")
_FORCE = click.option("--force", is_flag=True, help="Replace the file if it is there.")


@click.command()
@click.option("--out", type=FILE, required=True, help="The enrolment to write, for the vendor.")
@click.option(
    "--state-directory",
    type=FILE,
    default="/var/lib/sidecar",
    show_default=True,
    help="Of the service; the device key is made if needed.",
)
@click.option("--output", type=FILE, help="The output mount: its first and last checkpoint go along.")
@click.option("--operator-id", "--host-id", "operator_id", help="An id that you set yourself; containers see it too.")
@FACTOR_OPTION
@click.option("--threshold", type=click.IntRange(1), help="How many factors must match later.  [default: all but one]")
@_FORCE
@JSON_OPTION
def request(
    *,
    out: Path,
    state_directory: Path,
    output: Path | None,
    operator_id: str | None,
    names: Sequence[FactorName],
    threshold: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write this appliance's enrolment, for 'licenses issue --enrolment'. Run it as the service's user.

    It holds the device's public key, salted factors of the host (the facts themselves stay here) and the first and
    last checkpoint of the records; it is signed by the device key.
    """
    bindings = collect(operator_id=operator_id).bind(threshold=threshold, names=names or tuple(FactorName))
    device = DeviceKey.load_or_create(state_directory, handed_over=handed_over_key(os.environ))
    blob = enrol(device, bindings, output=output, at=now(), product_version=licenses.__version__)
    digest = issue.write_license_file(out, blob + b"\n", force=force)
    facts, rows = _enrolment_shown(open_enrolment(blob))
    lines = [
        *table({**rows, "Written to": str(out), "SHA-256": digest}),
        "Send this file to the vendor; compare the SHA-256 by telephone.",
    ]
    show({"file": str(out), "sha256": digest, **facts}, lines, as_json=as_json)


@click.command()
@_KEYS
@click.option("--license", "license_files", type=FILE, multiple=True, help="A licence to take back; may be repeated.")
@click.option("--license-id", "license_ids", multiple=True, help="The same, by its id; may be given several times.")
@click.option("--key-id", "key_ids", multiple=True, help="An issuing key to take back; may be given several times.")
@click.option("--out", type=FILE, help="A revocation file to write, for licence folders.")
@_FORCE
@JSON_OPTION
def revoke(
    *,
    keys_folder: Path,
    license_files: Sequence[Path],
    license_ids: Sequence[str],
    key_ids: Sequence[str],
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Take back licences or issuing keys.

    They are added to the list in the keys folder, which every licence issued from now on carries. With --out the list
    is also written as a file for licence folders. Nothing can be taken off the list: issue under a new id instead.
    """
    if not license_files and not license_ids and not key_ids and out is None:
        raise click.UsageError("Give --license, --license-id or --key-id, or --out to write the list as it is.")
    for text in license_ids:
        if not 1 <= len(text) <= 64 or not text.isprintable() or " " in text:
            raise click.UsageError(f"{text!r} is no id; 'licenses inspect FILE' shows the id of a licence.")
    if out is not None and out.exists() and not force:
        raise IssueError(f"{out} exists", next_step="Choose another name, or give --force.")
    root = load_trust_root(keys_folder / issue.TRUST_ROOT_NAME)
    from_files = [_license_id(path, root) for path in license_files]
    revoked = issue.revoke(keys_folder, license_ids=[*from_files, *license_ids], key_ids=key_ids)
    facts: dict[str, object] = dict(revoked.to_members())
    rows = {"Taken back": revoked_text(revoked), "List": str(keys_folder / issue.REVOKED_NAME)}
    if out is None:
        step = "Every licence issued from now on carries the list; with --out it is also written as a file."
    else:
        blob = issue.seal_revocation(issue.load_issuer(keys_folder), at=now())
        digest = issue.write_license_file(out, blob + b"\n", force=force)
        facts |= {"file": str(out), "sha256": digest}
        rows |= {"Written to": str(out), "SHA-256": digest}
        step = "Put the file into the licence folder of each appliance; no restart is needed."
    show(facts, [*table(rows), step], as_json=as_json)


@click.command()
@_KEYS
@click.option("--root-keys", "root_keys_folder", type=FILE, help="Where the root keys are.  [default: the keys folder]")
@click.option("--root", is_flag=True, help="Replace the root keys.")
@click.option("--issuing", is_flag=True, help="Issue with a new key; what the old one signed stays good.")
@click.option("--ack", is_flag=True, help="Acknowledge with a new key.")
@click.option("--second-signature", is_flag=True, help="Demand ML-DSA-65 signatures from now on; all must be reissued.")
@click.option("--revoke", "revoked", multiple=True, metavar="KEY_ID", help="Take a key back, refuse what it signed.")
@click.option("--drop", "dropped", multiple=True, metavar="KEY_ID", help="Leave a key out: untrusted from now on.")
@JSON_OPTION
def rotate(
    *,
    keys_folder: Path,
    root_keys_folder: Path | None,
    root: bool,
    issuing: bool,
    ack: bool,
    second_signature: bool,
    revoked: Sequence[str],
    dropped: Sequence[str],
    as_json: bool,
) -> None:
    """Make the next version of the trust root, signed by the old root keys and by its own.

    The version before is kept beside it; replaced private keys go into the folder 'retired'.
    """
    wish = Wish(
        root=root,
        issuing=issuing,
        ack=ack,
        second_signature=second_signature,
        revoke=tuple(map(KeyId, revoked)),
        drop=tuple(map(KeyId, dropped)),
    )
    made, files = rotation.rotate(keys_folder, wish, at=now(), root_keys_folder=root_keys_folder)
    new = made.trust_root
    facts = {
        **_root_facts(new),
        "trust_root": str(files[0]),
        "private_keys": [str(path) for path in files[1:]],
        "retired": sorted(made.retired),
    }
    rows = {
        "Trust root": f"{files[0]}  (version {new.version}; the one before is kept beside it)",
        "Issue until": day_text(new.expires_at),
        **{f"New key {number}": str(path) for number, path in enumerate(files[1:], start=1)},
        "Retired": ", ".join(sorted(made.retired)) or "none",
        "Revoked": ", ".join(new.revoked_key_ids) or "none",
    }
    step = (
        "Give customers the trust root and its earlier versions (trust-root.json, trust-root-v*.json): an appliance "
        "takes a new version only after the one before. No restart is needed."
    )
    show(facts, [*evaluation_banner(new.evaluation), *table(rows), step], as_json=as_json)


@click.command("reset-clock")
@_KEYS
@click.option("--license", "license_file", type=FILE, help="The licence in whose place the token may be used.")
@click.option("--license-id", help="The same, by its id.")
@click.option("--enrolment", "enrolment_file", type=FILE, help="Of the device that may use it.")
@click.option("--device-key", "device_file", type=FILE, help="The same, by its device.pub.")
@click.option(
    "--not-earlier-than", callback=FIRST_INSTANT, metavar="TIME", help="How far down.  [default: a day before now]"
)
@click.option(
    "--days", type=click.IntRange(1, LONGEST.days), default=7, show_default=True, help="How long the token is good."
)
@click.option("--out", type=FILE, required=True, help="The token to write.")
@_FORCE
@JSON_OPTION
def reset_clock(
    *,
    keys_folder: Path,
    license_file: Path | None,
    license_id: str | None,
    enrolment_file: Path | None,
    device_file: Path | None,
    not_earlier_than: datetime | None,
    days: int,
    out: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Write a token that lets one appliance set its time back, once.

    Needed only where a clock ran far ahead and was believed. The host's clock must be set right before it is used.
    """
    if (license_file is None) == (license_id is None):
        raise click.UsageError("Say for which licence, once: either --license or --license-id.")
    if (enrolment_file is None) == (device_file is None):
        raise click.UsageError("Say for which device, once: either --enrolment or --device-key.")
    at = now()
    issuer = issue.load_issuer(keys_folder)
    try:
        reset = ClockReset(
            token_id=issue.new_license_id(),
            license_id=license_id or _license_id(license_file, issuer.trust_root),
            device_public=_device_of(enrolment_file, device_file),
            not_earlier_than=not_earlier_than or at - timedelta(days=1),
            issued_at=at,
            expires_at=at + timedelta(days=days),
            key_id=issuer.issuing_key.key_id,
        )
        blob = issue.seal_clock_reset(reset, issuer)
    except FormatError as exc:
        raise IssueError(str(exc)) from exc
    digest = issue.write_license_file(out, blob + b"\n", force=force)
    facts, rows = _reset_shown(open_clock_reset(blob, issuer.trust_root))
    lines = [
        *evaluation_banner(issuer.evaluation),
        *table({**rows, "Written to": str(out), "SHA-256": digest}),
        "On the appliance: set the host's clock right, then run 'sidecar clock reset FILE'. It works once.",
    ]
    show({"file": str(out), "sha256": digest, **facts}, lines, as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (request, revoke, rotate, reset_clock)


def describe_other(file: Path, blob: bytes, trust_root: TrustRoot | None) -> Shown:
    """Show a signed file that is no licence.

    Raises:
        LicensesError: It is malformed, or its signature does not hold.
    """
    claimed = envelope.unverified_payload(blob, max_bytes=MAX_ACK_BYTES)
    verified = True
    facts: dict[str, object] = {}
    match claimed.payload_type:
        case envelope.TRUST_ROOT_TYPE:
            facts, rows = _root_shown(TrustRoot.from_bytes(blob))
            rows["Signature"] = "good, by its own root keys; whether to believe those is decided by where it came from"
        case envelope.ENROLMENT_TYPE:
            facts, rows = _enrolment_shown(open_enrolment(blob))
            rows["Signature"] = "good, by the device key that it enrols"
        case envelope.REVOCATION_TYPE if trust_root is not None:
            facts, rows = _revocation_shown(open_revocation(blob, trust_root))
        case envelope.CLOCK_RESET_TYPE if trust_root is not None:
            facts, rows = _reset_shown(open_clock_reset(blob, trust_root))
        case envelope.ACK_TYPE if trust_root is not None:
            facts, rows = _ack_shown(open_ack(blob, trust_root))
        case envelope.REVOCATION_TYPE | envelope.CLOCK_RESET_TYPE | envelope.ACK_TYPE:
            verified, rows = False, {"Signature": "NOT VERIFIED: give --trust-root FILE to see what it says"}
        case _:
            verified, rows = False, {"Signature": "NOT VERIFIED: this command has no key for this kind of file"}
    kind = claimed.payload_type.removeprefix("application/vnd.tollgate.").removesuffix(".v1+json")
    shown = {"file": str(file), "type": claimed.payload_type, "verified": verified, **facts}
    digest = hashlib.sha256(blob).hexdigest()
    signed = f"{kind}, signed by {', '.join(claimed.key_ids)}"
    return {**shown, "sha256": digest}, table({"File": signed, **rows, "SHA-256": digest})


def _license_id(path: Path | None, trust_root: TrustRoot) -> str:
    return "" if path is None else open_license(issue.read_license_file(path), trust_root).license_id


def _device_of(enrolment_file: Path | None, device_file: Path | None) -> bytes:
    if enrolment_file is not None:
        return read_enrolment(enrolment_file).device_public
    return b"" if device_file is None else load_public_key(device_file, DEVICE_ROLE).raw


def _enrolment_shown(enrolment: Enrolment) -> tuple[dict[str, object], dict[str, str]]:
    def members(anchor: LedgerAnchor | None) -> dict[str, object] | None:
        return None if anchor is None else anchor.to_members()

    def text(anchor: LedgerAnchor | None) -> str:
        return "none yet" if anchor is None else anchor_text(anchor)

    facts: dict[str, object] = {
        "device": enrolment.device_id,
        "device_pubkey": enrolment.device_public.hex(),
        "threshold": enrolment.bindings.threshold,
        "factors": [factor.name.value for factor in enrolment.bindings.factors],
        "created_at": enrolment.created_at.isoformat(),
        "product_version": enrolment.product_version,
        "first_checkpoint": members(enrolment.first_checkpoint),
        "last_checkpoint": members(enrolment.last_checkpoint),
    }
    rows = {
        "Device": enrolment.device_id,
        "Host": bindings_text(enrolment.bindings),
        "Made": f"{day_text(enrolment.created_at)}, by the host's clock",
        "Version": enrolment.product_version,
        "First checkpoint": text(enrolment.first_checkpoint),
        "Last checkpoint": text(enrolment.last_checkpoint),
    }
    return facts, rows


def _revocation_shown(revocation: Revocation) -> tuple[dict[str, object], dict[str, str]]:
    facts: dict[str, object] = {**revocation.revoked.to_members(), "issued_at": revocation.issued_at.isoformat()}
    rows = {
        "Taken back": revoked_text(revocation.revoked),
        "Issued": day_text(revocation.issued_at),
        "Signature": f"good, by {revocation.key_id}",
    }
    return facts, rows


def _reset_shown(reset: ClockReset) -> tuple[dict[str, object], dict[str, str]]:
    facts: dict[str, object] = json.loads(reset.to_payload())
    rows = {
        "Token": reset.token_id,
        "Licence": reset.license_id,
        "Device": f"only {device_id_of(reset.device_public)}",
        "Not below": day_text(reset.not_earlier_than),
        "Good until": day_text(reset.expires_at),
        "Signature": f"good, by {reset.key_id}",
    }
    return facts, rows


def _ack_shown(ack: Ack) -> tuple[dict[str, object], dict[str, str]]:
    facts: dict[str, object] = {
        "origin": ack.origin,
        "size": ack.size,
        "root": ack.root.hex(),
        "acknowledged_at": ack.acknowledged_at.isoformat(),
        "totals": dict(ack.totals),
        "license": ack.license is not None,
        "revocation": ack.revocation is not None,
        "time_anchor": None if ack.time_anchor is None else ack.time_anchor.isoformat(),
        "evaluation": ack.evaluation,
    }
    along = [name for name, blob in (("a licence", ack.license), ("a revocation", ack.revocation)) if blob is not None]
    rows = {
        "Log": ack.origin,
        "Acknowledged": f"entries [0, {ack.size:,}), root {ack.root.hex()[:16]}…",
        "At": day_text(ack.acknowledged_at),
        "Accepted": ", ".join(f"{quantity:,} {name}" for name, quantity in sorted(ack.totals.items())) or "no use",
        "Along with it": ", ".join(along) or "nothing",
        "Signature": f"good, by {ack.key_id}{'  (EVALUATION)' if ack.evaluation else ''}",
    }
    return facts, rows


def _root_facts(root: TrustRoot) -> dict[str, object]:
    return {
        "vendor": root.vendor,
        "evaluation": root.evaluation,
        "version": root.version,
        "threshold": root.threshold,
        "second_signature": bool(root.second_issuing_keys),
        "revoked_key_ids": list(root.revoked_key_ids),
        "expires_at": root.expires_at.isoformat(),
    }


def _root_shown(root: TrustRoot) -> tuple[dict[str, object], dict[str, str]]:
    def ids(*keys: Mapping[KeyId, object]) -> str:
        return ", ".join(key_id for some in keys for key_id in some)

    rows = {
        "Vendor": f"{root.vendor}{'  (EVALUATION)' if root.evaluation else ''}",
        "Version": str(root.version),
        "Issued": day_text(root.issued_at),
        "Issue until": day_text(root.expires_at),
        "Root keys": f"{ids(root.root_keys, root.second_root_keys)}  ({root.threshold} of each kind must sign)",
        "Issuing keys": ids(root.issuing_keys, root.second_issuing_keys),
        "Ack keys": ids(root.ack_keys),
        "Revoked": ", ".join(root.revoked_key_ids) or "none",
    }
    return _root_facts(root), rows
