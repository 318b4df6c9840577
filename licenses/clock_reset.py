"""The clock reset: the vendor's leave, for one device and once, to let the effective time go down.

Invariants:

* Everything else only ever raises the effective time. A clock that ran far ahead and was believed (a wrong year,
  confirmed by hand) is the one reason to lower it, and only the vendor can.
* A token is bound to one licence id and to one device key, is good for a short while, and is used once: the caller
  keeps the ids of those used, in the same transaction that lowers the time and writes the `clock` entry.
* The host's own clock must be set right before: the token says from when to when that is, so a stolen token is worth
  nothing later.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from licenses import envelope
from licenses.device_key import device_id_of
from licenses.errors import FormatError
from licenses.keyring import TrustRoot
from licenses.keys import KeyId
from licenses.strict_json import canonical, instant_text, parse_object
from licenses.verify import day_text

MAX_RESET_BYTES = 16 * 1024
LONGEST = timedelta(days=31)

_TOKEN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReset:
    """Leave to lower the effective time.

    Attributes:
        token_id: Names this token; each is used once.
        license_id: The licence in whose place it may be used.
        device_public: The 32 public bytes of the device that may use it.
        not_earlier_than: UTC instant below which the effective time may not go (inclusive).
        issued_at: UTC instant of issue.
        expires_at: UTC instant from which it is worth nothing (exclusive).
        key_id: Who signed it.
        evaluation: Whether an evaluation key signed it.
    """

    token_id: str
    license_id: str
    device_public: bytes
    not_earlier_than: datetime
    issued_at: datetime
    expires_at: datetime
    key_id: KeyId
    evaluation: bool = False

    def __post_init__(self) -> None:
        if _TOKEN_ID.fullmatch(self.token_id) is None:
            raise FormatError("a clock reset's token_id must be a UUID in lower case")
        if len(self.device_public) != 32:
            raise FormatError("a clock reset's device_pubkey must have 32 bytes")
        if not self.issued_at < self.expires_at <= self.issued_at + LONGEST:
            raise FormatError(f"a clock reset must expire within {LONGEST.days} days of its issue")
        if self.not_earlier_than > self.issued_at:
            raise FormatError("a clock reset's lower bound may not lie after its issue")

    def refusal(
        self, *, wall: datetime, license_id: str, device_public: bytes | None, used_token_ids: Collection[str]
    ) -> str | None:
        """Why the token is not honoured, in words; None when it is.

        Args:
            wall: What the host's clock says now, aware UTC; it must have been set right.
            license_id: The licence in force.
            device_public: The 32 public bytes of this device's key.
            used_token_ids: Of all tokens that were honoured here before.
        """
        if self.token_id in used_token_ids:
            return f"the clock reset {self.token_id} was used before; each is good once"
        if license_id != self.license_id:
            return f"the clock reset is for the licence {self.license_id}, in force is {license_id}"
        if device_public != self.device_public:
            return f"the clock reset is for the device {device_id_of(self.device_public)}, not for this one"
        if wall < self.not_earlier_than:
            return f"the host's clock says {day_text(wall)}, before {day_text(self.not_earlier_than)}: set it first"
        if wall >= self.expires_at:
            return f"the clock reset was good until {day_text(self.expires_at)}; the host's clock says {day_text(wall)}"
        return None

    def lowered(self, wall: datetime) -> datetime:
        """The effective time once the token is honoured: what the host's clock says, never below the lower bound."""
        return max(wall, self.not_earlier_than)

    def to_payload(self) -> bytes:
        """The bytes that are signed."""
        return canonical(
            {
                "schema": 1,
                "token_id": self.token_id,
                "license_id": self.license_id,
                "device_pubkey": self.device_public.hex(),
                "not_earlier_than": instant_text(self.not_earlier_than),
                "issued_at": instant_text(self.issued_at),
                "expires_at": instant_text(self.expires_at),
            }
        )


def open_clock_reset(blob: bytes, trust_root: TrustRoot) -> ClockReset:
    """Verify a clock reset and read it; whether it is honoured now is for `ClockReset.refusal` to say.

    Raises:
        LicensesError: It is malformed, or not signed as the trust root demands.
    """
    opened = trust_root.open_issued(blob, envelope.CLOCK_RESET_TYPE, max_bytes=MAX_RESET_BYTES)
    fields = parse_object(opened.payload, what="clock reset")
    fields.integer("schema", minimum=1, maximum=1)
    reset = ClockReset(
        token_id=fields.text("token_id", max_length=36),
        license_id=fields.text("license_id", max_length=64),
        device_public=fields.hex_bytes("device_pubkey", length=32),
        not_earlier_than=fields.instant("not_earlier_than"),
        issued_at=fields.instant("issued_at"),
        expires_at=fields.instant("expires_at"),
        key_id=opened.signers[0].key_id,
        evaluation=trust_root.evaluation or any(key.evaluation for key in opened.signers),
    )
    fields.end()
    return reset
