"""The authority's database: a change is whole or not at all, what happened stays, and every refusal has a name."""

import contextlib
import gc
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from licenses.authority import database as room
from licenses.authority.database import Database, open_database, summed, whole_sum
from licenses.authority.migrations import MIGRATIONS, Migration, append_only
from licenses.errors import AuthorityError, BusyError, ConflictError, UnknownStateError
from ocr_core.forked_process import fork
from tests.fakes.disks import fill, mounted

PROJECT = Path(__file__).parents[4]
COUNTER = (
    Migration("m001_counter", ("CREATE TABLE counter(name TEXT PRIMARY KEY, value INTEGER, filler BLOB) STRICT",)),
)


@pytest.fixture
def counters(tmp_path):
    database = open_database(tmp_path / "counters.db", create=True, migrations=COUNTER)
    yield database
    database.close()


def add(tx, name: str, value: int = 0, filler: bytes = b"") -> None:
    tx.execute("INSERT INTO counter(name, value, filler) VALUES (?, ?, ?)", [name, value, filler])


def change(database, *several: str, filler: bytes = b"") -> None:
    with database.writing() as tx:
        for name in several:
            add(tx, name, filler=filler)


def change_and_raise(database, name: str, error: type[BaseException] = RuntimeError) -> None:
    with database.writing() as tx:
        add(tx, name)
        raise error("stop")


def names(database) -> list[str]:
    return [row["name"] for row in database.query("SELECT name FROM counter ORDER BY name")]


# ---- where it is ----------------------------------------------------------------------------------------------------


def test_it_is_made_for_its_owner_alone_and_survives_being_opened_again(tmp_path):
    path = tmp_path / "deep" / "authority.db"
    open_database(path, create=True).close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    again = open_database(path, create=True)
    with again.writing() as tx:
        tx.execute("INSERT INTO customer VALUES ('c-1', 'A', '2027-01-15T12:00:00Z')")
    again.close()
    assert open_database(path).one("SELECT name FROM customer") == {"name": "A"}


@pytest.mark.parametrize("form", ["{path}", "sqlite:///{path}", "SQLite:///{path}"])
def test_place_is_a_path_or_an_address(tmp_path, form):
    path = tmp_path / "authority.db"
    assert open_database(form.format(path=path), create=True).path == path


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("postgresql://clerk:secret@db.example/tollgate", "databases of the kind 'postgresql' are not supported"),
        ("mysql+pymysql://clerk:secret@db.example/x", "databases of the kind 'mysql+pymysql' are not supported"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
    ],
)
def test_other_addresses_are_refused_without_repeating_what_may_be_secret(place, words):
    with pytest.raises(UnknownStateError) as caught:
        open_database(place, create=True)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value) + caught.value.next_step


def test_a_missing_database_is_not_made_by_the_way(tmp_path):
    path = tmp_path / "authority.db"
    with pytest.raises(UnknownStateError, match="there is no database at") as caught:
        open_database(path)
    assert f"licenses authority init --database {path}" in caught.value.next_step
    assert not path.exists()


def test_what_is_no_database_of_ours_is_left_alone(tmp_path):
    text, other, empty = tmp_path / "text", tmp_path / "other.db", tmp_path / "empty.db"
    text.write_text("Dear customer, " * 1000)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE entry(seq INTEGER PRIMARY KEY)")
    connection.close()
    for path, words in ((text, "is damaged, or no database"), (other, "is a database of something else")):
        before = path.read_bytes()
        with pytest.raises(UnknownStateError, match=words):
            open_database(path, create=True)
        assert path.read_bytes() == before
    empty.touch(mode=0o600)
    open_database(empty).close()  # a file made beforehand, to give it an owner


