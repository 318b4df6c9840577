"""Customers, the tiers they commit to, their subscriptions, and the API keys by which a subscription is known.

Invariants:

* Nothing here is changed or deleted: another tier, an approval, a new or revoked key are rows that follow the old ones,
  so what was in force at any time can be told. Each change is a line of the audit trail.
* An API key is 256 random bits, shown once. What is kept is its SHA-256, unsalted: there is nothing to guess.
* A subscription has two places for keys, so that one can be replaced while appliances still use the other; a replaced
  or revoked key is dead with the commit.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from licenses.authority.audit_trail import AuditTrail, Clock
from licenses.authority.database import Database, Transaction, kept_instant
from licenses.errors import AccountError, ConflictError, FormatError, InvalidKeyError
from licenses.model import READ_PAGES_METER, Meter
from licenses.strict_json import MAX_INTEGER, instant_text

Period = Literal["month", "year"]
Slot = Literal[1, 2]

_KEY = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """Somebody who pays.

    Attributes:
        id: "c-" and 12 hexadecimal digits.
        name: As it stands in licences and statements; 1 to 200 printable characters, no two the same.
        created_at: UTC instant.
    """

    id: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """What a subscription commits to; never changed, so that old statements stay as they were.

    Attributes:
        name: A word, such as "read-1m-year".
        meter: The public name of what is counted.
        quantity: Units committed to in each period.
        period: The calendar month or the calendar year, UTC.
        overage_allowed: Whether more is served and billed, or refused.
        created_at: UTC instant.
    """

    name: str
    meter: str
    quantity: int
    period: Period
    overage_allowed: bool
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A customer's use of one container type.

    Attributes:
        id: "s-" and 12 hexadecimal digits.
        customer_id: Whose.
        container_type: The only one that it is for.
        tier: The name of the tier in force.
        approved: Whether the customer may use this container; without it nothing is licensed.
        created_at: UTC instant.
    """

    id: str
    customer_id: str
    container_type: str
    tier: str
    approved: bool
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySlot:
    """One of the two places for keys of a subscription.

    Attributes:
        slot: 1 or 2.
        fingerprint: The first 8 hexadecimal digits of the key's SHA-256; empty without a key.
        created_at: UTC instant at which the key was made; None without one.
    """

    slot: Slot
    fingerprint: str = ""
    created_at: datetime | None = None


