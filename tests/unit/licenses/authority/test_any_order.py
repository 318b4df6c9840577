"""Whatever arrives in whatever order, however often: each entry is billed once, to the page.

The model is a set of entries. An arrival that is taken in adds its entries, one that is refused adds none, and what is
billed is always the use in the set; once everything arrived, it is the use in the log.
"""

import dataclasses
import itertools
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licenses.errors import ConflictError, ExchangeError, ForkError
from licenses.model import READ_PAGES_METER
from tests.fakes.vendor_books import VendorBooks

METER = READ_PAGES_METER
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # durability is tested elsewhere
MONTH_MS = 31 * 24 * 3600 * 1000
USES = (3, 0, 5, 1, 2)
_SPANS = [(first, last) for first, last in itertools.product(range(len(USES)), repeat=2) if first <= last]


class World:
    """One appliance, all that it could ever send, and the same of a copy of it; made once."""

    def __init__(self, folder: Path) -> None:
        books = VendorBooks(folder)
        self.site = books.site()
        clone = None
        for number, uses in enumerate(USES):
            if number == 2:
                self.site.meter.wait(MONTH_MS)
            if number == 3:
                clone = self.site.copy()
            self.site.meter.window(uses=uses)
        assert clone is not None
        clone.meter.window(uses=7)
        books.at = books.at.replace(month=3)
        books.database.close()
        self.books, self.folder, self.clone = books, folder, clone
        self.windows = self.site.windows
        self.arrivals = {}
        for first, last in _SPANS:
            since, size = self.windows[first][0], self.windows[last][1]
            self.arrivals["bundle", first, last] = (since, size, self._bundle(first, last))
            if since:
                ack = self.site.meter.ack(books.vendor, self.site.meter.checkpoint(since))
                acks = {since: ack.seal(books.vendor.keys.ack_key)}
                self.arrivals["carrying", first, last] = (since, size, self._bundle(first, last, acks=acks))
            report = self.site.report(first, until=last)
            lie = {METER: {month: 50 for months in report.totals.values() for month in months} or {"2027-02": 50}}
            for kind, one in (
                ("report", report),
                ("unproven", dataclasses.replace(report, id=_other(report.id, "1"), since_root=None, proof=())),
                ("lie", dataclasses.replace(report, id=_other(report.id, "2"), totals=lie)),
            ):
                self.arrivals[kind, first, last] = (since, size, self.site.body(one))
        report = clone.report(3)
        self.arrivals["clone_report", 3, 3] = (0, 0, clone.body(dataclasses.replace(report, id=_other(report.id, "3"))))
        self.arrivals["clone_bundle", 3, 3] = (0, 0, clone.bundle())

    def _bundle(self, first: int, last: int, **options: object) -> Path:
        early = self.site.copy()
        size = self.windows[last][1]
        early.meter.files = early.meter.files[: last + 1]
        early.meter.lines = early.meter.lines[:size]
        return early.bundle(self.windows[first][0], **options)

    def fresh(self, folder: Path) -> VendorBooks:
        """Books in which nothing was taken in yet."""
        shutil.copytree(self.folder / "books", folder / "books")
        shutil.copytree(self.folder / "keys", folder / "keys")
        return VendorBooks.reopened(folder, at=self.books.at)

    def used(self, entries: set[int]) -> int:
        """Pages in these entries."""
        lines = (json.loads(line) for seq, line in enumerate(self.site.meter.lines) if seq in entries)
        return sum(line["meter"]["quantity"] for line in lines if line["kind"] == "use")


def _other(identity: str, digit: str) -> str:
    return digit + identity[1:]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def _deliver(world: World, books: VendorBooks, key: tuple[str, int, int]) -> set[int]:
    """Deliver one arrival; the entries that were taken in with it."""
    since, size, content = world.arrivals[key]
    try:
        if isinstance(content, Path):
            books.intake.take_bundle(None, content)
        else:
            books.intake.take_report(books.subscription, content)
    except (ConflictError, ForkError):
        return set()
    except ExchangeError as exc:
        if "were taken in" not in str(exc):
            raise
    return set(range(since, size))


