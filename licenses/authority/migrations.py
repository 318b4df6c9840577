"""The schema of the authority's database, as migrations that are never edited after release.

Invariants:

* Rows that tell what happened (customers, keys, licences, usage, acknowledgements, the audit trail) are append-only:
  triggers refuse to change or delete them. What is in force now is the newest row, never one that was changed.
* Instants are text of the form 2027-01-15T12:00:00Z, so that they sort; flags are 0 or 1; all tables are STRICT.

Plain SQL without a library: each room that keeps something adds a migration of its own at the end of `MIGRATIONS`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema.

    Attributes:
        name: Stays the same for ever; the database remembers it.
        statements: Run in order, in one transaction with the note that they ran.
    """

    name: str
    statements: tuple[str, ...]


def append_only(table: str) -> tuple[str, str]:
    """The triggers that keep a table's rows as they were written.

    `INSERT OR REPLACE` is refused as well: the connections of `database` run delete triggers for it.
    """
    return (
        f"""CREATE TRIGGER {table}_is_never_changed BEFORE UPDATE ON {table}
            BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END""",
        f"""CREATE TRIGGER {table}_is_never_deleted BEFORE DELETE ON {table}
            BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END""",
    )


_AUDIT = Migration(
    "m001_audit_trail",
    (
        """CREATE TABLE audit(
             seq INTEGER PRIMARY KEY,
             at TEXT NOT NULL,
             actor TEXT NOT NULL,
             action TEXT NOT NULL,
             subject TEXT NOT NULL,
             facts TEXT NOT NULL,
             hash BLOB NOT NULL CHECK (length(hash) = 32)
           ) STRICT""",
        "CREATE INDEX audit_by_subject ON audit(subject, seq)",
        *append_only("audit"),
    ),
)

