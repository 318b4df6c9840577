"""A vendor's side for tests: a real database, real keys, enrolled devices that keep real records.

books = VendorBooks(tmp_path)
device = books.device()
device.meter.window(uses=3)
books.take(device.report())
books.intake.take_bundle(None, device.bundle())
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from licenses import issue
from licenses.ack import Ack, open_ack
from licenses.authority.accounts import Accounts, Subscription
from licenses.authority.audit_trail import AuditTrail
from licenses.authority.database import Database, open_database
from licenses.authority.intake import Acknowledged, Intake, Received
from licenses.authority.licensing import Licensing
from licenses.authority.vendor_keys import VendorKeys
from licenses.enrolment import Enrolment
from licenses.host import Bindings
from licenses.model import CONTAINER_TYPE, READ_PAGES_METER, LedgerAnchor
from licenses.usage_log.entry import leaf_hash
from licenses.usage_log.files import sequence_range
from licenses.usage_log.merkle import consistency_proof, root_of
from licenses.usage_log.note import sign_checkpoint
from licenses.usage_report import UsageReport, UsageRequest, seal_report
from tests.fakes.bundles import a_bundle
from tests.fakes.licences import NOW, a_vendor
from tests.fakes.records import FakeMeter

LATER = NOW + timedelta(days=3)


@dataclass
class FakeSite:
    """One appliance, as it reports."""

    meter: FakeMeter
    folder: Path
    container_type: str = "ComputerVision.ComputerVisionRead"

    @property
    def origin(self) -> str:
        return self.meter.origin

    @property
    def windows(self) -> list[tuple[int, int]]:
        """First entry and end of each window."""
        found = [sequence_range(path.name) for path in self.meter.files]
        return [one for one in found if one is not None]

    def used(self, since: int = 0, size: int | None = None) -> int:
        """Pages in these entries."""
        lines = [json.loads(line) for line in self.meter.lines[since:size]]
        return sum(line["meter"]["quantity"] for line in lines if line["kind"] == "use")

    def enrolment(self) -> bytes:
        """Its enrolment file."""
        anchor = None
        if self.meter.files:
            size = self.windows[-1][1]
            root = root_of(map(leaf_hash, self.meter.lines[:size]))
            anchor = LedgerAnchor(origin=self.origin, size=size, root=root)
        return Enrolment(
            device_public=self.meter.device.verifying.raw,
            bindings=Bindings(),
            created_at=NOW,
            product_version="0.1.0",
            first_checkpoint=anchor,
            last_checkpoint=anchor,
        ).seal(self.meter.device)

    def report(
        self, window: int = -1, *, until: int | None = None, proven: bool = True, **changes: object
    ) -> UsageReport:
        """What it would report of one window, or of several in a row."""
        windows = self.windows
        since, size = windows[window][0], windows[window if until is None else until][1]
        leaves = [leaf_hash(line) for line in self.meter.lines[:size]]
        months: Counter[str] = Counter()
        entry = {}
        for line in self.meter.lines[since:size]:
            entry = json.loads(line)
            if entry["kind"] == "use":
                months[f"{datetime.fromtimestamp(entry['effective_ms'] / 1000, UTC):%Y-%m}"] += entry["meter"][
                    "quantity"
                ]
        members = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.origin}/{since}/{size}")),
            "origin": self.origin,
            "since": since,
            "size": size,
            "checkpoint": sign_checkpoint(self.origin, size, root_of(leaves), self.meter.device),
            "totals": {READ_PAGES_METER: dict(months)} if months else {},
            "closed_at": datetime.fromtimestamp(entry["effective_ms"] // 1000, UTC),
            "license_id": self.meter.license_id,
            "product_version": "0.1.0",
            "since_root": root_of(leaves[:since]) if since and proven else None,
            "proof": tuple(consistency_proof(leaves, since)) if since and proven else (),
        }
        return UsageReport(**{**members, **changes})

    def body(self, report: UsageReport, **changes: object) -> bytes:
        """The request that carries a report."""
        request = UsageRequest(
            id=report.id,
            container_type=self.container_type,
            container_version="0.1.0",
            container_id=self.meter.instance,
            meter=READ_PAGES_METER,
            quantity=report.quantity(READ_PAGES_METER),
            request_time=1893456000,
            api_type="computervision",
            report=seal_report(report, self.meter.device),
        )
        return replace(request, **changes).to_body()

    def bundle(self, since: int = 0, **options: object) -> Path:
        """A bundle of what it has so far, in a folder of its own."""
        folder = self.folder / f"out-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        return a_bundle(self.meter, folder, since, **options)

    def copy(self) -> FakeSite:
        """The same appliance from an image of its disk, to go on elsewhere."""
        clone = FakeMeter.__new__(FakeMeter)
        state = {name: (list(value) if isinstance(value, list) else value) for name, value in vars(self.meter).items()}
        clone.__dict__.update(state)
        clone.frontier = type(self.meter.frontier)(*self.meter.frontier.to_tuple())
        place = self.folder / f"clone-{uuid.uuid4().hex[:8]}"
        clone.folder = place / "computervisionread" / self.meter.instance
        if self.meter.folder.exists():
            shutil.copytree(self.meter.folder, clone.folder)
        clone.files = [clone.folder / path.relative_to(self.meter.folder) for path in self.meter.files]
        return FakeSite(clone, place, self.container_type)


class VendorBooks:
    """The vendor's side in one folder: keys, database, one customer with one subscription, and a clock to set."""

    def __init__(
        self,
        folder: Path,
        *,
        quantity: int = 1_000_000,
        period: str = "year",
        overage_allowed: bool = True,
        evaluation: bool = False,
        at: datetime = LATER,
    ) -> None:
        self.folder, self.at = folder, at
        self.vendor = a_vendor(evaluation=evaluation)
        self.keys_folder = folder / "keys"
        issue.save_vendor(self.vendor.keys, self.keys_folder)
        self.path = folder / "books" / "authority.db"
        self.open()
        self.customer = self.accounts.add_customer("St. Example's Hospital")
        self.accounts.add_tier(
            "tier", meter=READ_PAGES_METER, quantity=quantity, period=period, overage_allowed=overage_allowed
        )
        self.subscription_id = self.accounts.add_subscription(
            self.customer.id, container_type=CONTAINER_TYPE, tier="tier"
        ).id

    @classmethod
    def reopened(cls, folder: Path, *, at: datetime = LATER) -> VendorBooks:
        """The same books in another process; `vendor` and `customer` are not at hand there."""
        books = cls.__new__(cls)
        books.folder, books.at = folder, at
        books.keys_folder, books.path = folder / "keys", folder / "books" / "authority.db"
        books.open()
        books.subscription_id = books.accounts.subscriptions()[0].id
        return books

    def open(self) -> None:
        """Open the database, as after a start."""
        self.database: Database = open_database(self.path, create=True)
        self.trail = AuditTrail(self.database, self.clock, actor="test")
        self.keys = VendorKeys(self.keys_folder)
        self.accounts = Accounts(self.database, self.trail, self.clock)
        self.licensing = Licensing(self.database, self.trail, self.keys, self.clock)
        self.intake = Intake(self.database, self.trail, self.accounts, self.licensing, self.keys, self.clock)

    def clock(self) -> datetime:
        return self.at

    @property
    def subscription(self) -> Subscription:
        return self.accounts.subscription(self.subscription_id)

    def site(self, *, enrolled: bool = True, subscription_id: str | None = None) -> FakeSite:
        """A new appliance, enrolled before its first window."""
        place = self.folder / f"site-{uuid.uuid4().hex[:8]}"
        site = FakeSite(FakeMeter(place / "output", vendor=self.vendor.trust_root.vendor), place)
        if enrolled:
            self.licensing.devices.enrol(site.enrolment(), subscription_id or self.subscription_id)
        return site

    def take(self, site: FakeSite, report: UsageReport, **changes: object) -> Received:
        """Deliver a report over the wire."""
        return self.intake.take_report(self.subscription, site.body(report, **changes))

    def take_bundle(self, path: Path, **options: object) -> Acknowledged:
        """Hand in a bundle."""
        return self.intake.take_bundle(self.subscription, path, **options)

    def opened(self, site: FakeSite, blob: bytes) -> Ack:
        """An acknowledgement, as the appliance would verify it."""
        return open_ack(blob, self.keys.trust_root, device=site.meter.device.verifying)

    def billed(self, origin: str | None = None) -> int:
        """Pages billed, in all or of one log."""
        rows = self.database.query(
            "SELECT quantity FROM amount WHERE kind <> 'ack' AND (? IS NULL OR origin = ?)", [origin, origin]
        )
        return sum(row["quantity"] for row in rows)

    def findings(self) -> list[str]:
        """The codes of all findings kept."""
        return [row["code"] for row in self.database.query("SELECT code FROM finding ORDER BY seq")]

    def rows(self) -> Iterator[tuple[str, int]]:
        """How many rows each table has; to see that nothing was kept."""
        for table in ("arrival", "report", "span", "amount", "known_root", "checkpoint", "ack", "fork", "finding"):
            row = self.database.one(f"SELECT count(*) AS count FROM {table}")
            yield table, row["count"] if row else 0
