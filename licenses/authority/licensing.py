"""The licences issued to devices, or to any.

Invariants:

* A licence is issued in the transaction that keeps it and writes the audit trail: none is handed out that is not kept.
  What was issued is never changed; the next one of the same id has the sequence after it.
* A licence for a device is bound to its key, to the host factors of its enrolment, and to the largest checkpoint of
  its log that the vendor knows to be good.

How long a licence lasts follows from the tier. Where more than the commitment is served and billed (overage), the
licence grants without limit and lasts for `Terms`; each renewal has the id of the one before and the sequence after
it. Where it is not, the quantity is granted, and an appliance counts it by the licence's id: so each commitment period
has an id of its own ("….2027-03") and ends with the period, and the grace is the time to fetch the next one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from licenses import issue
from licenses.authority.accounts import Accounts, Period, Subscription, Tier
from licenses.authority.audit_trail import AuditTrail, Clock
from licenses.authority.database import Database, Transaction, kept_instant
from licenses.authority.devices import Device, Devices
from licenses.authority.key_kinds import note_key_kind
from licenses.authority.periods import commitment_period
from licenses.authority.vendor_keys import VendorKeys
from licenses.errors import (
    ForkError,
    FormatError,
    IssueError,
    LicensesError,
    MismatchError,
    UnauthorizedUseError,
)
from licenses.host import Bindings
from licenses.issue import Issuer
from licenses.model import PAGE_UNIT, READ_PAGES_METER, License, LicenseId, Meter
from licenses.strict_json import instant_text
from licenses.verify import open_license

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long licences last.

    Attributes:
        days: Of a licence with overage, by the tier's period.
        renew_days: So many days before the end the next one is due, by the tier's period.
        grace_days: Served with a warning after the end.
    """

    days: Mapping[Period, int]
    renew_days: Mapping[Period, int]
    grace_days: int


USUAL_TERMS = Terms(days={"month": 62, "year": 366}, renew_days={"month": 20, "year": 60}, grace_days=14)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedLicense:
    """A licence that was issued.

    Attributes:
        license_id: Its id.
        sequence: From 1 on, for each id.
        subscription_id: For which subscription.
        origin: For which device; None serves on any.
        tier: The tier in force when it was issued.
        issued_at: UTC instant.
        not_before: UTC instant from which it serves (inclusive).
        expires_at: UTC instant at which the term ends (exclusive).
        termination_at: UTC instant at which the grace ends (exclusive).
        blob: The licence file.
    """

    license_id: str
    sequence: int
    subscription_id: str
    origin: str | None
    tier: str
    issued_at: datetime
    not_before: datetime
    expires_at: datetime
    termination_at: datetime
    blob: bytes