def test_a_database_of_a_newer_version_is_left_alone(tmp_path):
    path = tmp_path / "authority.db"
    newer = (*MIGRATIONS, Migration("m999_from_the_future", ("CREATE TABLE future(x INTEGER) STRICT",)))
    open_database(path, create=True, migrations=newer).close()
    before = path.read_bytes()
    with pytest.raises(UnknownStateError, match="newer version, which knows m999_from_the_future"):
        open_database(path)
    assert path.read_bytes() == before


def test_a_folder_without_permission_is_named_with_the_command_to_run(tmp_path, monkeypatch):
    def refuse(*_arguments, **_named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(room.durable, "make_folders", refuse)
    with pytest.raises(UnknownStateError, match="Permission denied") as caught:
        open_database(tmp_path / "closed" / "authority.db", create=True)
    assert "sudo chown" in caught.value.next_step


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_what_others_may_open_is_refused_with_the_command_to_run(tmp_path, mode):
    path = tmp_path / "authority.db"
    open_database(path, create=True).close()
    path.chmod(mode)
    for create in (False, True):
        with pytest.raises(UnknownStateError, match=f"mode {mode:04o}") as caught:
            open_database(path, create=create)
        assert f"chmod 600 {path}" in caught.value.next_step
    path.chmod(0o600)
    open_database(path).close()


def _billed(path, migrations):
    """A database of that version, with use of two months; and what it knows of their sums then."""
    database = open_database(path, create=True, migrations=migrations)
    rows = [("2027-01", 3, "report"), ("2027-01", -1, "correction"), ("2027-02", 4, "bundle"), ("2027-02", 9, "ack")]
    with database.writing() as tx:
        tx.execute("INSERT INTO customer VALUES ('c-1', 'one', '2027-01-01T00:00:00Z')")
        tx.execute("INSERT INTO subscription VALUES ('s-1', 'c-1', 'computervisionread', '2027-01-01T00:00:00Z')")
        tx.execute_many(
            """INSERT INTO amount(subscription_id, origin, size, meter, month, billed_month, quantity, kind, at)
               VALUES ('s-1', 'v/d', 5, 'pages', ?1, ?1, ?2, ?3, '2027-02-01T00:00:00Z')""",
            rows,
        )
    database.close()


def _totals(path):
    database = open_database(path)
    with database.writing() as tx:
        tx.execute(
            """INSERT INTO amount(subscription_id, origin, size, meter, month, billed_month, quantity, kind, at)
               VALUES ('s-1', 'v/d', 9, 'pages', '2027-02', '2027-02', 10, 'report', '2027-02-02T00:00:00Z')"""
        )
    found = {row["month"]: row["quantity"] for row in database.query("SELECT month, quantity FROM billed_total")}
    database.close()
    return found


def test_a_database_from_before_the_running_totals_gets_them(tmp_path):
    path = tmp_path / "authority.db"
    _billed(path, [one for one in MIGRATIONS if one.name < "m011_billed_total"])
    assert _totals(path) == {"2027-01": 2, "2027-02": 14}


@pytest.mark.parametrize("quantity", [2**56 - 3, -(2**56) + 3, 2**61, -(2**61)])
def test_a_running_total_never_overflows(tmp_path, quantity):
    path = tmp_path / "authority.db"
    _billed(path, MIGRATIONS)
    with contextlib.closing(open_database(path)) as database:
        for _ in range(20):
            with database.writing() as tx:
                tx.execute(
                    """INSERT INTO amount(subscription_id, origin, size, meter, month, billed_month, quantity, kind, at)
                       VALUES ('s-1', 'v/d', 9, 'pages', '2027-03', '2027-03', ?, 'bundle', '2027-03-02T00:00:00Z')""",
                    [quantity],
                )
        row = database.one("SELECT quantity FROM billed_total WHERE month = '2027-03'")
    assert row == {"quantity": 2**56 if quantity > 0 else -(2**56)}


def test_whole_sums_are_those_of_any_number_of_integers(tmp_path):
    numbers = [2**63 - 1] * 5 + [-(2**63)] * 9 + [2**53 - 1, -1, 0, 1, 2**42, -(2**42), 2**21 - 1, -(2**21)]
    with contextlib.closing(open_database(tmp_path / "authority.db", create=True)) as database:
        for end in range(1, len(numbers) + 1):
            row = database.one(f"SELECT {whole_sum('value')} FROM json_each(?)", [json.dumps(numbers[:end])])
            assert summed(row) == sum(numbers[:end])


def test_a_database_whose_accounting_made_the_running_totals_keeps_them(tmp_path):
    path = tmp_path / "authority.db"
    (totals,) = [one for one in MIGRATIONS if one.name == "m011_billed_total"]
    table, _, trigger = totals.statements
    early = [
        Migration(one.name, (*one.statements, table, trigger)) if one.name == "m004_accounting" else one
        for one in MIGRATIONS
        if one is not totals
    ]
    _billed(path, early)
    assert _totals(path) == {"2027-01": 2, "2027-02": 14}


def test_what_only_an_acknowledgement_covered_can_be_billed_after_the_migration(tmp_path):
    path = tmp_path / "authority.db"
    _billed(path, [one for one in MIGRATIONS if one.name < "m015_claims"])
    database = open_database(path, migrations=[one for one in MIGRATIONS if one.name < "m015_claims"])
    with database.writing() as tx:
        arrival = tx.execute(
            """INSERT INTO arrival(at, road, subscription_id, origin, since, size, root, closed_at, digest)
               VALUES ('2027-03-01T00:00:00Z', 'bundle', 's-1', 'v/e', 57, 62, zeroblob(32), '', zeroblob(32))"""
        ).last_id
        for since, size, source in ((0, 6, "bundle"), (6, 57, "ack"), (57, 62, "bundle")):
            tx.execute("INSERT INTO span VALUES ('v/e', ?, ?, ?, 1, ?)", [since, size, source, arrival])
        tx.execute(
            """INSERT INTO amount(subscription_id, origin, size, meter, month, billed_month, quantity, kind, at)
               VALUES ('s-1', 'v/e', 57, 'pages', '2027-02', '2027-02', 50, 'ack', '2027-03-01T00:00:00Z')"""
        )
    database.close()
    with contextlib.closing(open_database(path)) as database:
        assert [row["since"] for row in database.query("SELECT since FROM span WHERE origin = 'v/e'")] == [0, 57]
        (row,) = database.query("SELECT * FROM claim")
        assert (row["since"], row["size"], row["acked"]) == (6, 57, 57)
        assert (row["month"], json.loads(row["told"])) == ("2027-02", {"pages": 50})
        with pytest.raises(UnknownStateError, match="append-only"), database.writing() as tx:
            tx.execute("DELETE FROM span")


def test_migrations_run_once_however_many_open_it_at_the_same_time(tmp_path):
    path = tmp_path / "authority.db"
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: open_database(path, create=True), range(8)))
    rows = list(opened[0].query("SELECT name FROM _sqlite_migrations ORDER BY id"))
    assert [row["name"] for row in rows] == [migration.name for migration in MIGRATIONS]


