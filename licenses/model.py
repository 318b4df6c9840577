"""What a licence says, as a value that is hard to get wrong.

Invariants:

* A `License` is complete and consistent, or it does not exist; outside tests and the vendor's side only
  `licenses.verify` makes one, from a payload whose signature held.
* Every instant is aware UTC to the second; `not_before` is inclusive, `expires_at` and `termination_at` are exclusive.
* Unknown, missing and duplicate members are refused: what this version does not understand it does not half obey.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NewType

from licenses.errors import FormatError
from licenses.host import Bindings
from licenses.keys import KeyId
from licenses.strict_json import MAX_INTEGER, Fields, JsonValue, canonical, instant_text, parse_object

LicenseId = NewType("LicenseId", str)

SCHEMA = 1
PRODUCT = "tollgate"
CONTAINER_TYPE = "computervisionread"
READ_PAGES_METER = "CognitiveServices.ComputerVision.Container.ReadPages"
PAGE_UNIT = "page"
MAX_REVOKED_LICENSES = 512
MAX_REVOKED_KEYS = 64

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_VERSION = re.compile(r"(?:0|[1-9][0-9]{0,5})(?:\.(?:0|[1-9][0-9]{0,5})){0,3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """What is counted, and how much of it is granted for the whole term.

    Attributes:
        name: The meter's public name.
        unit: What one count is.
        soft: Count from which to warn; None warns never.
        hard: Count that the grant ends with; None is without limit.
        overage_allowed: Whether to serve beyond `hard`, and bill it.
    """

    name: str
    unit: str
    soft: int | None = None
    hard: int | None = None
    overage_allowed: bool = False

    def __post_init__(self) -> None:
        _must_match("meter name", self.name, _WORD)
        _must_match("meter unit", self.unit, _WORD)
        for limit in (self.soft, self.hard):
            if limit is not None and (type(limit) is not int or not 0 <= limit <= MAX_INTEGER):
                raise FormatError("a meter's limits must be whole numbers from 0 on")
        if self.soft is not None and self.hard is not None and self.soft > self.hard:
            raise FormatError("a meter's soft limit lies above its hard limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporting:
    """How much may stay without the vendor's acknowledgement; None is without limit."""

    max_unacked_days: int | None = None
    max_unacked_units: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerAnchor:
    """A checkpoint that the presented ledger must extend: origin, number of entries, Merkle root."""

    origin: str
    size: int
    root: bytes

    def to_members(self) -> dict[str, object]:
        """The plain JSON members."""
        return {"origin": self.origin, "size": self.size, "root": self.root.hex()}

    @classmethod
    def from_fields(cls, fields: Fields) -> "LedgerAnchor":
        """Read what `to_members` wrote.

        Raises:
            FormatError: It is something else.
        """
        anchor = cls(
            origin=fields.text("origin"), size=fields.integer("size"), root=fields.hex_bytes("root", length=32)
        )
        fields.end()
        return anchor


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """What the vendor has taken back; `sequence` grows with each addition, and nothing is ever left out again."""

    sequence: int = 0
    license_ids: tuple[LicenseId, ...] = ()
    key_ids: tuple[KeyId, ...] = ()

    def __post_init__(self) -> None:
        if self.sequence == 0 and (self.license_ids or self.key_ids):
            raise FormatError("a list of revocations must have a sequence from 1 on")

    def to_members(self) -> dict[str, object]:
        """The plain JSON members."""
        return {"sequence": self.sequence, "license_ids": list(self.license_ids), "key_ids": list(self.key_ids)}

    @classmethod
    def from_fields(cls, fields: Fields) -> "Revoked":
        """Read what `to_members` wrote.

        Raises:
            FormatError: It is something else.
        """
        revoked = cls(
            sequence=fields.integer("sequence"),
            license_ids=tuple(map(LicenseId, fields.texts("license_ids", max_items=MAX_REVOKED_LICENSES))),
            key_ids=tuple(map(KeyId, fields.texts("key_ids", max_items=MAX_REVOKED_KEYS))),
        )
        fields.end()
        return revoked


