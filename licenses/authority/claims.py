"""What an acknowledgement covers and is not known here: claimed, and billed when its entries come.

Invariant: a claim's units count in acknowledged totals alone. Entries that come take their place, so that the totals
stay what was signed, until all of them are there; then the totals are those of the entries.
"""

import json
from collections import Counter
from datetime import datetime

from licenses.authority.arrivals import Evidence, Source, month_of, per_meter, units_text
from licenses.authority.database import Transaction
from licenses.authority.findings import Findings
from licenses.authority.stretches import (
    billed_stretches,
    charge,
    charged,
    missing_before,
    uncovered,
)
from licenses.errors import RecordError
from licenses.strict_json import instant_text
from licenses.usage_log.report import Severity


def carry(tx: Transaction, source: Source, evidence: Evidence, *, arrival: int, at: datetime, found: Findings) -> None:
    """Believe the vendor's own acknowledgement for what is not known here; that was billed elsewhere."""
    ack = evidence.carried
    if ack is None:
        return
    if ack.root != evidence.since_root:
        raise RecordError("the acknowledgement in the bundle is of another history than its records")
    holes = missing_before(tx, source.origin, ack.size)
    if not holes:
        return
    known = per_meter(charged(tx, source.origin, 0, ack.size))
    told = {meter: ack.totals.get(meter, 0) - known.get(meter, 0) for meter in sorted({*ack.totals, *known})}
    month = month_of(ack.acknowledged_at)
    for since, size in holes:
        tx.execute(
            "INSERT INTO claim(origin, since, size, acked, month, told, arrival) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [source.origin, since, size, ack.size, month, json.dumps(told), arrival],
        )
    sums = {(meter, month): quantity for meter, quantity in told.items() if quantity}
    charge(tx, source, ack.size, sums, kind="ack", at=at)
    found.keep(
        Severity.GAP,
        "billed_elsewhere",
        where=f"[0, {ack.size})",
        message=f"An acknowledgement of {instant_text(ack.acknowledged_at)} covers entries not known here, "
        f"{units_text(sums)}; they are not billed here. If nothing else billed them, have all records sent: 'sidecar "
        "usage export --all'; what they bear out is billed then.",
    )


def settle_claims(tx: Transaction, source: Source, since: int, size: int, at: datetime) -> None:
    """Take back what an acknowledgement told of entries that came and were billed: each of them counts once."""
    acks = {
        row["acked"]: row
        for row in tx.query(
            "SELECT * FROM claim WHERE origin = ? AND since < ? AND size > ?", [source.origin, size, since]
        )
    }
    for acked, row in acks.items():
        parts = [
            (one["since"], one["size"])
            for one in tx.query("SELECT * FROM claim WHERE origin = ? AND acked = ?", [source.origin, acked])
        ]
        rest: Counter[str] = Counter()
        if any(uncovered(billed_stretches(tx, source.origin, *part), *part) for part in parts):
            rest.update(json.loads(row["told"]))
            for part in parts:
                rest.subtract(per_meter(charged(tx, source.origin, *part, but="ack")))
        now = tx.query(
            """SELECT meter, sum(quantity) AS n FROM amount
               WHERE origin = ? AND size = ? AND kind = 'ack' GROUP BY meter""",
            [source.origin, acked],
        )
        rest.subtract({one["meter"]: one["n"] for one in now})
        sums = {(meter, row["month"]): quantity for meter, quantity in rest.items() if quantity}
        charge(tx, source, acked, sums, kind="ack", at=at)
