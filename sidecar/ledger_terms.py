"""What a licence asks of the ledger: that it continues the vendor's checkpoint, and owes not too much.

Invariant: decides nothing itself; the rules are `licenses.verify`'s, the facts are the ledger's. A checkpoint is judged
once, and its root not computed again.
"""

from __future__ import annotations

from datetime import datetime

from licenses.device_key import device_id_of
from licenses.model import READ_PAGES_METER, LedgerAnchor, License
from licenses.verify import anchor_refusal, reporting_refusal
from sidecar.ledger import Ledger
from sidecar.license_mount import LicenseMount


class LedgerTerms:
    """Judges the ledger by the licence in force.

    Args:
        ledger: The ledger.
        licenses: The licence folder, for the log's name.
    """

    def __init__(self, ledger: Ledger, licenses: LicenseMount) -> None:
        self._ledger = ledger
        self._licenses = licenses
        self._judged: tuple[LedgerAnchor, str] | None = None

    def refusal(self, lic: License, at: datetime) -> str:
        """Why the ledger does not meet the licence's terms, in words; empty when it does.

        Args:
            lic: The licence in force.
            at: The effective time, aware UTC.

        Raises:
            LedgerUnavailableError: The ledger cannot be read.
        """
        anchor = lic.ledger_anchor
        if anchor is not None and (refused := self._anchor_refusal(anchor)):
            return refused
        reporting = lic.reporting
        if reporting.max_unacked_days is None and reporting.max_unacked_units is None:
            return ""
        # What the vendor anchored, the vendor has seen: that acknowledges it too.
        acked = self._ledger.acked()
        size = max(anchor.size if anchor else 0, acked.size if acked else 0)
        units, since = self._ledger.used_after(size, READ_PAGES_METER)
        return reporting_refusal(reporting, at=at, unacked_since=since, unacked_units=units) or ""

    def _anchor_refusal(self, anchor: LedgerAnchor) -> str:
        """Judged once for each checkpoint: a ledger that extended it extends it for good.

        Not so where the entries before it are lost: the vendor's next acknowledgement may vouch for them.
        """
        if self._judged is not None and self._judged[0] == anchor:
            return self._judged[1]
        device = self._licenses.device
        if device is None:
            return "there is no device key, so there is no ledger that the licence could continue"
        origin = f"{self._licenses.vendor}/{device_id_of(device.raw)}"
        size = self._ledger.snapshot(READ_PAGES_METER).size
        root = self._root_of(anchor) if anchor.size <= size else None
        refused = anchor_refusal(anchor, origin=origin, size=size, root_at=lambda _: root) or ""
        if root is not None or anchor.size > size:
            self._judged = (anchor, refused)
        return refused

    def _root_of(self, anchor: LedgerAnchor) -> bytes | None:
        """The ledger's root at a checkpoint; None where it was begun anew behind it, and nobody tells the root."""
        root = self._ledger.known_root_at(anchor.size)
        if root is None:
            # The vendor acknowledges only what continues the log that it knows, and its checkpoint is one of that.
            acked = self._ledger.acked()
            if acked is not None and acked.size >= self._ledger.base():
                return anchor.root
        return root
