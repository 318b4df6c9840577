"""Host binding: a licence may name the machine that it is for, without telling anybody what machine that is.

Invariants:

* A licence holds salted HMACs of host factors, never the factors; the salt is the licence's own.
* A factor that cannot be read matches nothing; k of the n factors must match, so one swapped part does no harm.
* The operator-set id is the one factor that looks the same inside and outside a container.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from licenses.errors import FormatError
from licenses.strict_json import Fields, canonical, parse_object

SALT_BYTES = 16
MAX_FACTORS = 16
_MAX_FACT_BYTES = 512
_PLACEHOLDERS = frozenset(
    {"", "none", "unknown", "not specified", "to be filled by o.e.m.", "default string", "system serial number"}
)


class FactorName(StrEnum):
    """What of a host may be bound; the values are wire format."""

    MACHINE_ID = "machine_id"
    PRODUCT_UUID = "product_uuid"
    DISK_SERIAL = "disk_serial"
    OPERATOR_ID = "operator_id"


@dataclass(frozen=True, slots=True)
class Factor:
    """One bound fact: which kind, and its salted HMAC-SHA256."""

    name: FactorName
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Bindings:
    """The hosts that a licence is for.

    Attributes:
        threshold: How many factors must match; 0 with no factors is a floating licence.
        factors: The bound facts.
        salt: Key of the HMACs, this licence's own.
    """

    threshold: int = 0
    factors: tuple[Factor, ...] = ()
    salt: bytes = b""

    def __post_init__(self) -> None:
        if len(self.factors) > MAX_FACTORS:
            raise FormatError(f"{len(self.factors)} bound factors are too many, the limit is {MAX_FACTORS}")
        if not (1 if self.factors else 0) <= self.threshold <= len(self.factors):
            raise FormatError(f"a binding cannot want {self.threshold} of {len(self.factors)} factors")
        if len(set(self.factors)) != len(self.factors):
            raise FormatError("a binding holds the same factor twice")
        if self.factors and len(self.salt) != SALT_BYTES:
            raise FormatError(f"a binding's salt must have {SALT_BYTES} bytes")

    @property
    def floating(self) -> bool:
        """Whether any host will do."""
        return not self.factors

    def to_members(self) -> dict[str, object]:
        """The plain JSON members."""
        return {
            "threshold": self.threshold,
            "factors": [{"name": factor.name.value, "digest": factor.digest.hex()} for factor in self.factors],
            **({"salt": self.salt.hex()} if self.factors else {}),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> "Bindings":
        """Read what `to_members` wrote.

        Raises:
            FormatError: It is something else.
        """
        factors: list[Factor] = []
        for record in fields.nested_list("factors", max_items=MAX_FACTORS):
            name = record.text("name")
            if name not in list(FactorName):
                raise FormatError(f"a binding names the factor {name!r}, which this version does not know")
            factors.append(Factor(FactorName(name), record.hex_bytes("digest", length=32)))
            record.end()
        bindings = cls(
            threshold=fields.integer("threshold", maximum=MAX_FACTORS),
            factors=tuple(factors),
            salt=fields.hex_bytes("salt", length=SALT_BYTES) if factors else b"",
        )
        fields.end()
        return bindings

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Bindings":
        """Read a factor file, as the customer sends it to the vendor.

        Raises:
            FormatError: It is something else.
        """
        return cls.from_fields(parse_object(blob, what="factor file"))

    def to_bytes(self) -> bytes:
        """The factor file."""
        return canonical(self.to_members()) + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFactors:
    """The facts of one host; None or empty for what could not be read.

    Attributes:
        machine_id: Of the operating system installation; another one inside most containers.
        product_uuid: Of the mainboard or virtual machine; readable by root only.
        disk_serials: Of every disk that tells one; each may match.
        operator_id: What the operator configured.
    """

    machine_id: str | None = None
    product_uuid: str | None = None
    disk_serials: tuple[str, ...] = ()
    operator_id: str | None = None

    def known(self) -> Iterator[tuple[FactorName, str]]:
        """Every fact that is known, in a fixed order."""
        if self.machine_id:
            yield FactorName.MACHINE_ID, self.machine_id
        if self.product_uuid:
            yield FactorName.PRODUCT_UUID, self.product_uuid
        for serial in self.disk_serials:
            yield FactorName.DISK_SERIAL, serial
        if self.operator_id:
            yield FactorName.OPERATOR_ID, self.operator_id

    def matches(self, bindings: Bindings) -> int:
        """How many of the bound factors this host has."""
        ours = [(name, factor_digest(bindings.salt, name, value)) for name, value in self.known()]
        return sum(
            any(name == factor.name and hmac.compare_digest(digest, factor.digest) for name, digest in ours)
            for factor in bindings.factors
        )

    def is_bound_by(self, bindings: Bindings) -> bool:
        """Whether enough factors match."""
        return self.matches(bindings) >= bindings.threshold

    def bind(
        self,
        *,
        threshold: int | None = None,
        salt: bytes | None = None,
        names: Sequence[FactorName] = tuple(FactorName),
    ) -> Bindings:
        """Make the salted factors that bind a licence to this host.

        Args:
            threshold: How many must match later; by default all but one, at least one.
            salt: SALT_BYTES bytes; by default new random ones.
            names: The kinds of facts to bind.

        Raises:
            FormatError: No such fact is known, or the threshold is out of reach.
        """
        chosen_salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
        factors = [
            Factor(name, factor_digest(chosen_salt, name, value)) for name, value in self.known() if name in names
        ][:MAX_FACTORS]
        if not factors:
            raise FormatError(
                "nothing of this host can be bound: none of its facts could be read",
                next_step="Run as root to read the product UUID and disk serials, or set an operator id.",
            )
        wanted = max(1, len(factors) - 1) if threshold is None else threshold
        return Bindings(threshold=wanted, factors=tuple(factors), salt=chosen_salt)


def factor_digest(salt: bytes, name: FactorName, value: str) -> bytes:
    """HMAC-SHA256 over the kind and the normalised fact."""
    return hmac.digest(salt, f"{name.value}\0{_normalised(value)}".encode(), hashlib.sha256)


def collect(*, operator_id: str | None = None, filesystem: Path = Path("/")) -> HostFactors:
    """Read the facts of this host; whatever cannot be read is left out.

    Args:
        operator_id: What the operator configured, if anything.
        filesystem: Where `etc` and `sys` are.
    """
    return HostFactors(
        machine_id=_fact(filesystem / "etc/machine-id"),
        product_uuid=_fact(filesystem / "sys/class/dmi/id/product_uuid"),
        disk_serials=_disk_serials(filesystem / "sys/block"),
        operator_id=operator_id or None,
    )


def _disk_serials(blocks: Path) -> tuple[str, ...]:
    try:
        disks = sorted(disk for disk in blocks.iterdir() if not re.match(r"(?:loop|ram|zram|dm-|md|sr|fd)", disk.name))
    except OSError:
        return ()
    found: list[str] = []
    for disk in disks[:MAX_FACTORS]:
        serial = next(filter(None, (_fact(disk / part) for part in ("device/serial", "serial", "device/wwid"))), None)
        if serial is not None and serial not in found:
            found.append(serial)
    return tuple(found)


def _fact(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_FACT_BYTES).decode("utf-8", errors="replace").strip("\0 \t\r\n")
    except (OSError, ValueError):
        return None
    return None if _normalised(text) in _PLACEHOLDERS or set(text) <= set("0-") else text


def _normalised(value: str) -> str:
    return " ".join(value.casefold().split())