@dataclass(frozen=True, slots=True, kw_only=True)
class License:
    """One grant.

    Attributes:
        license_id: Stays the same over all renewals.
        sequence: Grows with every renewal of the same id; an older one is refused once a newer was in force.
        customer: To whom it is granted.
        product: Always `PRODUCT`.
        container_types: The kinds of container that it serves.
        features: Extra things granted, by name.
        evaluation: Whether everything done under it is marked as evaluation.
        issued_at: UTC instant of issue.
        not_before: UTC instant from which it serves (inclusive).
        expires_at: UTC instant at which the paid term ends (exclusive).
        termination_at: UTC instant at which the grace after that ends (exclusive).
        bindings: The hosts that it is for.
        meters: What is counted and granted.
        reporting: How much may stay unacknowledged.
        device_pubkey: The 32 public bytes of the only device key that it is for; None is any.
        ledger_anchor: The checkpoint that the ledger must extend; None is any.
        revoked: What the vendor takes back with this file.
        time_anchor: UTC instant that the vendor vouches has passed; None says nothing.
        min_version: The oldest product version that may serve under it; None is any.
        key_id: Who signed it.
    """

    license_id: LicenseId
    sequence: int
    customer: str
    container_types: tuple[str, ...]
    issued_at: datetime
    not_before: datetime
    expires_at: datetime
    termination_at: datetime
    meters: tuple[Meter, ...]
    key_id: KeyId
    evaluation: bool = False
    schema: int = SCHEMA
    product: str = PRODUCT
    features: tuple[str, ...] = ()
    bindings: Bindings = field(default_factory=Bindings)
    reporting: Reporting = field(default_factory=Reporting)
    device_pubkey: bytes | None = None
    ledger_anchor: LedgerAnchor | None = None
    revoked: Revoked = field(default_factory=Revoked)
    time_anchor: datetime | None = None
    min_version: str | None = None

    def __post_init__(self) -> None:
        _must_match("license_id", self.license_id, _ID)
        if self.schema != SCHEMA or self.product != PRODUCT:
            raise FormatError(f"schema {self.schema} of the product {self.product!r} is not for this version")
        if self.sequence < 1:
            raise FormatError("sequence must be 1 or more")
        if not self.container_types:
            raise FormatError("the licence names no container type")
        for word in (*self.container_types, *self.features):
            _must_match("container type or feature", word, _WORD)
        instants = [self.issued_at, self.not_before, self.expires_at, self.termination_at]
        for at in (*instants, self.time_anchor or self.issued_at):
            if at.utcoffset() != timedelta(0) or at.microsecond:
                raise FormatError("licence instants must be UTC, to the second")
        if not self.not_before < self.expires_at <= self.termination_at:
            raise FormatError("the licence must begin before it expires, and expire no later than its grace ends")
        if len({meter.name for meter in self.meters}) != len(self.meters):
            raise FormatError("the licence names the same meter twice")
        if self.device_pubkey is not None and len(self.device_pubkey) != 32:
            raise FormatError("device_pubkey must have 32 bytes")
        if self.min_version is not None:
            _must_match("min_version", self.min_version, _VERSION)

    def is_used_up(self, pages: int) -> bool:
        """Whether so many pages are all that it grants; what allows overage, or has no limit, is never used up."""
        granted = self.meter()
        if granted is None or granted.hard is None or granted.overage_allowed:
            return False
        return pages >= granted.hard

    def meter(self, name: str = READ_PAGES_METER) -> Meter | None:
        """The meter of that name, if the licence grants any of it."""
        return next((meter for meter in self.meters if meter.name == name), None)

    def to_payload(self) -> bytes:
        """The bytes that are signed; `key_id` is not among them, the signature itself tells."""
        members: dict[str, object] = {
            "schema": self.schema,
            "license_id": self.license_id,
            "sequence": self.sequence,
            "customer": self.customer,
            "product": self.product,
            "container_types": list(self.container_types),
            "features": list(self.features),
            "evaluation": self.evaluation,
            "issued_at": instant_text(self.issued_at),
            "not_before": instant_text(self.not_before),
            "expires_at": instant_text(self.expires_at),
            "termination_at": instant_text(self.termination_at),
            "bindings": self.bindings.to_members(),
            "meters": [_without_none(_meter_members(meter)) for meter in self.meters],
            "reporting": _without_none(
                {
                    "max_unacked_days": self.reporting.max_unacked_days,
                    "max_unacked_units": self.reporting.max_unacked_units,
                }
            ),
            "device_pubkey": None if self.device_pubkey is None else self.device_pubkey.hex(),
            "ledger_anchor": None if self.ledger_anchor is None else self.ledger_anchor.to_members(),
            "revoked": self.revoked.to_members(),
            "time_anchor": None if self.time_anchor is None else instant_text(self.time_anchor),
            "min_version": self.min_version,
        }
        return canonical(_without_none(members))

    @classmethod
    def from_payload(cls, payload: bytes, *, key_id: KeyId) -> "License":
        """Read a payload whose signature held.

        Args:
            payload: What was signed.
            key_id: Who signed it.

        Raises:
            FormatError: It is no licence that this version understands in full.
        """
        fields = parse_object(payload, what="licence")
        lic = cls(
            key_id=key_id,
            schema=fields.integer("schema"),
            license_id=LicenseId(fields.text("license_id")),
            sequence=fields.integer("sequence"),
            customer=fields.text("customer"),
            product=fields.text("product"),
            container_types=fields.texts("container_types", max_length=64),
            features=fields.texts("features", max_length=64),
            evaluation=fields.flag("evaluation"),
            issued_at=fields.instant("issued_at"),
            not_before=fields.instant("not_before"),
            expires_at=fields.instant("expires_at"),
            termination_at=fields.instant("termination_at"),
            bindings=Bindings.from_fields(fields.nested("bindings")),
            meters=tuple(_meter_from(record) for record in fields.nested_list("meters", max_items=16)),
            reporting=_reporting_from(fields.nested("reporting")),
            device_pubkey=fields.hex_bytes("device_pubkey", length=32) if fields.has("device_pubkey") else None,
            ledger_anchor=LedgerAnchor.from_fields(fields.nested("ledger_anchor"))
            if fields.has("ledger_anchor")
            else None,
            revoked=Revoked.from_fields(fields.nested("revoked")),
            time_anchor=fields.instant("time_anchor") if fields.has("time_anchor") else None,
            min_version=fields.text("min_version", max_length=32) if fields.has("min_version") else None,
        )
        fields.end()
        return lic


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, so that versions can be compared; "3.2.0-local" gives (3, 2, 0, 0)."""
    found = _VERSION.match(version)
    numbers = [] if found is None else [int(part) for part in found.group().split(".")]
    return tuple((*numbers, 0, 0, 0, 0)[:4])


def _meter_members(meter: Meter) -> dict[str, JsonValue]:
    return {
        "name": meter.name,
        "unit": meter.unit,
        "soft": meter.soft,
        "hard": meter.hard,
        "overage_allowed": meter.overage_allowed,
    }


def _meter_from(fields: Fields) -> Meter:
    meter = Meter(
        name=fields.text("name"),
        unit=fields.text("unit"),
        soft=_optional_integer(fields, "soft"),
        hard=_optional_integer(fields, "hard"),
        overage_allowed=fields.flag("overage_allowed"),
    )
    fields.end()
    return meter


def _reporting_from(fields: Fields) -> Reporting:
    reporting = Reporting(
        max_unacked_days=_optional_integer(fields, "max_unacked_days"),
        max_unacked_units=_optional_integer(fields, "max_unacked_units"),
    )
    fields.end()
    return reporting


def _optional_integer(fields: Fields, name: str) -> int | None:
    return fields.integer(name) if fields.has(name) else None


def _without_none(members: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not None}


def _must_match(what: str, value: str, pattern: re.Pattern[str]) -> None:
    if pattern.fullmatch(value) is None:
        raise FormatError(f"{what} {value[:80]!r} does not match {pattern.pattern}")
