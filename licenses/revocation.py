"""Revocation: what the vendor has taken back, as a file that needs no new licence.

Invariants:

* The vendor's list only ever grows, and its `sequence` with it; every licence issued later carries the whole list too.
* A revocation is signed by an issuing key, as a licence is, and lies in the licence folder beside the licences.
* A revocation grants nothing, and one under an evaluation key takes nothing back from production.
"""

from dataclasses import dataclass
from datetime import datetime

from licenses import envelope
from licenses.errors import FormatError
from licenses.keyring import TrustRoot
from licenses.keys import KeyId
from licenses.model import Revoked
from licenses.strict_json import canonical, instant_text, parse_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """A list of what is taken back.

    Attributes:
        revoked: The list, whole.
        issued_at: UTC instant of issue.
        key_id: Who signed it.
        evaluation: Whether an evaluation key signed it.
    """

    revoked: Revoked
    issued_at: datetime
    key_id: KeyId
    evaluation: bool = False

    def to_payload(self) -> bytes:
        """The bytes that are signed."""
        return canonical({"schema": 1, "issued_at": instant_text(self.issued_at), "revoked": self.revoked.to_members()})


def open_revocation(blob: bytes, trust_root: TrustRoot) -> Revocation:
    """Verify a revocation file and read it.

    Raises:
        LicensesError: It is malformed, or not signed as the trust root demands.
    """
    opened = trust_root.open_issued(blob, envelope.REVOCATION_TYPE)
    fields = parse_object(opened.payload, what="revocation")
    fields.integer("schema", minimum=1, maximum=1)
    revocation = Revocation(
        issued_at=fields.instant("issued_at"),
        revoked=Revoked.from_fields(fields.nested("revoked")),
        key_id=opened.signers[0].key_id,
        evaluation=trust_root.evaluation or any(key.evaluation for key in opened.signers),
    )
    fields.end()
    return revocation


def is_revocation(blob: bytes) -> bool:
    """Whether the file claims to be a revocation; nothing is believed yet."""
    try:
        return envelope.unverified_payload(blob).payload_type == envelope.REVOCATION_TYPE
    except FormatError:
        return False
