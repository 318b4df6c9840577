"""The lease: the meter's short, signed word to the core that reading is metered now.

Invariants:

* A lease is sealed by the device key and names one licence, one instance and one boot of the host.
* Its window is half-open and measured on CLOCK_BOOTTIME: no step of the wall clock prolongs it, and it never
  outlives a reboot.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from licenses import envelope
from licenses.errors import FormatError
from licenses.keys import SigningKey, VerifyingKey
from licenses.strict_json import canonical, parse_object

MAX_LEASE_BYTES = 4096
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_MS = 253_402_300_800_000  # the year 10000
_BOOT_ID = re.compile(r"[0-9A-Za-z-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Leave to read, for one window.

    Attributes:
        license_id: The licence under which the meter counts.
        license_sequence: Its sequence.
        instance: The meter's instance id.
        boot_id: The boot of the host that it was minted in.
        from_boottime_ms: Start of the window, CLOCK_BOOTTIME in milliseconds (inclusive).
        until_boottime_ms: Its end (exclusive).
        effective_ms: The effective time at `from_boottime_ms`, in milliseconds since 1970 UTC.
        serial: Grows with each lease of an instance.
    """

    license_id: str
    license_sequence: int
    instance: str
    boot_id: str
    from_boottime_ms: int
    until_boottime_ms: int
    effective_ms: int
    serial: int

    def __post_init__(self) -> None:
        if not 0 <= self.from_boottime_ms < self.until_boottime_ms:
            raise FormatError("a lease must begin before it ends")
        if not 0 <= self.effective_ms + (self.until_boottime_ms - self.from_boottime_ms) < _MAX_MS:
            raise FormatError("a lease's effective time is out of range")

    def refusal(self, *, boot_id: str, boottime_ms: int, license_id: str, sequence: int) -> str | None:
        """Why the lease is not honoured, in words; None when it is.

        Args:
            boot_id: The boot that the host runs in.
            boottime_ms: Its CLOCK_BOOTTIME, in milliseconds.
            license_id: The licence in force where the lease is presented.
            sequence: Its sequence.
        """
        if boot_id != self.boot_id:
            return "the lease was minted before the host was restarted"
        if boottime_ms < self.from_boottime_ms:
            return "the lease's window has not begun"
        if boottime_ms >= self.until_boottime_ms:
            return f"the lease ended {(boottime_ms - self.until_boottime_ms) // 1000} s ago"
        if (license_id, sequence) != (self.license_id, self.license_sequence):
            return (
                f"the lease is for licence {self.license_id} sequence {self.license_sequence}, "
                f"in force is {license_id} sequence {sequence}"
            )
        return None

    def effective_at(self, boottime_ms: int) -> datetime:
        """The effective time at a CLOCK_BOOTTIME of the same boot, aware UTC; clamped to the window."""
        inside = min(max(boottime_ms, self.from_boottime_ms), self.until_boottime_ms)
        return _EPOCH + timedelta(milliseconds=self.effective_ms + inside - self.from_boottime_ms)

    def to_payload(self) -> bytes:
        """The bytes that are signed."""
        return canonical(
            {
                "schema": 1,
                "license_id": self.license_id,
                "license_sequence": self.license_sequence,
                "instance": self.instance,
                "boot_id": self.boot_id,
                "from_boottime_ms": self.from_boottime_ms,
                "until_boottime_ms": self.until_boottime_ms,
                "effective_ms": self.effective_ms,
                "serial": self.serial,
            }
        )


def seal_lease(lease: Lease, key: SigningKey) -> bytes:
    """Sign a lease with the device key."""
    return envelope.seal(lease.to_payload(), envelope.LEASE_TYPE, [key])


def open_lease(blob: bytes, device_public: VerifyingKey) -> Lease:
    """Verify a lease and read it; whether it is honoured now is for `Lease.refusal` to say.

    Raises:
        LicensesError: It is malformed, or not signed by this device.
    """
    keys = {device_public.key_id: device_public}
    payload = envelope.open_envelope(blob, envelope.LEASE_TYPE, keys, max_bytes=MAX_LEASE_BYTES)
    fields = parse_object(payload, what="lease")
    fields.integer("schema", minimum=1, maximum=1)
    lease = Lease(
        license_id=fields.text("license_id", max_length=64),
        license_sequence=fields.integer("license_sequence", minimum=1),
        instance=fields.text("instance", max_length=64),
        boot_id=fields.text("boot_id", pattern=_BOOT_ID),
        from_boottime_ms=fields.integer("from_boottime_ms"),
        until_boottime_ms=fields.integer("until_boottime_ms"),
        effective_ms=fields.integer("effective_ms"),
        serial=fields.integer("serial"),
    )
    fields.end()
    return lease