_ACCOUNTS = Migration(
    "m002_accounts",
    (
        """CREATE TABLE customer(
             id TEXT PRIMARY KEY,
             name TEXT NOT NULL UNIQUE,
             created_at TEXT NOT NULL
           ) STRICT""",
        """CREATE TABLE tier(
             name TEXT PRIMARY KEY,
             meter TEXT NOT NULL,
             quantity INTEGER NOT NULL CHECK (quantity >= 0),
             period TEXT NOT NULL CHECK (period IN ('month', 'year')),
             overage_allowed INTEGER NOT NULL CHECK (overage_allowed IN (0, 1)),
             created_at TEXT NOT NULL
           ) STRICT""",
        """CREATE TABLE subscription(
             id TEXT PRIMARY KEY,
             customer_id TEXT NOT NULL REFERENCES customer(id),
             container_type TEXT NOT NULL,
             created_at TEXT NOT NULL
           ) STRICT""",
        "CREATE INDEX subscription_by_customer ON subscription(customer_id)",
        """CREATE TABLE subscription_change(
             seq INTEGER PRIMARY KEY,
             subscription_id TEXT NOT NULL REFERENCES subscription(id),
             tier TEXT NOT NULL REFERENCES tier(name),
             approved INTEGER NOT NULL CHECK (approved IN (0, 1)),
             at TEXT NOT NULL
           ) STRICT""",
        "CREATE INDEX subscription_change_of ON subscription_change(subscription_id, seq)",
        """CREATE TABLE api_key(
             digest BLOB PRIMARY KEY CHECK (length(digest) = 32),
             subscription_id TEXT NOT NULL REFERENCES subscription(id),
             slot INTEGER NOT NULL CHECK (slot IN (1, 2)),
             created_at TEXT NOT NULL
           ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX api_key_of ON api_key(subscription_id, slot)",
        """CREATE TABLE api_key_end(
             digest BLOB PRIMARY KEY REFERENCES api_key(digest),
             reason TEXT NOT NULL CHECK (reason IN ('regenerated', 'revoked')),
             at TEXT NOT NULL
           ) STRICT, WITHOUT ROWID""",
        """CREATE VIEW subscription_now(id, customer_id, container_type, tier, approved, created_at) AS
             SELECT s.id, s.customer_id, s.container_type, c.tier, c.approved, s.created_at
             FROM subscription s JOIN subscription_change c ON c.seq =
               (SELECT max(seq) FROM subscription_change WHERE subscription_id = s.id)""",
        *append_only("customer"),
        *append_only("tier"),
        *append_only("subscription"),
        *append_only("subscription_change"),
        *append_only("api_key"),
        *append_only("api_key_end"),
    ),
)

_LICENSING = Migration(
    "m003_licensing",
    (
        """CREATE TABLE device_enrolment(
             seq INTEGER PRIMARY KEY,
             origin TEXT NOT NULL,
             subscription_id TEXT NOT NULL REFERENCES subscription(id),
             public_key BLOB NOT NULL CHECK (length(public_key) = 32),
             enrolment BLOB,
             made_at TEXT,
             at TEXT NOT NULL
           ) STRICT""",
        "CREATE INDEX device_enrolment_of ON device_enrolment(origin, seq)",
        "CREATE INDEX device_enrolment_for ON device_enrolment(subscription_id, origin)",
        """CREATE TABLE device_anchor(
             origin TEXT NOT NULL,
             size INTEGER NOT NULL CHECK (size >= 0),
             root BLOB NOT NULL CHECK (length(root) = 32),
             at TEXT NOT NULL,
             PRIMARY KEY (origin, size)
           ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE device_report(
             origin TEXT PRIMARY KEY,
             last_report_at TEXT NOT NULL
           ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE license(
             seq INTEGER PRIMARY KEY,
             license_id TEXT NOT NULL,
             sequence INTEGER NOT NULL CHECK (sequence >= 1),
             subscription_id TEXT NOT NULL REFERENCES subscription(id),
             origin TEXT,
             tier TEXT NOT NULL REFERENCES tier(name),
             issued_at TEXT NOT NULL,
             not_before TEXT NOT NULL,
             expires_at TEXT NOT NULL,
             termination_at TEXT NOT NULL,
             blob BLOB NOT NULL,
             UNIQUE (license_id, sequence)
           ) STRICT""",
        "CREATE INDEX license_of ON license(subscription_id, origin, seq)",
        "CREATE INDEX license_by_expiry ON license(expires_at)",
        """CREATE VIEW device_now(origin, subscription_id, public_key, enrolment, made_at, enrolled_at, at,
                                last_report_at, anchor_size, anchor_root) AS
             SELECT e.origin, e.subscription_id, e.public_key, e.enrolment, e.made_at,
               (SELECT at FROM device_enrolment WHERE origin = e.origin ORDER BY seq LIMIT 1), e.at,
               r.last_report_at, a.size, a.root
             FROM device_enrolment e
             LEFT JOIN device_report r ON r.origin = e.origin
             LEFT JOIN device_anchor a ON a.origin = e.origin
               AND a.size = (SELECT max(size) FROM device_anchor WHERE origin = e.origin)
             WHERE e.seq = (SELECT max(seq) FROM device_enrolment WHERE origin = e.origin)""",
        *append_only("device_enrolment"),
        *append_only("device_anchor"),
        *append_only("license"),
    ),
)

_ACCOUNTING = Migration(
    "m004_accounting",
    (
        """CREATE TABLE arrival(
             id INTEGER PRIMARY KEY,
             at TEXT NOT NULL,
             road TEXT NOT NULL CHECK (road IN ('report', 'bundle')),
             subscription_id TEXT NOT NULL REFERENCES subscription(id),
             origin TEXT NOT NULL,
             since INTEGER NOT NULL CHECK (since >= 0),
             size INTEGER NOT NULL CHECK (size > since),
             root BLOB NOT NULL CHECK (length(root) = 32),
             closed_at TEXT NOT NULL,
             digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32)
           ) STRICT""",
        "CREATE INDEX arrival_of ON arrival(origin, id)",
        """CREATE TABLE report(
             id TEXT PRIMARY KEY,
             arrival INTEGER NOT NULL REFERENCES arrival(id)
           ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE told(
             arrival INTEGER NOT NULL REFERENCES arrival(id),
             meter TEXT NOT NULL,
             month TEXT NOT NULL,
             quantity INTEGER NOT NULL CHECK (quantity > 0),
             PRIMARY KEY (arrival, meter, month)
           ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE plain_report(
             id TEXT PRIMARY KEY,
             subscription_id TEXT NOT NULL REFERENCES subscription(id),
             at TEXT NOT NULL,
             container_id TEXT NOT NULL,
             meter TEXT NOT NULL,
             quantity INTEGER NOT NULL CHECK (quantity >= 0)
           ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE span(
             origin TEXT NOT NULL,
             since INTEGER NOT NULL CHECK (since >= 0),
             size INTEGER NOT NULL CHECK (size > since),
             source TEXT NOT NULL CHECK (source IN ('report', 'bundle', 'ack')),
             linked INTEGER NOT NULL CHECK (linked IN (0, 1)),
             arrival INTEGER NOT NULL REFERENCES arrival(id),
             PRIMARY KEY (origin, since)
           ) STRICT, WITHOUT ROWID""",
        """CREATE TRIGGER span_is_billed_once BEFORE INSERT ON span
           WHEN (SELECT size FROM span WHERE origin = NEW.origin AND since < NEW.size ORDER BY since DESC LIMIT 1)
                > NEW.since
           BEGIN SELECT RAISE(ABORT, 'entries of this log are billed already'); END""",
        """CREATE TABLE verified(
             origin TEXT NOT NULL,
             since INTEGER NOT NULL CHECK (since >= 0),
             size INTEGER NOT NULL CHECK (size > since),
             sums TEXT NOT NULL,
             arrival INTEGER NOT NULL REFERENCES arrival(id),
             PRIMARY KEY (origin, since)
           ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE amount(
             seq INTEGER PRIMARY KEY,
             subscription_id TEXT NOT NULL REFERENCES subscription(id),
             origin TEXT,
             size INTEGER,
             meter TEXT NOT NULL,
             month TEXT NOT NULL,
             billed_month TEXT NOT NULL,
             quantity INTEGER NOT NULL CHECK (quantity <> 0),
             kind TEXT NOT NULL CHECK (kind IN ('report', 'bundle', 'correction', 'plain', 'ack')),
             at TEXT NOT NULL,
             CHECK ((origin IS NULL) = (kind = 'plain') AND (size IS NULL) = (kind = 'plain'))
           ) STRICT""",
        "CREATE INDEX amount_of ON amount(origin, size)",
        "CREATE INDEX amount_billed ON amount(subscription_id, billed_month)",
        """CREATE TABLE known_root(
             origin TEXT NOT NULL,
             size INTEGER NOT NULL CHECK (size > 0),
             root BLOB NOT NULL CHECK (length(root) = 32),
             PRIMARY KEY (origin, size)
           ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE checkpoint(
             origin TEXT NOT NULL,
             size INTEGER NOT NULL,
             note TEXT NOT NULL,
             PRIMARY KEY (origin, size)
           ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE link(
             origin TEXT NOT NULL,
             size INTEGER NOT NULL,
             later INTEGER NOT NULL CHECK (later > size),
             proof TEXT NOT NULL,
             PRIMARY KEY (origin, size)
           ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE ack(
             seq INTEGER PRIMARY KEY,
             origin TEXT NOT NULL,
             size INTEGER NOT NULL CHECK (size > 0),
             at TEXT NOT NULL,
             blob BLOB NOT NULL
           ) STRICT""",
        "CREATE INDEX ack_of ON ack(origin, size, seq)",
        """CREATE TABLE fork(
             seq INTEGER PRIMARY KEY,
             origin TEXT NOT NULL,
             at TEXT NOT NULL,
             cause TEXT NOT NULL,
             name TEXT NOT NULL,
             proof BLOB,
             digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32)
           ) STRICT""",
        "CREATE INDEX fork_of ON fork(origin, seq)",
        """CREATE TABLE finding(
             seq INTEGER PRIMARY KEY,
             origin TEXT NOT NULL,
             at TEXT NOT NULL,
             severity TEXT NOT NULL,
             code TEXT NOT NULL,
             place TEXT NOT NULL,
             message TEXT NOT NULL,
             digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32)
           ) STRICT""",
        "CREATE INDEX finding_of ON finding(origin, seq)",
        *(
            statement
            for table in (
                "arrival",
                "report",
                "told",
                "plain_report",
                "span",
                "verified",
                "amount",
                "known_root",
                "checkpoint",
                "link",
                "ack",
                "fork",
                "finding",
            )
            for statement in append_only(table)
        ),
    ),
)

_CLERK = Migration(
    "m010_clerk",
    (
        """CREATE TABLE clerk_session(
             digest TEXT PRIMARY KEY CHECK (length(digest) = 64),
             name TEXT NOT NULL,
             stamp TEXT NOT NULL,
             begun_at TEXT NOT NULL,
             seen_at TEXT NOT NULL
           ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX clerk_session_by_age ON clerk_session(seen_at)",
        """CREATE TABLE clerk_try(
             seq INTEGER PRIMARY KEY,
             name TEXT NOT NULL,
             place TEXT NOT NULL,
             tried_at TEXT NOT NULL
           ) STRICT""",
        "CREATE INDEX clerk_try_by_place ON clerk_try(place, tried_at)",
        "CREATE INDEX clerk_try_by_name ON clerk_try(name, tried_at)",
    ),
)

_BILLED_TOTAL = Migration(
    "m011_billed_total",
    (
        # For a few hours m004 made the table and its trigger as well: where they are, their sums are whole.
        """CREATE TABLE IF NOT EXISTS billed_total(
             subscription_id TEXT NOT NULL REFERENCES subscription(id),
             meter TEXT NOT NULL,
             month TEXT NOT NULL,
             quantity INTEGER NOT NULL,
             PRIMARY KEY (subscription_id, meter, month)
           ) STRICT, WITHOUT ROWID""",
        """INSERT OR IGNORE INTO billed_total(subscription_id, meter, month, quantity)
             SELECT subscription_id, meter, billed_month, sum(quantity) FROM amount WHERE kind <> 'ack'
             GROUP BY subscription_id, meter, billed_month""",
        """CREATE TRIGGER IF NOT EXISTS amount_is_added_up AFTER INSERT ON amount WHEN NEW.kind <> 'ack'
           BEGIN
             INSERT INTO billed_total(subscription_id, meter, month, quantity)
             VALUES (NEW.subscription_id, NEW.meter, NEW.billed_month, NEW.quantity)
             ON CONFLICT(subscription_id, meter, month) DO UPDATE SET quantity = quantity + excluded.quantity;
           END""",
    ),
)

_ARRIVALS = Migration("m012_amount_arrivals", ("CREATE INDEX amount_arrived ON amount(subscription_id, at)",))

_BOUNDED_TOTAL = Migration(
    "m013_bounded_total",
    (
        # A sum that no integer holds would refuse all that comes after it. No commitment is near to 2**56, and what is
        # told is added up from the rows: so the running total stays there, and twelve of them can be added up.
        "DROP TRIGGER IF EXISTS amount_is_added_up",
        """CREATE TRIGGER amount_is_added_up AFTER INSERT ON amount WHEN NEW.kind <> 'ack'
           BEGIN
             INSERT INTO billed_total(subscription_id, meter, month, quantity)
             VALUES (NEW.subscription_id, NEW.meter, NEW.billed_month,
               max(-72057594037927936, min(72057594037927936, NEW.quantity)))
             ON CONFLICT(subscription_id, meter, month) DO UPDATE SET
               quantity = max(-72057594037927936, min(72057594037927936, quantity + excluded.quantity));
           END""",
    ),
)

_KEY_KIND = Migration(
    "m014_key_kind",
    (
        """CREATE TABLE key_kind(
             seq INTEGER PRIMARY KEY,
             at TEXT NOT NULL,
             evaluation INTEGER NOT NULL CHECK (evaluation IN (0, 1))
           ) STRICT""",
        *append_only("key_kind"),
    ),
)

_CLAIMS = Migration(
    "m015_claims",
    (
        # What an acknowledgement told of entries that are not known here is no bill for them: it is kept apart, so that
        # the entries can be billed when they come.
        """CREATE TABLE claim(
             origin TEXT NOT NULL,
             since INTEGER NOT NULL CHECK (since >= 0),
             size INTEGER NOT NULL CHECK (size > since),
             acked INTEGER NOT NULL CHECK (acked >= size),
             month TEXT NOT NULL,
             told TEXT NOT NULL,
             arrival INTEGER NOT NULL REFERENCES arrival(id),
             PRIMARY KEY (origin, since)
           ) STRICT, WITHOUT ROWID""",
        """INSERT INTO claim(origin, since, size, acked, month, told, arrival)
             SELECT s.origin, s.since, s.size, a.since,
               coalesce((SELECT max(month) FROM amount WHERE origin = s.origin AND size = a.since AND kind = 'ack'),
                        substr(a.at, 1, 7)),
               (SELECT json_group_object(meter, quantity) FROM (
                  SELECT meter, sum(quantity) AS quantity FROM amount
                  WHERE origin = s.origin AND size = a.since AND kind = 'ack' GROUP BY meter)),
               s.arrival
             FROM span s JOIN arrival a ON a.id = s.arrival WHERE s.source = 'ack'""",
        "DROP TRIGGER span_is_never_deleted",
        "DELETE FROM span WHERE source = 'ack'",
        append_only("span")[1],
        *append_only("claim"),
    ),
)

_UNSETTLED = Migration(
    "m016_unsettled",
    (
        # Reports behind a hole: billed, but of which history they are is not settled before the hole is filled.
        """CREATE TABLE unsettled(
             arrival INTEGER PRIMARY KEY REFERENCES arrival(id),
             origin TEXT NOT NULL,
             since INTEGER NOT NULL CHECK (since > 0),
             size INTEGER NOT NULL CHECK (size > since),
             root BLOB NOT NULL CHECK (length(root) = 32),
             since_root BLOB NOT NULL CHECK (length(since_root) = 32),
             note TEXT NOT NULL,
             proof TEXT NOT NULL
           ) STRICT""",
        "CREATE INDEX unsettled_of ON unsettled(origin, since)",
        """CREATE TABLE settlement(
             arrival INTEGER PRIMARY KEY REFERENCES unsettled(arrival),
             good INTEGER NOT NULL CHECK (good IN (0, 1)),
             at TEXT NOT NULL
           ) STRICT""",
        """CREATE VIEW unsettled_now AS
             SELECT * FROM unsettled u WHERE NOT EXISTS (SELECT 1 FROM settlement WHERE arrival = u.arrival)""",
        *append_only("unsettled"),
        *append_only("settlement"),
    ),
)

MIGRATIONS: tuple[Migration, ...] = (
    _AUDIT,
    _ACCOUNTS,
    _LICENSING,
    _ACCOUNTING,
    _CLERK,
    _BILLED_TOTAL,
    _ARRIVALS,
    _BOUNDED_TOTAL,
    _KEY_KIND,
    _CLAIMS,
    _UNSETTLED,
)
"""All of them, in the order in which they run."""