def test_a_later_migration_is_added_to_what_is_there(tmp_path, counters):
    with counters.writing() as tx:
        add(tx, "a", 3)
    counters.close()
    more = (*COUNTER, Migration("m002_doubled", ("UPDATE counter SET value = 2 * value",)))
    again = open_database(counters.path, migrations=more)
    assert again.one("SELECT value FROM counter") == {"value": 6}
    again.close()
    assert open_database(counters.path, migrations=more).one("SELECT value FROM counter") == {"value": 6}


def test_a_migration_that_fails_leaves_nothing(tmp_path, counters):
    counters.close()
    broken = (*COUNTER, Migration("m002", ("CREATE TABLE half(x INTEGER) STRICT", "INSERT INTO nowhere VALUES (1)")))
    with pytest.raises(UnknownStateError, match="no such table: nowhere"):
        open_database(counters.path, migrations=broken)
    again = open_database(counters.path, migrations=COUNTER)
    assert again.one("SELECT name FROM sqlite_schema WHERE name = 'half'") is None


# ---- a change -------------------------------------------------------------------------------------------------------


def test_a_change_is_seen_by_others_when_it_is_whole(counters):
    with counters.writing() as tx:
        add(tx, "a")
        assert tx.one("SELECT name FROM counter") == {"name": "a"}
        assert names(counters) == ["a"]  # the same thread is within the change
        with ThreadPoolExecutor(1) as other:
            assert other.submit(names, counters).result() == []
    with ThreadPoolExecutor(1) as other:
        assert other.submit(names, counters).result() == ["a"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, BusyError])