def _taken_back(books: VendorBooks) -> set[int]:
    """Entries of reports that waited behind a hole, cut otherwise than what came since from the first entry on.

    One appliance cuts its windows in one way only; here it does so in all.
    """
    backed = "SELECT since, size FROM unsettled JOIN settlement USING (arrival) WHERE NOT good"
    kept = "SELECT since, size FROM span UNION ALL SELECT since, size FROM unsettled_now"
    gone, stay = (
        {entry for row in books.database.query(sql) for entry in range(row["since"], row["size"])}
        for sql in (backed, kept)
    )
    return gone - stay


def _actions(*kinds: str) -> st.SearchStrategy[list[tuple[str, int, int]]]:
    honest = st.tuples(st.sampled_from(kinds), st.sampled_from(_SPANS)).map(lambda one: (one[0], *one[1]))
    return st.lists(honest, max_size=7)


@given(actions=_actions("bundle", "report", "unproven"))
@settings(max_examples=30, deadline=None)
def test_each_entry_is_billed_once_in_any_order(world, actions):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        books = world.fresh(Path(folder))
        known: set[int] = set()
        for key in [*actions, *actions]:  # each of them comes again
            taken = _deliver(world, books, key)
            known = (known - _taken_back(books)) | taken
            assert books.billed() == world.used(known)
        assert not {"report_differs", "report_wrong"} & set(books.findings())
        _settle(world, books)


