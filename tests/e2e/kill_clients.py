"""Clients that keep their own book: what they sent, what they were told, and which pages they saw the text of.

A client believes nobody. Its book is compared with the ledger and the records when everything is over.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tests.fakes.marked import board, document, text_of_board
from tests.pages import LINES, as_pdf, as_png, as_tiff, printed_page

Fate = Literal["accepted", "read", "failed", "refused", "broken"]
READ = "/vision/v3.2/read"
_OPEN_AT_MOST = 5


@dataclass(frozen=True)
class Paper:
    """A document.

    Attributes:
        number: Its own, never used twice.
        content: The bytes.
        pages: The pages asked for.
        query: How they are asked for.
        readable: False where the engine must fail.
        marked: Whether its text tells number and page.
    """

    number: int
    content: bytes
    pages: tuple[int, ...]
    query: str
    readable: bool
    marked: bool


class Papers:
    """Makes documents that nobody has sent before.

    Args:
        rng: Source of their shapes.
        real: Printed pages, for an engine that reads; otherwise boards, for `MarkedEngine`.
    """

    def __init__(self, rng: random.Random, *, real: bool = False) -> None:
        self._rng = rng
        self._lock = threading.Lock()
        self._numbers = itertools.count(rng.randrange(2**31))
        self._printed: dict[tuple[str, int], bytes] = {}
        if real:
            page = printed_page(LINES[:2], size=(900, 300))
            for total in range(1, 5):
                self._printed |= {("TIFF", total): as_tiff([page] * total), ("PDF", total): as_pdf([page] * total)}
            self._printed["PNG", 1] = as_png(page)

    def next(self) -> Paper:
        """Another document: one page or several, all of them asked for or some."""
        with self._lock:
            number, rng = next(self._numbers), self._rng
            kind, total = rng.choice([("PNG", 1), ("TIFF", rng.randint(1, 4)), ("PDF", rng.randint(1, 4))])
            pages, query = tuple(range(1, total + 1)), ""
            if total > 1 and rng.random() < 0.5:
                pages = tuple(sorted(rng.sample(pages, rng.randint(1, total))))
                query = f"?pages={','.join(map(str, pages))}"
            spoilt = rng.choice(pages) if not self._printed and rng.random() < 0.04 else 0
            slow = rng.random() < 0.1
        if self._printed:
            return Paper(number, self._printed[kind, total], pages, query, readable=True, marked=False)
        boards = [board(number, page, unreadable=page == spoilt, slow=slow) for page in range(1, total + 1)]
        return Paper(number, document(kind, boards), pages, query, readable=not spoilt, marked=True)


@dataclass
class Claim:
    """What a client knows of one document that it sent.

    Attributes:
        paper: The document.
        synchronous: Sent to `syncAnalyze`, whose answer is the result.
        fate: `accepted` (202, not over), `read` (the result was seen), `failed` (told so, by name), `refused` (told so
            instead of 202 or a result), `broken` (the connection ended before an answer: anything may have happened).
        operation: The operation's id; empty when the client was never told one.
        error: What was told.
    """

    paper: Paper
    synchronous: bool
    fate: Fate
    operation: str = ""
    error: str = ""


class AwayError(Exception):
    """Nobody answers; nothing was sent."""


def call(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, str, bytes]:
    """One request on a connection of its own: status, `Operation-Location`, body.

    Raises:
        AwayError: No connection was made.
        OSError, HTTPException: It ended before the answer did.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        try:
            connection.connect()
        except OSError as exc:
            raise AwayError(str(exc)) from exc
        kind = {"Content-Type": "application/octet-stream"} if body is not None else {}
        connection.request(method, path, body, {"Connection": "close", **kind})
        answer = connection.getresponse()
        return answer.status, answer.getheader("Operation-Location", ""), answer.read()
    finally:
        connection.close()


