"""Vendors, licences and leases for tests: everything signed is really signed, and every instant is given.

vendor = a_vendor()
blob = vendor.seal(a_license(page_limit=100))
vendor.install(tmp_path, a_license())       # trust-root.json and license/license.dat
"""

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

from licenses import issue
from licenses.issue import Issuer
from licenses.keyring import KeyId, SigningKey, TrustRoot
from licenses.lease import Lease
from licenses.model import CONTAINER_TYPE, PAGE_UNIT, READ_PAGES_METER, License, LicenseId, Meter

NOW = datetime(2027, 1, 15, 12, 0, tzinfo=UTC)
"""A Friday noon at which `a_license()` is valid."""

VENDOR_DOMAIN = "vendor.example"


@dataclasses.dataclass(frozen=True)
class FakeVendor:
    """A vendor with new keys in memory; each call of `a_vendor` makes another."""

    keys: issue.Vendor

    @property
    def trust_root(self) -> TrustRoot:
        return self.keys.trust_root

    @property
    def trust_root_blob(self) -> bytes:
        return self.keys.trust_root_blob

    @property
    def issuing_key(self) -> SigningKey:
        return self.keys.issuing_key

    @property
    def issuer(self) -> Issuer:
        return Issuer(trust_root=self.trust_root, issuing_key=self.issuing_key)

    def seal(self, lic: License | None = None) -> bytes:
        """A licence file, as the vendor would issue it."""
        return issue.seal_license(a_license() if lic is None else lic, self.issuer)

    def install(self, folder: Path, lic: License | None = None) -> tuple[Path, Path]:
        """Write `trust-root.json` and `license/license.dat` under a folder; return the two paths."""
        root_path, license_path = folder / "trust-root.json", folder / "license" / "license.dat"
        license_path.parent.mkdir(parents=True, exist_ok=True)
        root_path.write_bytes(self.trust_root_blob)
        license_path.write_bytes(self.seal(lic))
        return root_path, license_path


def a_vendor(*, evaluation: bool = False, domain: str = VENDOR_DOMAIN) -> FakeVendor:
    """A vendor with new keys."""
    return FakeVendor(issue.generate_vendor(domain=domain, evaluation=evaluation, at=NOW - timedelta(days=365)))


def a_license(*, page_limit: int | None = None, **changes: object) -> License:
    """A licence that is valid at `NOW`: a year from 1 January 2027, 14 days of grace, floating, without page limit.

    Args:
        page_limit: A hard limit of pages, for short.
        changes: Any field of License.
    """
    meter = Meter(name=READ_PAGES_METER, unit=PAGE_UNIT, hard=page_limit)
    lic = License(
        license_id=LicenseId("6f1c2a9e-0d2b-4d8e-9a57-3f1f6d1f2b10"),
        sequence=1,
        customer="St. Example's Hospital",
        container_types=(CONTAINER_TYPE,),
        issued_at=datetime(2026, 12, 1, 9, 30, tzinfo=UTC),
        not_before=datetime(2027, 1, 1, tzinfo=UTC),
        expires_at=datetime(2027, 12, 31, 23, 59, 59, tzinfo=UTC),
        termination_at=datetime(2028, 1, 14, 23, 59, 59, tzinfo=UTC),
        meters=(meter,),
        key_id=KeyId("issuing-0000000000000000"),
    )
    return dataclasses.replace(lic, **changes)  # type: ignore[arg-type]


def a_lease(**changes: object) -> Lease:
    """A lease for `a_license()`, of 20 minutes from boottime 1 000 000 ms on."""
    lease = Lease(
        license_id=a_license().license_id,
        license_sequence=1,
        instance="c0ffee123456",
        boot_id="2f0d6c9a-91f5-4b43-8d8d-1c5f7a6f0e11",
        from_boottime_ms=1_000_000,
        until_boottime_ms=1_000_000 + 20 * 60 * 1000,
        effective_ms=int(NOW.timestamp() * 1000),
        serial=1,
    )
    return dataclasses.replace(lease, **changes)  # type: ignore[arg-type]
