"""`licenses authority`: the books of customers, their keys, and the audit trail.

Invariant: an API key is shown by the command that makes it and by nothing else, ever again.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from licenses import durable
from licenses.authority.accounts import Customer, KeySlot, Slot, Subscription, Tier
from licenses.authority.audit_trail import AuditLine, Head
from licenses.authority.cli_options import DATABASE_OPTION, Books, columns, open_books, plain
from licenses.authority.vendor_keys import VendorKeys
from licenses.cli_text import FILE, JSON_OPTION, evaluation_banner, show, table
from licenses.errors import AccountError, AuthorityError, KeyFileError
from licenses.model import CONTAINER_TYPE, READ_PAGES_METER
from licenses.strict_json import MAX_INTEGER
from licenses.verify import day_text

_SLOT = click.option(
    "--slot",
    type=click.Choice(["1", "2"]),
    required=True,
    help="Which of the two places for keys.",
    callback=lambda _ctx, _param, word: int(word),
)
_SUBSCRIPTION = click.argument("subscription_id", metavar="SUBSCRIPTION")


@click.command()
@DATABASE_OPTION
@click.option("--keys", "keys_folder", type=FILE, envvar="TOLLGATE_AUTHORITY_KEYS", help="Tell whose keys will sign.")
@JSON_OPTION
def init(*, database: str, keys_folder: Path | None, as_json: bool) -> None:
    """Make the database, or bring an older one up to date; nothing in it is lost."""
    vendor = None if keys_folder is None else VendorKeys(keys_folder).trust_root
    with open_books(database, create=True) as books:
        facts = {
            "database": str(books.database.path),
            "vendor": None if vendor is None else vendor.vendor,
            "customers": len(books.accounts.customers()),
            "audit": str(books.trail.verify()),
        }
        rows = {"Database": str(books.database.path), "Customers": str(facts["customers"])}
        if vendor is not None:
            rows["Vendor"] = f"{vendor.vendor}  (trust root version {vendor.version})"
        lines = [*evaluation_banner(vendor is not None and vendor.evaluation), *table(rows)]
        show(facts, [*lines, "Readable by you alone. Back it up: licenses authority backup FILE."], as_json=as_json)


@click.command()
@click.argument("file", type=FILE)
@DATABASE_OPTION
@JSON_OPTION
def backup(*, file: Path, database: str, as_json: bool) -> None:
    """Write a copy of the whole database to FILE, while the service goes on."""
    with open_books(database) as books:
        books.database.copy_to(file)
        head = books.trail.verify()
    show(
        {"file": str(file), "bytes": file.stat().st_size, "audit": str(head)},
        table({"Written to": str(file), "Size": f"{file.stat().st_size:,} bytes", "Audit trail": str(head)}),
        as_json=as_json,
    )


# ---- customers ------------------------------------------------------------------------------------------------------


@click.group()
def customer() -> None:
    """Who pays."""


@customer.command("add")
@click.argument("name")
@DATABASE_OPTION
@JSON_OPTION
def customer_add(*, name: str, database: str, as_json: bool) -> None:
    """Begin the account of a customer."""
    with open_books(database) as books:
        made = books.accounts.add_customer(name)
    show(plain(dataclasses.asdict(made)), table({"Customer": made.id, "Name": made.name}), as_json=as_json)


@customer.command("list")
@DATABASE_OPTION
@JSON_OPTION
def customer_list(*, database: str, as_json: bool) -> None:
    """All customers, by name."""
    with open_books(database) as books:
        found = books.accounts.customers()
    rows = [(one.id, one.name, day_text(one.created_at)) for one in found]
    lines = columns(
        ("Customer", "Name", "Since"), rows, nothing="no customer yet: licenses authority customer add NAME"
    )
    show({"customers": [plain(dataclasses.asdict(one)) for one in found]}, lines, as_json=as_json)


# ---- tiers ----------------------------------------------------------------------------------------------------------


@click.group()
def tier() -> None:
    """What customers can commit to."""


@tier.command("add")
@click.argument("name")
@click.option(
    "--quantity", type=click.IntRange(0, MAX_INTEGER), required=True, help="Units committed to in each period."
)
@click.option("--period", type=click.Choice(["month", "year"]), required=True, help="Calendar month or year, UTC.")
@click.option("--overage", is_flag=True, help="Serve more than that, and bill it; otherwise it is refused.")
@click.option("--meter", default=READ_PAGES_METER, show_default=True, help="What is counted.")
@DATABASE_OPTION
@JSON_OPTION
def tier_add(
    *,
    name: str,
    quantity: int,
    period: Literal["month", "year"],
    overage: bool,
    meter: str,
    database: str,
    as_json: bool,
) -> None:
    """Offer a tier; it is never changed."""
    with open_books(database) as books:
        made = books.accounts.add_tier(name, meter=meter, quantity=quantity, period=period, overage_allowed=overage)
    show(plain(dataclasses.asdict(made)), table({"Tier": made.name, "Commitment": _commitment(made)}), as_json=as_json)


@tier.command("list")
@DATABASE_OPTION
@JSON_OPTION
def tier_list(*, database: str, as_json: bool) -> None:
    """All tiers, by name."""
    with open_books(database) as books:
        found = books.accounts.tiers()
    rows = [(one.name, _commitment(one), one.meter) for one in found]
    lines = columns(("Tier", "Commitment", "Meter"), rows, nothing="no tier yet: licenses authority tier add NAME")
    show({"tiers": [plain(dataclasses.asdict(one)) for one in found]}, lines, as_json=as_json)


# ---- subscriptions --------------------------------------------------------------------------------------------------


@click.group()
def subscription() -> None:
    """What a customer uses, and on which terms."""


@subscription.command("add")
@click.option("--customer", "named", required=True, help="The customer's id, or the whole name.")
@click.option("--tier", "tier_name", required=True, help="The tier to begin with.")
@click.option("--container-type", default=CONTAINER_TYPE, show_default=True)
@click.option("--not-approved", is_flag=True, help="License nothing until 'subscription approve'.")
@DATABASE_OPTION
@JSON_OPTION
def subscription_add(
    *, named: str, tier_name: str, container_type: str, not_approved: bool, database: str, as_json: bool
) -> None:
    """Begin a subscription."""
    with open_books(database) as books:
        made = books.accounts.add_subscription(
            _customer(books, named).id, container_type=container_type, tier=tier_name, approved=not not_approved
        )
        _show_subscription(books, made, as_json=as_json)


@subscription.command("list")
@click.option("--customer", "named", help="Of this customer alone: the id, or the whole name.")
@DATABASE_OPTION
@JSON_OPTION
def subscription_list(*, named: str | None, database: str, as_json: bool) -> None:
    """All subscriptions, the oldest first."""
    with open_books(database) as books:
        found = books.accounts.subscriptions(None if named is None else _customer(books, named).id)
        names = {one.id: one.name for one in books.accounts.customers()}
    rows = [
        (one.id, names[one.customer_id], one.container_type, one.tier, "yes" if one.approved else "no") for one in found
    ]
    header = ("Subscription", "Customer", "Container", "Tier", "Approved")
    lines = columns(header, rows, nothing="no subscription yet: licenses authority subscription add")
    show({"subscriptions": [plain(dataclasses.asdict(one)) for one in found]}, lines, as_json=as_json)


@subscription.command("approve")
@_SUBSCRIPTION
@DATABASE_OPTION
@JSON_OPTION
def subscription_approve(*, subscription_id: str, database: str, as_json: bool) -> None:
    """Approve the use of the container."""
    with open_books(database) as books:
        _show_subscription(books, books.accounts.approve(subscription_id, True), as_json=as_json)


@subscription.command("refuse")
@_SUBSCRIPTION
@DATABASE_OPTION
@JSON_OPTION
def subscription_refuse(*, subscription_id: str, database: str, as_json: bool) -> None:
    """Take the approval back; licences handed out before serve until they end, unless they are revoked."""
    with open_books(database) as books:
        _show_subscription(books, books.accounts.approve(subscription_id, False), as_json=as_json)


@subscription.command("move")
@_SUBSCRIPTION
@click.option("--tier", "tier_name", required=True, help="The tier from now on.")
@DATABASE_OPTION
@JSON_OPTION
def subscription_move(*, subscription_id: str, tier_name: str, database: str, as_json: bool) -> None:
    """Move a subscription to another tier."""
    with open_books(database) as books:
        _show_subscription(books, books.accounts.change_tier(subscription_id, tier_name), as_json=as_json)


# ---- keys -----------------------------------------------------------------------------------------------------------


@click.group()
def key() -> None:
    """The two API keys of a subscription."""


@key.command("new")
@_SUBSCRIPTION
@_SLOT
@click.option("--out", type=FILE, help="Write the key to this new file (mode 0600) and do not print it.")
@DATABASE_OPTION
@JSON_OPTION
def key_new(*, subscription_id: str, slot: Slot, out: Path | None, database: str, as_json: bool) -> None:
    """Make a key for one of the two places; the key that was there is dead at once."""
    with open_books(database) as books:
        before = books.accounts.keys(subscription_id)[slot - 1]
        if out is None:
            made = books.accounts.new_key(subscription_id, slot)
        else:
            made = _key_in_file(books, subscription_id, slot, out)
        after = books.accounts.keys(subscription_id)[slot - 1]
    place: dict[str, object] = {"file": str(out)} if out is not None else {"key": made}
    rows = {
        "Subscription": subscription_id,
        "Place": f"{slot}, {'instead of ' + before.fingerprint if before.fingerprint else 'which was empty'}",
        **({"Written to": str(out)} if out is not None else {"Key": made}),
        "Known as": after.fingerprint,
    }
    lines = [*table(rows), "It is not kept here and cannot be shown again: give it to the customer as ApiKey."]
    facts = {"subscription_id": subscription_id, "slot": slot, "fingerprint": after.fingerprint, **place}
    show(facts, lines, as_json=as_json)


@key.command("revoke")
@_SUBSCRIPTION
@_SLOT
@DATABASE_OPTION
@JSON_OPTION
def key_revoke(*, subscription_id: str, slot: Slot, database: str, as_json: bool) -> None:
    """End a key; appliances that still use it are refused from now on."""
    with open_books(database) as books:
        revoked = books.accounts.revoke_key(subscription_id, slot)
    said = f"the key in place {slot} of {subscription_id} is dead" if revoked else "there was no key in that place"
    show({"subscription_id": subscription_id, "slot": slot, "revoked": revoked}, [said], as_json=as_json)


@key.command("list")
@_SUBSCRIPTION
@DATABASE_OPTION
@JSON_OPTION
def key_list(*, subscription_id: str, database: str, as_json: bool) -> None:
    """What is in the two places; never the keys."""
    with open_books(database) as books:
        found = books.accounts.keys(subscription_id)
    lines = columns(("Place", "Known as", "Since"), list(map(_slot_row, found)), nothing="")
    show({"keys": [plain(dataclasses.asdict(one)) for one in found]}, lines, as_json=as_json)


# ---- the audit trail ------------------------------------------------------------------------------------------------


@click.group()
def audit() -> None:
    """Who changed what, and when."""


@audit.command("list")
@click.option("--subject", help="Of this customer, tier, subscription, device or licence alone.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True, help="At most so many lines."
)
@DATABASE_OPTION
@JSON_OPTION
def audit_list(*, subject: str | None, limit: int, database: str, as_json: bool) -> None:
    """The newest changes, the newest first."""
    with open_books(database) as books:
        found = books.trail.lines(subject=subject, limit=limit)
        if subject is not None and not found:
            raise AccountError(
                f"the trail has no line of {subject[:200]!r}",
                next_step="Give a whole id, as 'licenses authority audit list' shows it.",
            )
    lines = columns(
        ("Seq", "At", "Who", "What", "Subject", "Facts"), list(map(_audit_row, found)), nothing="no change yet"
    )
    show({"lines": [plain(dataclasses.asdict(one)) for one in found]}, lines, as_json=as_json)


@audit.command("verify")
@click.option("--expect", help="A head that was noted elsewhere, SEQ:SHA256; the trail must go through it.")
@DATABASE_OPTION
@JSON_OPTION
def audit_verify(*, expect: str | None, database: str, as_json: bool) -> None:
    """Compute the hash chain again; exit code 0 only if it holds.

    The head that is printed is worth noting outside of this machine, say in the mail with a statement: with --expect it
    shows that nobody made the trail anew, or cut off its end.
    """
    expected = None if expect is None else Head.from_text(expect)
    with open_books(database) as books:
        head = books.trail.verify(expected)
    through = "not compared with a head noted elsewhere" if expected is None else f"it goes through line {expected.seq}"
    lines = table({"Holds": f"{head.seq:,} lines; {through}", "Head": str(head)})
    show({"lines": head.seq, "head": str(head), "expected": expect}, lines, as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (init, customer, tier, subscription, key, audit, backup)


def _customer(books: Books, named: str) -> Customer:
    """A customer by id, or by the whole name."""
    for one in books.accounts.customers():
        if named in (one.id, one.name):
            return one
    raise AccountError(f"there is no customer {named[:200]!r}")


def _show_subscription(books: Books, one: Subscription, *, as_json: bool) -> None:
    terms = books.accounts.tier(one.tier)
    rows = {
        "Subscription": one.id,
        "Customer": books.accounts.customer(one.customer_id).name,
        "Container": one.container_type,
        "Tier": f"{one.tier}: {_commitment(terms)}",
        "Approved": "yes" if one.approved else "no: nothing is licensed",
    }
    show(plain(dataclasses.asdict(one)), table(rows), as_json=as_json)


def _commitment(one: Tier) -> str:
    more = "more is billed" if one.overage_allowed else "more is refused"
    return f"{one.quantity:,} in each {one.period}, {more}"


def _slot_row(one: KeySlot) -> Sequence[str]:
    return (str(one.slot), one.fingerprint or "empty", "" if one.created_at is None else day_text(one.created_at))


def _audit_row(one: AuditLine) -> Sequence[str]:
    facts = ", ".join(f"{name}={value}" for name, value in sorted(one.facts.items()))
    return (str(one.seq), day_text(one.at), one.actor, one.action, one.subject, facts)


def _key_in_file(books: Books, subscription_id: str, slot: Slot, path: Path) -> str:
    """Make a key and write it down; one that cannot be written down is not made, and the old one goes on."""
    written = False
    try:
        with books.database.writing():
            made = books.accounts.new_key(subscription_id, slot)
            durable.write_file(path, [made.encode("ascii"), b"\n"], mode=0o600, overwrite=False)
            written = True
    except OSError as exc:
        raise KeyFileError.from_os_error(exc, path, doing="write the API key", mode="u+rwx") from exc
    except AuthorityError:
        if written:
            path.unlink(missing_ok=True)
        raise
    return made
