"""Many at once: the same use by several roads, from threads and from processes, is billed once."""

import multiprocessing
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from licenses.errors import BusyError, ConflictError
from licenses.model import READ_PAGES_METER
from tests.fakes import intake_life
from tests.fakes.vendor_books import VendorBooks

METER = READ_PAGES_METER
USES = (3, 2, 4, 1, 5)


def _arrivals(books: VendorBooks, folder: Path) -> list[Path]:
    """Everything about one site: a report of each window, and bundles that begin at several."""
    site = books.site()
    for uses in USES:
        site.meter.window(uses=uses)
    folder.mkdir()
    made = []
    for number in range(len(USES)):
        made.append(folder / f"report-{number}.json")
        made[-1].write_bytes(site.body(site.report(number)))
    for since in (0, site.windows[2][0]):
        made.append(folder / f"bundle-{since}.tar.gz")
        shutil.move(site.bundle(since), made[-1])
    return made


def _take(books: VendorBooks, arrival: Path) -> str:
    try:
        intake_life.take(books, arrival)
    except BusyError:
        return "busy"
    except ConflictError:
        return "conflict"
    except intake_life.LicensesError as exc:
        return str(exc)
    return ""


def _take_all(folder: Path, arrivals: list[Path], answers: "multiprocessing.Queue[list[str]]") -> None:
    """In a process of its own."""
    books = VendorBooks.reopened(folder)
    answers.put([_take(books, arrival) for arrival in arrivals])
    books.database.close()


def _require_once(books: VendorBooks) -> None:
    assert books.billed() == sum(USES)
    spans = list(books.database.query("SELECT since, size FROM span ORDER BY since"))
    assert [one["since"] for one in spans] == [0, *(one["size"] for one in spans[:-1])]
    assert books.findings() == []
    assert list(books.database.query("SELECT * FROM fork")) == []
    books.trail.verify()


def test_threads_that_deliver_the_same_bill_it_once(tmp_path):
    books = VendorBooks(tmp_path)
    arrivals = _arrivals(books, tmp_path / "arrivals") * 4
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda arrival: _take(books, arrival), arrivals))
    assert "conflict" not in told
    _require_once(books)
    assert _take(books, arrivals[5]) == ""
    books.database.close()


def test_processes_that_deliver_the_same_bill_it_once(tmp_path):
    books = VendorBooks(tmp_path)
    arrivals = _arrivals(books, tmp_path / "arrivals")
    books.database.close()
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    orders = [arrivals, arrivals[::-1], arrivals[3:] + arrivals[:3]]
    processes = [context.Process(target=_take_all, args=(tmp_path, order, answers)) for order in orders]
    for process in processes:
        process.start()
    told = [word for _ in processes for word in answers.get(timeout=120)]
    for process in processes:
        process.join(60)
    assert "conflict" not in told
    _require_once(VendorBooks.reopened(tmp_path))