def test_a_change_that_an_exception_leaves_is_undone(counters, error):
    with pytest.raises(error):
        change_and_raise(counters, "a", error)
    assert names(counters) == []
    with counters.writing() as tx:
        add(tx, "b")
    assert names(counters) == ["b"]


def test_a_change_within_a_change_is_undone_alone_and_kept_with_it(counters):
    with counters.writing() as tx:
        add(tx, "a")
        with pytest.raises(ConflictError):
            change(counters, "b", "a")
        with counters.writing() as part:
            add(part, "c")
            with pytest.raises(RuntimeError):
                change_and_raise(counters, "d")
        with ThreadPoolExecutor(1) as other:
            assert other.submit(names, counters).result() == []
    assert names(counters) == ["a", "c"]


def test_a_change_within_a_change_that_is_undone_is_undone(counters):
    def outer() -> None:
        with counters.writing():
            change(counters, "a")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        outer()
    assert names(counters) == []


def test_threads_and_processes_that_count_lose_nothing(counters):
    with counters.writing() as tx:
        add(tx, "n")

    def count(database) -> None:
        for _ in range(25):
            with database.writing() as tx:
                (value,) = tx.one("SELECT value FROM counter").values()
                tx.execute("UPDATE counter SET value = ?", [value + 1])

    stranger = open_database(counters.path, migrations=COUNTER)  # as another process has it
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(count, one) for one in (counters, stranger) for _ in range(4)]:
            done.result()
    assert counters.one("SELECT value FROM counter") == {"value": 200}


def test_rows_come_one_by_one_and_may_be_left(counters):
    with counters.writing() as tx:
        tx.execute_many("INSERT INTO counter(name, value) VALUES (?, ?)", ((f"{n:04}", n) for n in range(1000)))
    rows = counters.query("SELECT name FROM counter ORDER BY name")
    assert next(rows) == {"name": "0000"}
    del rows
    with counters.writing() as tx:
        assert tx.execute("DELETE FROM counter WHERE value >= ?", [10]).rows == 990
    assert len(names(counters)) == 10


def test_connections_of_threads_that_ended_are_closed(counters):
    def open_files() -> int:
        return sum(path.name.startswith("counters.db") for path in map(Path.resolve, Path("/proc/self/fd").iterdir()))

    for number in range(40):
        thread = threading.Thread(target=change, args=(counters, f"{number:02}"))
        thread.start()
        thread.join()
    gc.collect()
    assert len(names(counters)) == 40
    assert open_files() <= 6  # this thread's, and what SQLite keeps for the locks of the process
    counters.close()
    assert open_files() == 0


def test_a_forked_process_has_connections_of_its_own(counters):
    assert names(counters) == []  # so that this process has one
    child = fork()
    if child == 0:
        code = 1
        try:
            with counters.writing() as tx:
                add(tx, "child")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    with counters.writing() as tx:
        add(tx, "parent")
    assert names(counters) == ["child", "parent"]


