"""The vendor's books for tests of customers, devices and licences; a real database, new keys, a clock set by hand.

books = a_books(tmp_path)
subscription = books.a_subscription()
device = books.a_device()
books.licensing.devices.enrol(device.enrolment(at=books.clock.now), subscription.id)
"""

import dataclasses
from datetime import datetime, timedelta
from pathlib import Path

from licenses import issue
from licenses.authority.accounts import Accounts, Period, Subscription
from licenses.authority.audit_trail import AuditTrail
from licenses.authority.database import Database, open_database
from licenses.authority.licensing import Licensing
from licenses.authority.vendor_keys import VendorKeys
from licenses.enrolment import Enrolment
from licenses.host import Bindings
from licenses.keys import SigningKey
from licenses.model import CONTAINER_TYPE, READ_PAGES_METER, LedgerAnchor
from tests.fakes.licences import NOW, FakeVendor, a_vendor


@dataclasses.dataclass
class HandClock:
    """The vendor's time; it stands still until it is set."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def move(self, step: timedelta) -> datetime:
        """Go on, or back."""
        self.now += step
        return self.now


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    """An appliance's key, and what it would write into an enrolment."""

    key: SigningKey
    vendor: str

    @property
    def public(self) -> bytes:
        return self.key.verifying.raw

    @property
    def origin(self) -> str:
        return f"{self.vendor}/{self.key.key_id.rpartition('-')[2]}"

    def anchor(self, size: int, fill: int = 7) -> LedgerAnchor:
        """A checkpoint of its log; the root is 32 times the same byte."""
        return LedgerAnchor(origin=self.origin, size=size, root=bytes([fill]) * 32)

    def enrolment(
        self, *, at: datetime = NOW, anchor: LedgerAnchor | None = None, bindings: Bindings | None = None
    ) -> bytes:
        return Enrolment(
            device_public=self.public,
            bindings=bindings or Bindings(),
            created_at=at,
            product_version="3.2.0",
            first_checkpoint=anchor,
            last_checkpoint=anchor,
        ).seal(self.key)


@dataclasses.dataclass(frozen=True)
class FakeBooks:
    """Everything that the vendor's side is made of, but for usage."""

    folder: Path
    vendor: FakeVendor
    clock: HandClock
    database: Database
    trail: AuditTrail
    accounts: Accounts
    keys: VendorKeys
    licensing: Licensing

    def a_subscription(
        self,
        *,
        customer: str = "St. Example's Hospital",
        quantity: int = 1000,
        period: Period = "year",
        overage: bool = False,
        container_type: str = CONTAINER_TYPE,
        approved: bool = True,
    ) -> Subscription:
        """A subscription, with the customer and the tier that it needs."""
        known = {one.name: one for one in self.accounts.customers()}
        who = known.get(customer) or self.accounts.add_customer(customer)
        tier = f"{quantity}-{period}{'-more' if overage else ''}"
        if tier not in {one.name for one in self.accounts.tiers()}:
            self.accounts.add_tier(
                tier, meter=READ_PAGES_METER, quantity=quantity, period=period, overage_allowed=overage
            )
        return self.accounts.add_subscription(who.id, container_type=container_type, tier=tier, approved=approved)

    def a_device(self) -> FakeDevice:
        return FakeDevice(SigningKey.generate("device"), self.vendor.trust_root.vendor)

    def again(self) -> "FakeBooks":
        """The same books, opened anew as another process would."""
        return _open(self.folder, self.vendor, self.clock)


def a_books(folder: Path, *, vendor: FakeVendor | None = None, now: datetime = NOW) -> FakeBooks:
    """New and empty books in a folder."""
    vendor = vendor or a_vendor()
    issue.save_vendor(vendor.keys, folder / "vendor")
    open_database(folder / "authority.db", create=True).close()
    return _open(folder, vendor, HandClock(now))


def _open(folder: Path, vendor: FakeVendor, clock: HandClock) -> FakeBooks:
    database = open_database(folder / "authority.db")
    trail = AuditTrail(database, clock, actor="test")
    keys = VendorKeys(folder / "vendor")
    return FakeBooks(
        folder=folder,
        vendor=vendor,
        clock=clock,
        database=database,
        trail=trail,
        accounts=Accounts(database, trail, clock),
        keys=keys,
        licensing=Licensing(database, trail, keys, clock),
    )