@given(actions=_actions("bundle", "report", "unproven", "lie"), clone_at=st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_lies_and_copies_change_nothing_in_the_end(world, actions, clone_at):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        books = world.fresh(Path(folder))
        _deliver(world, books, ("bundle", 0, 4))
        for number, key in enumerate(actions):
            if number == clone_at:
                for copied in ("clone_report", "clone_bundle"):
                    assert _deliver(world, books, (copied, 3, 3)) == set()
            _deliver(world, books, key)
            assert books.billed() == sum(USES)
        _settle(world, books)


@given(actions=_actions("bundle", "report", "unproven", "lie"))
@settings(max_examples=30, deadline=None)
def test_entries_correct_every_lie(world, actions):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        books = world.fresh(Path(folder))
        for key in actions:
            _deliver(world, books, key)
        _settle(world, books)


@given(actions=_actions("bundle", "report", "carrying"))
@settings(max_examples=30, deadline=None)
def test_restored_books_bill_each_entry_once_though_acknowledgements_cover_them(world, actions):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        books = world.fresh(Path(folder))
        known: set[int] = set()
        for key in [*actions, *actions]:
            # Nothing comes before the first entry, and an appliance reports one window at a time.
            if key in world.arrivals and (key[0] != "report" or key[1] == key[2]):
                taken = _deliver(world, books, key)
                known = (known - _taken_back(books)) | taken
            assert books.billed() == world.used(known)
        assert dict(books.rows())["fork"] == 0
        _settle(world, books)


@given(
    ends=st.sets(st.integers(0, len(USES) - 2)),
    picks=st.lists(st.tuples(st.booleans(), st.integers(0, 99)), max_size=9),
)
@settings(max_examples=30, deadline=None)
def test_honest_history_however_it_is_cut_leaves_no_finding(world, ends, picks):
    """Windows as they may be cut, told and exported in any order and number; each of them at least once."""
    stops = [*sorted(ends), len(USES) - 1]
    windows = list(zip([0, *(one + 1 for one in stops[:-1])], stops, strict=True))
    bundles = [(first[0], last[1]) for first, last in itertools.combinations_with_replacement(windows, 2)]
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        books = world.fresh(Path(folder))
        known: set[int] = set()
        arrivals = [
            ("report", *windows[number % len(windows)]) if told else ("bundle", *bundles[number % len(bundles)])
            for told, number in picks
        ]
        for key in [*arrivals, *(("report", *one) for one in reversed(windows)), *arrivals]:
            taken = _deliver(world, books, key)
            assert taken
            known |= taken
            assert books.billed() == world.used(known)
        assert set(books.findings()) <= {"long_window"}  # the world's pause of a month; nothing of the cuts
        assert dict(books.rows())["fork"] == 0
        _settle(world, books)


class Twins:
    """Two appliances of one image, and all that either could send; made once."""

    def __init__(self, folder: Path) -> None:
        books = VendorBooks(folder)
        first = books.site()
        first.meter.window(uses=3)
        second = first.copy()
        self.common = first.windows[-1][1]
        for site, uses in ((first, (5, 2, 4)), (second, (2, 2, 7, 1))):
            for count in uses:
                site.meter.window(uses=count)
        books.database.close()
        self.books, self.folder, self.sites = books, folder, (first, second)
        self.arrivals = []
        for twin, site in enumerate(self.sites):
            windows = site.windows
            for number, (since, size) in enumerate(windows):
                one = site.report(number)
                body = site.body(dataclasses.replace(one, id=_other(one.id, str(twin))))
                self.arrivals.append((twin, since, size, body))
                early = site.copy()
                early.meter.files = early.meter.files[: number + 1]
                early.meter.lines = early.meter.lines[:size]
                self.arrivals.append((twin, 0, size, early.bundle()))
                if number:
                    begins = windows[number - 1][0]
                    self.arrivals.append((twin, begins, size, early.bundle(begins)))

    fresh = World.fresh

    def entries(self, twin: int, since: int, size: int) -> set[tuple[int, int]]:
        """Entries by whose they are: those before the image was made are the same ones."""
        return {(0 if entry < self.common else twin, entry) for entry in range(since, size)}

    def used(self, entries: set[tuple[int, int]]) -> int:
        """Pages in these entries."""
        return sum(self.sites[twin].used(entry, entry + 1) for twin, entry in entries)


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    return Twins(tmp_path_factory.mktemp("twins"))


@given(order=st.data())
@settings(max_examples=40, deadline=None)
def test_twins_are_found_and_nothing_of_them_is_lost_in_silence(twins, order):
    arrivals = order.draw(st.permutations(twins.arrivals))
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        books = twins.fresh(Path(folder))
        taken: set[tuple[int, int]] = set()
        for twin, since, size, content in arrivals:
            refused = False
            try:
                if isinstance(content, Path):
                    books.intake.take_bundle(None, content)
                else:
                    books.intake.take_report(books.subscription, content)
            except (ConflictError, ForkError):
                refused = True
            except ExchangeError as exc:
                refused = "were taken in" not in str(exc)
            if not refused:
                taken |= twins.entries(twin, since, size)
            found = bool(books.findings()) or dict(books.rows())["fork"] > 0
            assert found or not refused
            assert books.billed() <= twins.used(taken)
            assert found or books.billed() == twins.used(taken)
        assert books.findings() or dict(books.rows())["fork"]
        totals = books.database.one("SELECT sum(quantity) AS n FROM amount WHERE kind <> 'ack'")
        assert totals["n"] == books.billed()
        books.database.close()


def _settle(world: World, books: VendorBooks) -> None:
    """The whole log arrives at last: everything is billed once, in its month, and acknowledged."""
    _deliver(world, books, ("bundle", 0, 4))
    for _ in range(2):
        assert books.billed() == sum(USES)
        rows = books.database.query("SELECT billed_month, sum(quantity) AS n FROM amount GROUP BY 1 ORDER BY 1")
        assert {row["billed_month"]: row["n"] for row in rows if row["n"]} == {"2027-01": 3, "2027-02": 8}
        totals = books.database.query("SELECT month, quantity FROM billed_total ORDER BY 1")
        assert {row["month"]: row["quantity"] for row in totals if row["quantity"]} == {"2027-01": 3, "2027-02": 8}
        ack = books.opened(world.site, books.intake.acknowledgement(books.subscription, world.site.origin, None))
        assert (ack.size, ack.totals) == (world.windows[-1][1], {METER: sum(USES)})
        spans = list(books.database.query("SELECT since, size FROM span ORDER BY since"))
        assert [one["since"] for one in spans] == [0, *(one["size"] for one in spans[:-1])]
        books.trail.verify()
        for key in (("bundle", 0, 4), ("bundle", 2, 3), ("report", 1, 1), ("unproven", 0, 4)):
            with suppress(ExchangeError):
                _deliver(world, books, key)
    books.database.close()