class Licensing:
    """Issues licences.

    Args:
        database: Where they are kept.
        trail: What every change is written to.
        keys: What licences are signed with.
        clock: The vendor's time.
        terms: How long licences last.
    """

    def __init__(
        self,
        database: Database,
        trail: AuditTrail,
        keys: VendorKeys,
        clock: Clock,
        *,
        terms: Terms = USUAL_TERMS,
    ) -> None:
        self._database = database
        self._trail = trail
        self._keys = keys
        self._clock = clock
        self._terms = terms
        self._accounts = Accounts(database, trail, clock)
        self._devices = Devices(database, trail, keys.trust_root.vendor, clock)

    @property
    def devices(self) -> Devices:
        """The devices that licences are bound to."""
        return self._devices

    def license_for(
        self,
        subscription: Subscription,
        *,
        container_type: str,
        enrolment: bytes | None = None,
        device_public: bytes | None = None,
    ) -> bytes:
        """The licence file that a caller with a key of this subscription gets.

        The one in force, if it says what would be issued now and enough of it is left; else a new one. Without an
        enrolment and without a public key it serves on any device.

        Args:
            subscription: Whose key was sent.
            container_type: What the caller is.
            enrolment: The device's enrolment file.
            device_public: The 32 bytes of the device's public key.

        Raises:
            MismatchError: The subscription is for another container type, or the device belongs to another one.
            UnauthorizedUseError: The subscription is not approved.
            LicensesError: The enrolment is not good, or the licence cannot be issued.
        """
        if container_type != subscription.container_type:
            raise MismatchError(
                f"the subscription {subscription.id} is for {subscription.container_type}, not for "
                f"{container_type[:64]!r}"
            )
        self._keys.issuing_key()  # before the change begins: it may have to be asked for
        with self._database.writing() as tx:
            subscription = self._require_approved(subscription.id)
            device = self._devices.called(tx, subscription, enrolment, device_public)
            if not isinstance(device, ForkError):
                return self.license_in_force(subscription.id, None if device is None else device.origin).blob
        raise device  # after the commit: the fork is kept

    def license_in_force(self, subscription_id: str, origin: str | None) -> IssuedLicense:
        """The licence of a device, or for any device, that serves now: issued before, or else now.

        Raises:
            UnauthorizedUseError: The subscription is not approved.
            MismatchError: The device is not known, or belongs to another subscription.
            LicensesError: It cannot be issued.
        """
        issuer = self._keys.issuer()  # before the change begins: a key may have to be asked for
        with self._database.writing() as tx:
            subscription = self._require_approved(subscription_id)
            device = None if origin is None else self._devices.of(subscription, origin)
            tier = self._accounts.tier(subscription.tier)
            now = self._clock()
            planned = self._plan(tx, issuer, subscription, tier, device, since=now)
            newest = self._newest(tx, subscription_id, origin, begun_by=now)
            if newest is not None and self._still_good(newest, planned, tier, now):
                return newest
            return self._issue(tx, issuer, planned, subscription, device)

    def next_if_due(self, subscription_id: str, origin: str | None) -> IssuedLicense | None:
        """The licence that follows the one in force, if that one ends soon; for the road by file, where it goes ahead.

        It is issued once: as long as it has not begun, or more than enough of it is left, the same one is given again.

        Returns:
            The licence; None when none is due.

        Raises:
            UnauthorizedUseError: The subscription is not approved.
            MismatchError: The device is not known, or belongs to another subscription.
            LicensesError: It cannot be issued.
        """
        issuer = self._keys.issuer()
        with self._database.writing() as tx:
            subscription = self._require_approved(subscription_id)
            device = None if origin is None else self._devices.of(subscription, origin)
            tier = self._accounts.tier(subscription.tier)
            now = self._clock()
            newest = self._newest(tx, subscription_id, origin)
            since = now
            if newest is not None:
                if newest.not_before > now:
                    return newest
                if newest.expires_at - now > self._terms.renew_days[tier.period] * _DAY:
                    return None
                if not tier.overage_allowed and newest.expires_at > now:
                    since = issue.start_of_day(newest.expires_at.date() + _DAY)
            planned = self._plan(tx, issuer, subscription, tier, device, since=since)
            return self._issue(tx, issuer, planned, subscription, device)

    def issue_next(
        self, subscription_id: str, origin: str | None, *, until: date, since: date | None = None
    ) -> IssuedLicense:
        """Issue the next licence of a subscription, for a device or for any.

        Args:
            subscription_id: Whose.
            origin: The device; None serves on any.
            until: The last day of the term.
            since: The first day; None begins now.

        Raises:
            UnauthorizedUseError: The subscription is not approved.
            MismatchError: The device is not known, or belongs to another subscription.
            IssueError: The term is none, or longer than the commitment period where no overage is allowed.
            LicensesError: It cannot be signed.
        """
        issuer = self._keys.issuer()
        with self._database.writing() as tx:
            subscription = self._require_approved(subscription_id)
            device = None if origin is None else self._devices.of(subscription, origin)
            tier = self._accounts.tier(subscription.tier)
            begins = self._clock() if since is None else issue.start_of_day(since)
            planned = self._plan(tx, issuer, subscription, tier, device, since=begins, until=until)
            return self._issue(tx, issuer, planned, subscription, device)

    def licenses(self, subscription_id: str | None = None, *, origin: str | None = None) -> list[IssuedLicense]:
        """All licences issued, or those of a subscription or a device; the newest first."""
        wanted = [
            name for name, value in (("subscription_id", subscription_id), ("origin", origin)) if value is not None
        ]
        where = f"WHERE {' AND '.join(f'{name} = ?' for name in wanted)}" if wanted else ""
        params = [value for value in (subscription_id, origin) if value is not None]
        return list(map(_issued, self._database.query(f"SELECT * FROM license {where} ORDER BY seq DESC", params)))  # noqa: S608

    def newest_licenses(self) -> list[IssuedLicense]:
        """The newest licence of each subscription and device, those that end first at the beginning."""
        rows = self._database.query(
            """SELECT * FROM license WHERE seq IN (SELECT max(seq) FROM license GROUP BY subscription_id, origin)
               ORDER BY expires_at, seq"""
        )
        return list(map(_issued, rows))

    # ---- how it is decided ------------------------------------------------------------------------------------------

    def _require_approved(self, subscription_id: str) -> Subscription:
        subscription = self._accounts.subscription(subscription_id)
        if not subscription.approved:
            raise UnauthorizedUseError(
                f"the subscription {subscription.id} is not approved for {subscription.container_type}"
            )
        return subscription

    def _plan(
        self,
        tx: Transaction,
        issuer: Issuer,
        subscription: Subscription,
        tier: Tier,
        device: Device | None,
        *,
        since: datetime,
        until: date | None = None,
    ) -> License:
        """The terms that would be issued, under the next sequence."""
        words = [subscription.id, "any" if device is None else device.device_id]
        meter = Meter(name=tier.meter, unit=_unit(tier.meter))
        last = until or since.date() + self._terms.days[tier.period] * _DAY
        if not tier.overage_allowed:
            period = commitment_period(tier.period, (since + _SECOND).date())  # a term ends a second before midnight
            if until is not None and until > period.last:
                raise IssueError(
                    f"the tier {tier.name} grants {tier.quantity:,} for {period.label} and no more, so its licence "
                    f"cannot last until {until}",
                    next_step=f"Let it end on {period.last} at the latest, or choose a tier with overage.",
                )
            last = until or period.last
            words.append(period.label)
            meter = Meter(name=tier.meter, unit=meter.unit, soft=tier.quantity * 9 // 10, hard=tier.quantity)
        license_id = _unrevoked(".".join(words), issuer.revoked.license_ids)
        row = tx.one("SELECT max(sequence) AS sequence FROM license WHERE license_id = ?", [license_id])
        now = self._clock()
        try:
            ends = issue.end_of_day(last)
            return License(
                license_id=license_id,
                sequence=1 + ((row or {}).get("sequence") or 0),
                customer=self._accounts.customer(subscription.customer_id).name,
                container_types=(subscription.container_type,),
                issued_at=now,
                not_before=since,
                expires_at=ends,
                termination_at=ends + self._terms.grace_days * _DAY,
                meters=(meter,),
                bindings=Bindings() if device is None else device.bindings,
                device_pubkey=None if device is None else device.public_key,
                ledger_anchor=None if device is None else device.anchor,
                time_anchor=now,
                evaluation=issuer.evaluation,
                key_id=issuer.issuing_key.key_id,
            )
        except FormatError as exc:
            raise IssueError(f"the licence until {last} would be none: {exc}") from exc
        except OverflowError as exc:
            raise IssueError(
                f"the licence until {last} would end beyond the year 9999, with {self._terms.grace_days} days of grace",
                next_step="Give an earlier day.",
            ) from exc

    def _still_good(self, newest: IssuedLicense, planned: License, tier: Tier, now: datetime) -> bool:
        """Whether what was issued last says what would be issued now, and enough of it is left."""
        if newest.expires_at <= now:
            return False
        if tier.overage_allowed and newest.expires_at - now <= self._terms.renew_days[tier.period] * _DAY:
            return False
        try:
            said = open_license(newest.blob, self._keys.trust_root)
        except LicensesError:
            return False  # signed by a key that was rotated out since
        return (
            said.license_id == planned.license_id
            and said.meters == planned.meters
            and said.customer == planned.customer
            and said.bindings == planned.bindings
            and said.device_pubkey == planned.device_pubkey
            and said.container_types == planned.container_types
        )

    def _issue(
        self, tx: Transaction, issuer: Issuer, planned: License, subscription: Subscription, device: Device | None
    ) -> IssuedLicense:
        blob = issue.seal_license(planned, issuer) + b"\n"
        note_key_kind(tx, self._keys, planned.issued_at)
        made = IssuedLicense(
            license_id=planned.license_id,
            sequence=planned.sequence,
            subscription_id=subscription.id,
            origin=None if device is None else device.origin,
            tier=subscription.tier,
            issued_at=planned.issued_at,
            not_before=planned.not_before,
            expires_at=planned.expires_at,
            termination_at=planned.termination_at,
            blob=blob,
        )
        tx.execute(
            """INSERT INTO license(license_id, sequence, subscription_id, origin, tier, issued_at, not_before,
                 expires_at, termination_at, blob) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            [
                made.license_id,
                made.sequence,
                made.subscription_id,
                made.origin,
                made.tier,
                instant_text(made.issued_at),
                instant_text(made.not_before),
                instant_text(made.expires_at),
                instant_text(made.termination_at),
                blob,
            ],
        )
        self._trail.record(
            tx,
            "license.issue",
            made.license_id,
            {
                "sequence": made.sequence,
                "subscription": made.subscription_id,
                "device": made.origin,
                "expires_at": instant_text(made.expires_at),
            },
        )
        return made

    def _newest(
        self, tx: Transaction, subscription_id: str, origin: str | None, *, begun_by: datetime | None = None
    ) -> IssuedLicense | None:
        row = tx.one(
            """SELECT * FROM license WHERE subscription_id = ? AND origin IS ? AND not_before <= ?
               ORDER BY seq DESC LIMIT 1""",
            [subscription_id, origin, "~" if begun_by is None else instant_text(begun_by)],
        )
        return None if row is None else _issued(row)


def _unit(meter: str) -> str:
    return PAGE_UNIT if meter == READ_PAGES_METER else "unit"


def _unrevoked(base: str, revoked: tuple[LicenseId, ...]) -> LicenseId:
    """The id, or the first one after it that was not taken back."""
    license_id, count = LicenseId(base), 1
    while license_id in revoked:
        count += 1
        license_id = LicenseId(f"{base}.r{count}")
    return license_id


def _issued(row: dict[str, Any]) -> IssuedLicense:
    return IssuedLicense(
        license_id=row["license_id"],
        sequence=row["sequence"],
        subscription_id=row["subscription_id"],
        origin=row["origin"],
        tier=row["tier"],
        issued_at=kept_instant(row["issued_at"]),
        not_before=kept_instant(row["not_before"]),
        expires_at=kept_instant(row["expires_at"]),
        termination_at=kept_instant(row["termination_at"]),
        blob=row["blob"],
    )
