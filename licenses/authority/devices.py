"""The appliances that the vendor knows, and how they come to be known.

Invariants:

* A device belongs to one subscription. An enrolment, which the device's key signed, is proof; a bare public key, sent
  at first contact, is not: it holds a place until somebody shows the enrolment.
* Of each log the largest checkpoint that is known to be good is remembered; one that contradicts it is a fork.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from licenses.authority.accounts import Accounts, Subscription
from licenses.authority.audit_trail import AuditTrail, Clock
from licenses.authority.database import Database, Transaction, kept_instant
from licenses.authority.forks import keep_fork, known_roots
from licenses.device_key import ROLE, device_id_of
from licenses.enrolment import open_enrolment
from licenses.errors import BusyError, ForkError, FormatError, MismatchError, OutOfQuotaError
from licenses.host import Bindings
from licenses.keys import VerifyingKey, key_id_of
from licenses.model import LedgerAnchor
from licenses.strict_json import instant_text

MAX_DEVICES = 10_000
"""How many devices a subscription may have."""
MAX_ENROLMENTS = 100
"""How many enrolments of one device are taken in within a day."""

NOT_IN_FORCE = (
    "The device is enrolled already, by a newer enrolment that stays in force; this one changed nothing. If the "
    "appliance's clock was wrong when one of the two was made, set it right and make another: 'licenses request'."
)
"""What to tell who brought an enrolment that is older than the one in force."""

_DAY = timedelta(days=1)
_RETRY_SECONDS = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An appliance, as the vendor knows it.

    Attributes:
        origin: Names its log: "<vendor domain>/<device id>".
        subscription_id: The only one whose keys it may use.
        public_key: The 32 bytes of its device key.
        enrolled_at: UTC instant at which it was first heard of.
        last_report_at: UTC instant at which it last reported use; None so far.
        anchor: The largest checkpoint of its log that is known to be good; None so far.
        enrolment: The newest enrolment file; None if only its public key was sent.
    """

    origin: str
    subscription_id: str
    public_key: bytes
    enrolled_at: datetime
    last_report_at: datetime | None
    anchor: LedgerAnchor | None
    enrolment: bytes | None

    @property
    def device_id(self) -> str:
        """16 hexadecimal digits."""
        return self.origin.rpartition("/")[2]

    @property
    def verifying_key(self) -> VerifyingKey:
        """The key that its checkpoints and reports are signed with.

        Raises:
            FormatError: The bytes are no key.
        """
        return _verifying_key(self.public_key)

    @property
    def bindings(self) -> Bindings:
        """The host factors of its enrolment; none without one.

        Raises:
            LicensesError: The enrolment in the database is damaged.
        """
        return Bindings() if self.enrolment is None else open_enrolment(self.enrolment).bindings

    def is_enrolled_by(self, enrolment_blob: bytes) -> bool:
        """Whether this enrolment is the one in force; one that is older than that changed nothing.

        Raises:
            LicensesError: It is not good, or the one in the database is damaged.
        """
        return self.enrolment is not None and open_enrolment(self.enrolment) == open_enrolment(enrolment_blob)