KILLED = """
import os, signal, sys
from licenses.authority.database import open_database
from tests.unit.licenses.authority.test_database import COUNTER, add
database = open_database(sys.argv[1], migrations=COUNTER)
with database.writing() as tx:
    add(tx, "kept")
with database.writing() as tx:
    add(tx, "lost")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_within_a_change_leaves_what_was_before(counters):
    done = subprocess.run([sys.executable, "-c", KILLED, counters.path], cwd=PROJECT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(counters) == ["kept"]
    with counters.writing() as tx:
        add(tx, "next")


# ---- what happened stays --------------------------------------------------------------------------------------------

GUARDED = sorted(
    name
    for step in MIGRATIONS
    for text in step.statements
    for name in re.findall(r"TRIGGER (\w+)_is_never_changed", text)
)


def test_what_happened_is_guarded():
    happened = {"audit", "customer", "tier", "subscription", "subscription_change", "api_key", "api_key_end"}
    assert happened | {"device_enrolment", "device_anchor", "license"} <= set(GUARDED)


def test_rows_of_a_guarded_table_stay_as_they_were_written(tmp_path):
    table = ("CREATE TABLE fact(id INTEGER PRIMARY KEY, text TEXT UNIQUE) STRICT", *append_only("fact"))
    database = open_database(tmp_path / "facts.db", create=True, migrations=(Migration("m001", table),))
    with database.writing() as tx:
        tx.execute("INSERT INTO fact VALUES (1, 'a'), (2, 'b')")
    for sql in (
        "UPDATE fact SET text = 'x'",
        "DELETE FROM fact WHERE id = 2",
        "INSERT OR REPLACE INTO fact VALUES (1, 'x')",
        "REPLACE INTO fact VALUES (3, 'a')",
        "INSERT INTO fact VALUES (1, 'x') ON CONFLICT DO UPDATE SET text = excluded.text",
    ):
        with pytest.raises(UnknownStateError, match="fact is append-only"), database.writing() as tx:
            tx.execute(sql)
    assert [*database.query("SELECT * FROM fact ORDER BY id")] == [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}]


@pytest.mark.parametrize("table", GUARDED)
def test_each_guarded_table_has_both_triggers(tmp_path, table):
    database = open_database(tmp_path / "authority.db", create=True)
    found = database.query("SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?", [table])
    text = " ".join(row["sql"] for row in found)
    assert f"BEFORE UPDATE ON {table}" in text
    assert f"BEFORE DELETE ON {table}" in text


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_a_name_that_is_taken_is_a_conflict(counters):
    with counters.writing() as tx:
        add(tx, "a")
    with pytest.raises(ConflictError), counters.writing() as tx:
        add(tx, "a", 2)


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT * FROM nowhere", "SELECT ?"])
def test_no_error_of_the_library_escapes(counters, sql):
    with pytest.raises(UnknownStateError):
        list(counters.query(sql))
    with counters.writing() as tx:
        for attempt in (lambda: tx.execute(sql), lambda: tx.execute_many(sql, [()]), lambda: list(tx.query(sql))):
            with pytest.raises(AuthorityError):
                attempt()


def test_who_waits_too_long_is_told_when_to_come_back(counters, monkeypatch):
    monkeypatch.setattr(room, "BUSY_SECONDS", 0.05)
    stranger = sqlite3.connect(counters.path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusyError) as caught, counters.writing():
        pytest.fail("somebody else is within a change")
    assert caught.value.retry_after == room.RETRY_SECONDS
    stranger.execute("ROLLBACK")
    stranger.close()
    with counters.writing() as tx:
        add(tx, "a")


def test_a_thread_waits_its_turn_or_is_told(counters, monkeypatch):
    monkeypatch.setattr(room, "BUSY_SECONDS", 0.05)
    within, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with counters.writing():
            within.set()
            leave.wait(10)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        assert within.wait(10)
        with pytest.raises(BusyError), counters.writing():
            pytest.fail("another thread is within a change")
        leave.set()
        holding.result()
    with counters.writing() as tx:
        add(tx, "a")
    assert names(counters) == ["a"]


def test_a_full_disk_is_named_and_nothing_is_half_done(counters):
    with counters.writing() as tx:
        add(tx, "a")
        (pages,) = tx.one("PRAGMA page_count").values()
        tx.one(f"PRAGMA max_page_count={pages + 4}")
    with pytest.raises(UnknownStateError, match=r"disk of the database .* is full") as caught:
        change(counters, "b", "c", filler=bytes(1 << 20))
    assert "Free some space" in caught.value.next_step
    assert names(counters) == ["a"]
    with counters.writing() as tx:
        add(tx, "d")
    assert names(counters) == ["a", "d"]


def test_a_disk_that_is_really_full_is_named_and_works_again_with_room(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "size=4m"):
        database = open_database(disk / "counters.db", create=True, migrations=COUNTER)
        with database.writing() as tx:
            add(tx, "before")
        filler = fill(disk)
        with pytest.raises(UnknownStateError, match="full"):
            change(database, *(f"during-{number}" for number in range(64)), filler=bytes(1 << 15))
        assert names(database) == ["before"]
        filler.unlink()
        with database.writing() as tx:
            add(tx, "after")
        assert names(database) == ["after", "before"]
        database.close()


def test_a_full_disk_is_named_by_who_opens_it_then(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "size=2m"):
        open_database(disk / "counters.db", create=True, migrations=COUNTER).close()
        database = Database(disk / "counters.db")
        filler = fill(disk)
        for attempt in (
            lambda: open_database(disk / "counters.db", migrations=COUNTER),
            lambda: open_database(disk / "other.db", migrations=COUNTER, create=True),
            lambda: change(database, "during"),
        ):
            with pytest.raises(UnknownStateError, match=r"the disk of the database .* is full"):
                attempt()
        filler.unlink()
        change(database, "after")
        assert names(database) == ["after"]
        open_database(disk / "other.db", migrations=COUNTER).close()
        database.close()


def test_a_disk_that_takes_nothing_is_named(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "size=2m"):
        open_database(disk / "counters.db", create=True, migrations=COUNTER).close()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(UnknownStateError, match="cannot be opened or written") as caught:
            change(Database(disk / "counters.db"), "a")
        assert f"findmnt -T {disk}" in caught.value.next_step
        with pytest.raises(UnknownStateError, match="Read-only file system"):
            open_database(disk / "other.db", create=True)


def test_damage_is_named_and_the_file_is_kept(tmp_path, counters):
    with counters.writing() as tx:
        tx.execute_many("INSERT INTO counter(name, value) VALUES (?, 0)", ((f"{n:04}" * 50,) for n in range(1000)))
    counters.close()
    blob = bytearray(counters.path.read_bytes())
    blob[4096:] = bytes([0xA5]) * (len(blob) - 4096)
    counters.path.write_bytes(blob)
    with pytest.raises(UnknownStateError, match="is damaged") as caught:
        list(open_database(counters.path, migrations=COUNTER).query("SELECT * FROM counter"))
    assert "newest backup" in caught.value.next_step
    assert counters.path.read_bytes() == bytes(blob)


# ---- a copy ---------------------------------------------------------------------------------------------------------


def test_a_copy_is_whole_private_and_replaces_nothing(tmp_path, counters):
    with counters.writing() as tx:
        add(tx, "a")
    counters.copy_to(tmp_path / "copy.db")
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    assert names(open_database(tmp_path / "copy.db", migrations=COUNTER)) == ["a"]
    with pytest.raises(UnknownStateError, match="File exists"):
        counters.copy_to(tmp_path / "copy.db")
    assert names(open_database(tmp_path / "copy.db", migrations=COUNTER)) == ["a"]
    with pytest.raises(UnknownStateError, match="No such file"):
        counters.copy_to(tmp_path / "nowhere" / "copy.db")