class Accounts:
    """The books of customers.

    Args:
        database: Where they are kept.
        trail: What every change is written to, in the name of who makes it.
        clock: The vendor's time.
    """

    def __init__(self, database: Database, trail: AuditTrail, clock: Clock) -> None:
        self._database = database
        self._trail = trail
        self._clock = clock

    # ---- customers --------------------------------------------------------------------------------------------------

    def add_customer(self, name: str) -> Customer:
        """Begin the account of a customer.

        Raises:
            AccountError: There is one of that name, or the name is not one.
        """
        if name != name.strip() or not 1 <= len(name) <= 200 or not name.isprintable():
            raise AccountError(
                "a customer's name has 1 to 200 printable characters, and no space at its ends",
                next_step="Choose another name.",
            )
        customer = Customer(id=_new_id("c"), name=name, created_at=self._clock())
        with self._database.writing() as tx:
            try:
                tx.execute(
                    "INSERT INTO customer(id, name, created_at) VALUES (?, ?, ?)",
                    [customer.id, name, instant_text(customer.created_at)],
                )
            except ConflictError as exc:
                raise AccountError(
                    f"there is a customer {name!r} already", next_step="Use that one, or choose a name that differs."
                ) from exc
            self._trail.record(tx, "customer.add", customer.id, {"name": name})
        return customer

    def customers(self) -> list[Customer]:
        """All customers, by name."""
        return list(map(_customer, self._database.query("SELECT * FROM customer ORDER BY name")))

    def customer(self, customer_id: str) -> Customer:
        """One customer.

        Raises:
            AccountError: There is none of that id.
        """
        row = self._database.one("SELECT * FROM customer WHERE id = ?", [customer_id])
        if row is None:
            raise AccountError(f"there is no customer {customer_id[:40]!r}")
        return _customer(row)

    # ---- tiers ------------------------------------------------------------------------------------------------------

    def add_tier(self, name: str, *, meter: str, quantity: int, period: Period, overage_allowed: bool) -> Tier:
        """Offer a tier.

        Args:
            name: A word of up to 64 letters, digits and `._:-`.
            meter: The public name of what is counted.
            quantity: Units in each period, 0 to 2^53 - 1.
            period: Calendar month or year.
            overage_allowed: Whether more is served and billed.

        Raises:
            AccountError: There is one of that name, or the quantity is out of range.
            FormatError: The meter is not one.
        """
        _require_word("tier", name)
        if not 0 <= quantity <= MAX_INTEGER:
            raise AccountError(
                f"a tier commits to at least 0 and at most {MAX_INTEGER:,} units",
                next_step="Give a quantity in that range; with overage, more is served and billed.",
            )
        try:
            Meter(name=meter, unit="unit", hard=quantity)
        except FormatError as exc:
            raise FormatError(str(exc), next_step=f"Give the meter's public name, such as {READ_PAGES_METER}.") from exc
        if period not in ("month", "year"):
            raise AccountError(f"a period is a month or a year, not {period!r}", next_step="Choose one of the two.")
        tier = Tier(
            name=name,
            meter=meter,
            quantity=quantity,
            period=period,
            overage_allowed=overage_allowed,
            created_at=self._clock(),
        )
        facts = {"meter": meter, "quantity": quantity, "period": period, "overage_allowed": overage_allowed}
        with self._database.writing() as tx:
            try:
                tx.execute(
                    """INSERT INTO tier(name, meter, quantity, period, overage_allowed, created_at)
                       VALUES (?, ?, ?, ?, ?, ?)""",
                    [name, meter, quantity, period, int(overage_allowed), instant_text(tier.created_at)],
                )
            except ConflictError as exc:
                raise AccountError(
                    f"there is a tier {name!r} already",
                    next_step="A tier is never changed: choose another name, and move subscriptions to it.",
                ) from exc
            self._trail.record(tx, "tier.add", name, facts)
        return tier

    def tiers(self) -> list[Tier]:
        """All tiers, by name."""
        return list(map(_tier, self._database.query("SELECT * FROM tier ORDER BY name")))

    def tier(self, name: str) -> Tier:
        """One tier.

        Raises:
            AccountError: There is none of that name.
        """
        row = self._database.one("SELECT * FROM tier WHERE name = ?", [name])
        if row is None:
            raise AccountError(f"there is no tier {name[:64]!r}")
        return _tier(row)

    def tier_at(self, subscription_id: str, at: datetime) -> Tier:
        """The tier that was in force at an instant; the first one for any instant before it.

        Raises:
            AccountError: There is no such subscription.
        """
        row = self._database.one(
            """SELECT t.* FROM subscription_change c JOIN tier t ON t.name = c.tier
               WHERE c.subscription_id = ? ORDER BY c.at <= ? DESC, CASE WHEN c.at <= ? THEN -c.seq ELSE c.seq END""",
            [subscription_id, instant_text(at), instant_text(at)],
        )
        if row is None:
            raise AccountError(f"there is no subscription {subscription_id[:40]!r}")
        return _tier(row)

    # ---- subscriptions ----------------------------------------------------------------------------------------------

    def add_subscription(
        self, customer_id: str, *, container_type: str, tier: str, approved: bool = True
    ) -> Subscription:
        """Begin a subscription; it has no key yet.

        Raises:
            AccountError: There is no such customer or tier, or the container type is no word.
        """
        _require_word("container type", container_type)
        with self._database.writing() as tx:
            self.customer(customer_id)
            self.tier(tier)
            made = Subscription(
                id=_new_id("s"),
                customer_id=customer_id,
                container_type=container_type,
                tier=tier,
                approved=approved,
                created_at=self._clock(),
            )
            tx.execute(
                "INSERT INTO subscription(id, customer_id, container_type, created_at) VALUES (?, ?, ?, ?)",
                [made.id, customer_id, container_type, instant_text(made.created_at)],
            )
            self._change(tx, made.id, tier=tier, approved=approved)
            self._trail.record(
                tx,
                "subscription.add",
                made.id,
                {"customer": customer_id, "container_type": container_type, "tier": tier, "approved": approved},
            )
        return made

    def subscriptions(self, customer_id: str | None = None) -> list[Subscription]:
        """All subscriptions, or those of one customer, the oldest first."""
        wanted, params = ("", []) if customer_id is None else ("WHERE customer_id = ?", [customer_id])
        rows = self._database.query(f"SELECT * FROM subscription_now {wanted} ORDER BY created_at, id", params)  # noqa: S608
        return list(map(_subscription, rows))

    def subscription(self, subscription_id: str) -> Subscription:
        """One subscription, as it is now.

        Raises:
            AccountError: There is none of that id.
        """
        row = self._database.one("SELECT * FROM subscription_now WHERE id = ?", [subscription_id])
        if row is None:
            raise AccountError(f"there is no subscription {subscription_id[:40]!r}")
        return _subscription(row)

    def approve(self, subscription_id: str, approved: bool) -> Subscription:
        """Approve the use of the container, or take that back; licences handed out before go on to their end.

        Raises:
            AccountError: There is no such subscription.
        """
        with self._database.writing() as tx:
            now = self.subscription(subscription_id)
            if now.approved != approved:
                self._change(tx, subscription_id, tier=now.tier, approved=approved)
                self._trail.record(tx, "subscription.approve" if approved else "subscription.refuse", subscription_id)
        return self.subscription(subscription_id)

    def change_tier(self, subscription_id: str, tier: str) -> Subscription:
        """Move a subscription to another tier, from now on.

        Raises:
            AccountError: There is no such subscription or tier.
        """
        with self._database.writing() as tx:
            now = self.subscription(subscription_id)
            self.tier(tier)
            if now.tier != tier:
                self._change(tx, subscription_id, tier=tier, approved=now.approved)
                self._trail.record(tx, "subscription.tier", subscription_id, {"from": now.tier, "to": tier})
        return self.subscription(subscription_id)

    def _change(self, tx: Transaction, subscription_id: str, *, tier: str, approved: bool) -> None:
        tx.execute(
            "INSERT INTO subscription_change(subscription_id, tier, approved, at) VALUES (?, ?, ?, ?)",
            [subscription_id, tier, int(approved), instant_text(self._clock())],
        )

    # ---- keys -------------------------------------------------------------------------------------------------------

    def new_key(self, subscription_id: str, slot: Slot) -> str:
        """Make a key for one of the two places; the one that was there is dead at once.

        Returns:
            The key: 64 hexadecimal digits, nowhere else to be had again.

        Raises:
            AccountError: There is no such subscription.
        """
        key = secrets.token_hex(32)
        digest = _digest(key)
        with self._database.writing() as tx:
            self.subscription(subscription_id)
            ended = self._end(tx, subscription_id, slot, "regenerated")
            tx.execute(
                "INSERT INTO api_key(digest, subscription_id, slot, created_at) VALUES (?, ?, ?, ?)",
                [digest, subscription_id, slot, instant_text(self._clock())],
            )
            facts = {"slot": slot, "key": _fingerprint(digest)}
            if ended is None:
                self._trail.record(tx, "key.new", subscription_id, facts)
            else:
                self._trail.record(tx, "key.regenerate", subscription_id, {**facts, "ended": _fingerprint(ended)})
        return key

    def revoke_key(self, subscription_id: str, slot: Slot) -> bool:
        """End the key of one place.

        Returns:
            Whether there was one.

        Raises:
            AccountError: There is no such subscription.
        """
        with self._database.writing() as tx:
            self.subscription(subscription_id)
            ended = self._end(tx, subscription_id, slot, "revoked")
            if ended is not None:
                self._trail.record(tx, "key.revoke", subscription_id, {"slot": slot, "ended": _fingerprint(ended)})
        return ended is not None

    def keys(self, subscription_id: str) -> tuple[KeySlot, KeySlot]:
        """What is in the two places.

        Raises:
            AccountError: There is no such subscription.
        """
        self.subscription(subscription_id)
        return (self._slot(subscription_id, 1), self._slot(subscription_id, 2))

    def subscription_of_key(self, key: str) -> Subscription:
        """The subscription that a key is of, whether it is approved or not.

        Raises:
            InvalidKeyError: It is no key of anybody, or is one no longer.
        """
        if _KEY.fullmatch(key) is None:
            raise InvalidKeyError("what was sent as a key is none")
        digest = _digest(key)
        row = self._database.one(
            """SELECT k.digest, e.reason, s.* FROM api_key k JOIN subscription_now s ON s.id = k.subscription_id
               LEFT JOIN api_key_end e ON e.digest = k.digest WHERE k.digest = ?""",
            [digest],
        )
        # The index compares digests, whose first bytes nobody can choose; the whole is compared in constant time.
        if row is None or not hmac.compare_digest(row["digest"], digest):
            raise InvalidKeyError("no subscription has this key")
        if row["reason"] is not None:
            raise InvalidKeyError(f"this key was {row['reason']}")
        return _subscription(row)

    def _slot(self, subscription_id: str, slot: Slot) -> KeySlot:
        row = self._database.one(
            """SELECT digest, created_at FROM api_key k WHERE subscription_id = ? AND slot = ?
               AND NOT EXISTS (SELECT 1 FROM api_key_end e WHERE e.digest = k.digest)""",
            [subscription_id, slot],
        )
        if row is None:
            return KeySlot(slot=slot)
        return KeySlot(slot=slot, fingerprint=_fingerprint(row["digest"]), created_at=kept_instant(row["created_at"]))

    def _end(self, tx: Transaction, subscription_id: str, slot: Slot, reason: str) -> bytes | None:
        if slot not in (1, 2):
            raise AccountError(f"a subscription has the keys 1 and 2, no {slot}", next_step="Choose 1 or 2.")
        row = tx.one(
            """SELECT digest FROM api_key k WHERE subscription_id = ? AND slot = ?
               AND NOT EXISTS (SELECT 1 FROM api_key_end e WHERE e.digest = k.digest)""",
            [subscription_id, slot],
        )
        if row is None:
            return None
        tx.execute(
            "INSERT INTO api_key_end(digest, reason, at) VALUES (?, ?, ?)",
            [row["digest"], reason, instant_text(self._clock())],
        )
        return cast("bytes", row["digest"])


def _new_id(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(6)}"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("ascii")).digest()


def _fingerprint(digest: bytes) -> str:
    return digest.hex()[:8]


def _require_word(what: str, word: str) -> None:
    if _WORD.fullmatch(word) is None:
        raise AccountError(
            f"a {what} is a word of up to 64 letters, digits and ._:-, not {word[:64]!r}",
            next_step="Choose another one.",
        )


def _customer(row: dict[str, Any]) -> Customer:
    return Customer(id=row["id"], name=row["name"], created_at=kept_instant(row["created_at"]))


def _tier(row: dict[str, Any]) -> Tier:
    return Tier(
        name=row["name"],
        meter=row["meter"],
        quantity=row["quantity"],
        period=row["period"],
        overage_allowed=bool(row["overage_allowed"]),
        created_at=kept_instant(row["created_at"]),
    )


def _subscription(row: dict[str, Any]) -> Subscription:
    return Subscription(
        id=row["id"],
        customer_id=row["customer_id"],
        container_type=row["container_type"],
        tier=row["tier"],
        approved=bool(row["approved"]),
        created_at=kept_instant(row["created_at"]),
    )