class Devices:
    """Enrols devices, and remembers what their logs showed.

    Args:
        database: Where they are kept.
        trail: What every change is written to.
        vendor: The vendor's domain, which names their logs.
        clock: The vendor's time.
    """

    def __init__(self, database: Database, trail: AuditTrail, vendor: str, clock: Clock) -> None:
        self._database = database
        self._trail = trail
        self._vendor = vendor
        self._clock = clock
        self._accounts = Accounts(database, trail, clock)

    def enrol(self, enrolment_blob: bytes, subscription_id: str) -> Device:
        """Take in an enrolment; one that was taken in before, or is older than that, changes nothing.

        `Device.is_enrolled_by` tells which of the two it was.

        Args:
            enrolment_blob: The file, from `licenses request`.
            subscription_id: Whose device it is.

        Raises:
            MismatchError: The device belongs to another subscription, or its log to another vendor.
            ForkError: Its log is not the one that is known.
            AccountError: There is no such subscription.
            LicensesError: The file is malformed, or not signed by the key that it enrols.
        """
        with self._database.writing() as tx:
            done = self._enrol(tx, enrolment_blob, subscription_id)
        if isinstance(done, ForkError):
            raise done
        return done

    def register(self, device_public: bytes, subscription_id: str) -> Device:
        """Take in a device at first contact by its public key alone.

        Raises:
            MismatchError: It belongs to another subscription.
            AccountError: There is no such subscription.
            FormatError: It is no key.
        """
        origin = self._origin(device_public)
        with self._database.writing() as tx:
            self._accounts.subscription(subscription_id)
            row = _device_row(tx, origin)
            if row is None:
                self._require_room(tx, origin, subscription_id)
                self._keep_device(tx, origin, subscription_id, device_public, None, made_at=None)
            else:
                _require_same_key(row, origin, device_public)
                _require_owner(row, subscription_id)
        return self.one(origin)

    def one(self, origin: str) -> Device:
        """One device.

        Raises:
            MismatchError: It is not known.
        """
        row = _device_row(self._database, origin)
        if row is None:
            raise MismatchError(
                f"the device {origin[:200]!r} is not enrolled",
                next_step="Enrol it: 'licenses request' on the appliance, then 'licenses authority enrol' here.",
            )
        return _device(row)

    def all(self, subscription_id: str | None = None) -> list[Device]:
        """All devices, or those of a subscription, by origin."""
        wanted, params = ("", []) if subscription_id is None else ("WHERE subscription_id = ?", [subscription_id])
        return list(map(_device, self._database.query(f"SELECT * FROM device_now {wanted} ORDER BY origin", params)))  # noqa: S608

    def note_report(self, origin: str, at: datetime) -> None:
        """Remember that a device reported; an earlier time than is known changes nothing."""
        with self._database.writing() as tx:
            tx.execute(
                """INSERT INTO device_report(origin, last_report_at) VALUES (?, ?)
                   ON CONFLICT(origin) DO UPDATE SET last_report_at = max(last_report_at, excluded.last_report_at)""",
                [origin, instant_text(at)],
            )

    def note_checkpoint(self, anchor: LedgerAnchor) -> None:
        """Remember a checkpoint that is known to be good; later licences continue the largest.

        Raises:
            ForkError: Another root is known for that size.
        """
        with self._database.writing() as tx:
            fork = self._keep_anchor(tx, anchor)
        if fork is not None:
            raise fork

    def called(
        self, tx: Transaction, subscription: Subscription, enrolment: bytes | None, device_public: bytes | None
    ) -> Device | ForkError | None:
        """The device of a caller: enrolled or registered by what it sent; None if it names none.

        Args:
            tx: The change that it is a part of.
            subscription: Whose key was sent.
            enrolment: The device's enrolment file.
            device_public: The 32 bytes of its public key.

        Returns:
            The device; or, to be raised after the commit, the fork that the enrolment shows.

        Raises:
            MismatchError: The two are of different devices, or it belongs to another subscription.
            LicensesError: The enrolment is not good, or the key is none.
        """
        if enrolment is not None:
            device = self._enrol(tx, enrolment, subscription.id)
            if isinstance(device, ForkError):
                return device
            if device_public is not None and device.public_key != device_public:
                raise MismatchError("the enrolment is of another device than the public key sent with it")
            return device
        return None if device_public is None else self.register(device_public, subscription.id)

    def of(self, subscription: Subscription, origin: str) -> Device:
        """One device of a subscription.

        Raises:
            MismatchError: It is not known, or belongs to another one.
        """
        device = self.one(origin)
        if device.subscription_id != subscription.id:
            raise MismatchError(f"the device {origin} belongs to another subscription than {subscription.id}")
        return device

    # ---- how it is decided ------------------------------------------------------------------------------------------

    def _enrol(self, tx: Transaction, enrolment_blob: bytes, subscription_id: str) -> Device | ForkError:
        """Take in an enrolment; a fork that it shows is kept, and is to be raised after the commit."""
        enrolment = open_enrolment(enrolment_blob)
        origin = self._origin(enrolment.device_public)
        anchor = enrolment.last_checkpoint
        if anchor is not None and anchor.origin != origin:
            raise MismatchError(
                f"the device's log is named {anchor.origin}, and would be {origin} here",
                next_step="Install this vendor's trust root on the appliance before it keeps records.",
            )
        self._accounts.subscription(subscription_id)
        row = _device_row(tx, origin)
        if row is not None:
            _require_same_key(row, origin, enrolment.device_public)
            if row["enrolment"] is not None:
                _require_owner(row, subscription_id)
            if _is_newer(tx, row, enrolment.created_at):
                row = None
        if anchor is not None:
            fork = self._keep_anchor(tx, anchor)
            if fork is not None:
                return fork
        if row is None:
            self._require_room(tx, origin, subscription_id)
            self._keep_device(
                tx, origin, subscription_id, enrolment.device_public, enrolment_blob, made_at=enrolment.created_at
            )
        return self.one(origin)

    def _origin(self, device_public: bytes) -> str:
        if len(device_public) != 32:
            raise FormatError(
                "a device's public key has 32 bytes",
                next_step="Send the bare bytes of the Ed25519 key, in hexadecimal.",
            )
        _verifying_key(device_public)
        return f"{self._vendor}/{device_id_of(device_public)}"

    def _require_room(self, tx: Transaction, origin: str, subscription_id: str) -> None:
        """Nobody fills the books with devices that do not exist, or with one device's enrolments."""
        known = tx.one(
            """SELECT count(*) AS enrolments, coalesce(sum(at > ?), 0) AS today FROM device_enrolment
               WHERE origin = ?""",
            [instant_text(self._clock() - _DAY), origin],
        ) or {"enrolments": 0, "today": 0}
        if known["today"] >= MAX_ENROLMENTS:
            raise BusyError(
                f"{MAX_ENROLMENTS} enrolments of {origin} were taken in within a day", retry_after=_RETRY_SECONDS
            )
        if known["enrolments"]:
            return
        devices = tx.one(
            "SELECT count(DISTINCT origin) AS n FROM device_enrolment WHERE subscription_id = ?", [subscription_id]
        )
        if devices is not None and devices["n"] >= MAX_DEVICES:
            raise OutOfQuotaError(
                f"the subscription {subscription_id} has {MAX_DEVICES:,} devices, as many as it may",
                next_step="Begin another subscription for more devices.",
            )

    def _keep_device(
        self,
        tx: Transaction,
        origin: str,
        subscription_id: str,
        public_key: bytes,
        enrolment: bytes | None,
        *,
        made_at: datetime | None,
    ) -> None:
        tx.execute(
            """INSERT INTO device_enrolment(origin, subscription_id, public_key, enrolment, made_at, at)
               VALUES (?, ?, ?, ?, ?, ?)""",
            [
                origin,
                subscription_id,
                public_key,
                enrolment,
                None if made_at is None else instant_text(made_at),
                instant_text(self._clock()),
            ],
        )
        action = "device.register" if enrolment is None else "device.enrol"
        self._trail.record(tx, action, origin, {"subscription": subscription_id})

    def _keep_anchor(self, tx: Transaction, anchor: LedgerAnchor) -> ForkError | None:
        """Remember a checkpoint, as far as what is known of the log lets it be judged; or the fork that it is."""
        origin, size = anchor.origin, anchor.size
        known = known_roots(tx, origin, [size]).get(size)
        if known not in {None, anchor.root}:
            return keep_fork(
                tx, self._trail, origin, size=size, end=size, root=anchor.root, proof=None, at=self._clock()
            )
        if known is None and tx.one(
            "SELECT 1 FROM span WHERE origin = ? AND since < ? AND size > ?", [origin, size, size]
        ):
            # Inside of a stretch that is billed: it may be of another history, and no licence may ask for that one.
            return None
        tx.execute(
            "INSERT OR IGNORE INTO device_anchor(origin, size, root, at) VALUES (?, ?, ?, ?)",
            [origin, size, anchor.root, instant_text(self._clock())],
        )
        return None


