"""Second histories of a log: what is known of the first, and what is kept when something contradicts it.

Invariants:

* One log has one root at each size. What is known is compared with from whatever road it came: a report, a bundle, an
  acknowledgement or an enrolment.
* A fork is kept, and is a line of the trail, in the caller's transaction; so a refusal is returned, and raised only
  after the commit. A contradiction for which nothing signed makes a proof is kept without one.
* A device can sign as many histories as it likes. So of one log `MAX_FORKS` are kept, and beyond them one a day: the
  first stays provable, and so does a recent one. What is not kept is refused all the same.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from licenses.authority.audit_trail import AuditTrail
from licenses.authority.database import Transaction
from licenses.errors import ForkError, RecordError
from licenses.keys import VerifyingKey
from licenses.strict_json import canonical, instant_text
from licenses.usage_log.fork import fork_name, prove_fork

MAX_FORKS = 200
"""Second histories of one log that are kept as they come; beyond, one within `FORKS_EVERY`."""
FORKS_EVERY = timedelta(days=1)


def known_roots(tx: Transaction, origin: str, sizes: Iterable[int]) -> dict[int, bytes]:
    """What is known of a log at these sizes: from what arrived, and from what its enrolments showed."""
    wanted = set(sizes)
    if not wanted:
        return {}
    rows = tx.query(
        """SELECT size, root FROM device_anchor WHERE origin = :o AND size BETWEEN :first AND :last
           UNION SELECT size, root FROM known_root WHERE origin = :o AND size BETWEEN :first AND :last""",
        {"o": origin, "first": min(wanted), "last": max(wanted)},
    )
    return {row["size"]: row["root"] for row in rows if row["size"] in wanted}


def proof_of_fork(
    one: str, other: str, device: VerifyingKey, *, root: bytes | None = None, steps: Sequence[bytes] = ()
) -> bytes | None:
    """The portable proof that two checkpoints contradict each other; None if they do not, by themselves.

    They do not where what is contradicted was told by something else than a checkpoint, such as an enrolment.
    """
    try:
        return prove_fork(one, other, device, root=root, proof=steps)
    except RecordError:
        return None


def keep_fork(
    tx: Transaction,
    trail: AuditTrail,
    origin: str,
    *,
    size: int,
    end: int,
    root: bytes,
    proof: bytes | None,
    at: datetime,
) -> ForkError:
    """Keep a fork, if there is room; the same again is not kept twice.

    Args:
        tx: The transaction of the arrival that showed it.
        trail: In the name of who brought that.
        origin: Whose log.
        size: Where the second history has another root than the known one.
        end: How many entries the second history has.
        root: Its root at `size`.
        proof: The portable proof, if there is one.
        at: The vendor's time.

    Returns:
        The refusal, to be raised after the commit.

    Raises:
        AuthorityError: The database refused it.
    """
    cause = f"the first {size} entries of the log {origin} are not those that are known"
    name = "" if proof is None else fork_name(origin, size, end)
    refusal = ForkError(cause, proof=proof, name=name)
    if not _has_room(tx, origin, at):
        return refusal
    digest = content_digest(origin, "fork", size, end, root.hex())
    done = tx.execute(
        "INSERT OR IGNORE INTO fork(origin, at, cause, name, proof, digest) VALUES (?, ?, ?, ?, ?, ?)",
        [origin, instant_text(at), cause, name, proof, digest],
    )
    if done.rows:
        facts = {"size": size, "end": end, "root": root.hex(), "proven": proof is not None}
        trail.record(tx, "device.fork", origin, facts)
    return refusal


def _has_room(tx: Transaction, origin: str, at: datetime) -> bool:
    row = tx.one("SELECT count(*) AS n, max(at) AS newest FROM fork WHERE origin = ?", [origin])
    return row is None or row["n"] < MAX_FORKS or row["newest"] <= instant_text(at - FORKS_EVERY)


def content_digest(*parts: object) -> bytes:
    """SHA-256 over plain JSON values, 32 bytes: the same content has the same."""
    return hashlib.sha256(canonical(list(parts))).digest()