class Client(threading.Thread):
    """Sends documents and polls for results, through every death of the service, until told to stop; then polls on.

    Args:
        port: The service's.
        papers: What to send.
        seed: Of its choices.
        answered: Set whenever it has seen something that the ledger must know of, or an acceptance.

    Attributes:
        book: All its claims.
        wrong: What no client may ever see.
        answers: How often it got which answer.
    """

    def __init__(self, port: int, papers: Papers, seed: str, answered: threading.Event) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._papers = papers
        self._rng = random.Random(seed)
        self._answered = answered
        self._enough = threading.Event()
        self._open: list[Claim] = []
        self.book: list[Claim] = []
        self.wrong: list[str] = []
        self.answers: Counter[str] = Counter()
        self.settle_seconds = 90.0

    @property
    def pages_read(self) -> int:
        """Pages whose text it has seen."""
        return sum(len(claim.paper.pages) for claim in list(self.book) if claim.fate == "read")

    def enough(self) -> None:
        """Send nothing more; end when every accepted operation is over."""
        self._enough.set()

    def run(self) -> None:
        while not self._enough.is_set():
            chance = self._rng.random()
            if self._open and (len(self._open) >= _OPEN_AT_MOST or chance < 0.4):
                self._guarded(self._poll)
            elif chance < 0.8:
                self._guarded(self._submit)
            elif chance < 0.97 or not self.book:
                self._guarded(self._read_now)
            else:
                self._guarded(self._look_again)
        until = time.monotonic() + self.settle_seconds
        while self._open and time.monotonic() < until:
            self._guarded(self._poll)
        self.wrong += [
            f"operation {claim.operation} never ended, document {claim.paper.number}" for claim in self._open
        ]

    def _guarded(self, turn: Callable[[], bool]) -> None:
        """Take a turn; wait a little when it brought nothing."""
        try:
            if turn():
                return
        except AwayError:
            self.answers["away"] += 1
        except (OSError, http.client.HTTPException) as exc:
            self.answers[f"broken {type(exc).__name__}"] += 1
        except Exception as exc:  # noqa: BLE001 - a client that fails must say so, not fall silent
            self.wrong.append(f"the client failed: {exc!r}")
        time.sleep(self._rng.uniform(0.005, 0.04))

    def _submit(self) -> bool:
        claim = Claim(self._papers.next(), synchronous=False, fate="broken")
        status, location, body = self._send(claim, f"{READ}/analyze{claim.paper.query}")
        if status != 202:
            claim.fate, claim.error = "refused", body.decode(errors="replace")
            return False
        claim.operation, claim.fate = location[-36:], "accepted"
        self._open.append(claim)
        self._answered.set()
        return True

    def _read_now(self) -> bool:
        claim = Claim(self._papers.next(), synchronous=True, fate="broken")
        status, _, body = self._send(claim, f"{READ}/syncAnalyze{claim.paper.query}")
        if status != 200:
            claim.fate, claim.error = "refused", body.decode(errors="replace")
            return False
        self._compare(claim, json.loads(body))
        claim.fate = "read"
        self._answered.set()
        return True

    def _send(self, claim: Claim, path: str) -> tuple[int, str, bytes]:
        try:
            status, location, body = call(self._port, "POST", path, claim.paper.content)
        except AwayError:
            raise
        except (OSError, http.client.HTTPException):
            self.book.append(claim)
            raise
        self.book.append(claim)
        self.answers[f"{path.partition('?')[0].rpartition('/')[2]} {status}"] += 1
        return status, location, body

    def _poll(self) -> bool:
        claim = self._rng.choice(self._open)
        found = self._look(claim)
        if found is None:
            return False
        if found["status"] == "succeeded":
            self._compare(claim, found)
            claim.fate = "read"
            self._answered.set()
        elif found["status"] == "failed":
            claim.fate = "failed"
            claim.error = found["analyzeResult"]["errors"][0]["code"]
            if not claim.error:
                self.wrong.append(f"operation {claim.operation} failed without a name")
        else:
            return False
        self._open.remove(claim)
        return True

    def _look_again(self) -> bool:
        """What is over stays as it was."""
        claim = self._rng.choice(self.book)
        if not claim.operation or claim.fate == "accepted":
            return False
        found = self._look(claim)
        if found is not None and found["status"] != {"read": "succeeded", "failed": "failed"}[claim.fate]:
            self.wrong.append(f"operation {claim.operation} was {claim.fate} and is {found['status']}")
        return False

    def _look(self, claim: Claim) -> dict[str, Any] | None:
        status, _, body = call(self._port, "GET", f"{READ}/analyzeResults/{claim.operation}")
        self.answers[f"poll {status}"] += 1
        if status == 404:
            self.wrong.append(f"operation {claim.operation} was {claim.fate} and is unknown")
        return dict(json.loads(body)) if status == 200 else None

    def _compare(self, claim: Claim, found: dict[str, Any]) -> None:
        """The result is of this document, and of the pages that were asked for."""
        results = found["analyzeResult"]["readResults"]
        told = [(page["page"], page["lines"][0]["text"] if page["lines"] else "") for page in results]
        wanted = [(page, text_of_board(claim.paper.number, page)) for page in claim.paper.pages]
        if not claim.paper.marked:
            told, wanted = [(page, "") for page, _ in told], [(page, "") for page, _ in wanted]
        if told != wanted:
            self.wrong.append(f"document {claim.paper.number}: wanted {wanted}, got {told}")


class Observer(threading.Thread):
    """Asks for the totals all the time: they are never behind what any client has seen, and never go back.

    Args:
        port: The service's.
        clients: Whose books are looked into.
    """

    def __init__(self, port: int, clients: list[Client]) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._clients = clients
        self._enough = threading.Event()
        self.wrong: list[str] = []
        self.looks = 0

    def enough(self) -> None:
        """Look no more."""
        self._enough.set()

    def run(self) -> None:
        last = 0
        while not self._enough.wait(0.1):
            least = max(last, sum(client.pages_read for client in self._clients))
            try:
                status, _, body = call(self._port, "GET", "/records/usage-logs/")
            except (AwayError, OSError, http.client.HTTPException):
                continue
            if status != 200:
                self.wrong.append(f"/records/usage-logs/ answered {status}: {body!r}")
                continue
            last = sum(meter["quantity"] for meter in json.loads(body)["meters"])
            self.looks += 1
            if last < least:
                self.wrong.append(f"/records/usage-logs/ told {last} pages when clients had seen {least}")