def _verifying_key(raw: bytes) -> VerifyingKey:
    try:
        public = Ed25519PublicKey.from_public_bytes(raw)
    except ValueError as exc:
        raise FormatError("a device's public key is an Ed25519 key", next_step="Send 'device.pub' anew.") from exc
    return VerifyingKey(key_id_of(public, ROLE), public)


def _is_newer(tx: Transaction, row: dict[str, Any], made_at: datetime) -> bool:
    """Whether an enrolment made at that time, by the device's clock, follows the one in force.

    The one in force was made by the vendor's time of its arrival, whatever its own says: else one that was made while
    the device's clock was years ahead would keep out all that follow.
    """
    if row["made_at"] is None:
        return True
    made = instant_text(made_at)
    if made <= min(row["made_at"], row["at"]):
        return False
    return tx.one("SELECT 1 FROM device_enrolment WHERE origin = ? AND made_at = ?", [row["origin"], made]) is None


def _require_same_key(row: dict[str, Any], origin: str, public_key: bytes) -> None:
    if row["public_key"] != public_key:
        raise MismatchError(f"another key than that of {origin} has the same device id")


def _require_owner(row: dict[str, Any], subscription_id: str) -> None:
    if row["subscription_id"] != subscription_id:
        raise MismatchError(
            f"the device {row['origin']} belongs to another subscription",
            next_step="Use a key of the subscription that the device was enrolled with.",
        )


def _device_row(source: Database | Transaction, origin: str) -> dict[str, Any] | None:
    return source.one("SELECT * FROM device_now WHERE origin = ?", [origin])


def _device(row: dict[str, Any]) -> Device:
    reported, size = row["last_report_at"], row["anchor_size"]
    return Device(
        origin=row["origin"],
        subscription_id=row["subscription_id"],
        public_key=row["public_key"],
        enrolled_at=kept_instant(row["enrolled_at"]),
        last_report_at=None if reported is None else kept_instant(reported),
        anchor=None if size is None else LedgerAnchor(origin=row["origin"], size=size, root=row["anchor_root"]),
        enrolment=row["enrolment"],
    )
