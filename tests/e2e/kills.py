"""kill -9 of web, meter and core at random points of their lives, while clients work; then the books are compared.

The parts are real processes, the clients real HTTP clients, the signals and files real. Two things are made quick, so
that ten thousand kills fit into an hour: the parts are forked from a process that has imported them (see `zygote`),
and the core reads boards with `MarkedEngine` instead of prose with Tesseract. What is under test is the counting.

`python -m tests.e2e.kills KILLS SEED` runs one lane. The seed fixes the choices, not the moments: those are the
machine's own. A site that fails is kept, and its folder and seed are printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from licenses.device_key import load_device_public
from licenses.keyring import load_trust_root
from licenses.model import READ_PAGES_METER
from licenses.usage_log.verify import verify_records
from tests.e2e.kill_clients import Client, Observer, Papers
from tests.e2e.site import Site, wait_until
from tests.e2e.zygote import ROOT, Zygote

PARTS = ("web", "meter", "core")
KILLS_PER_SITE = 300
CLIENTS = 4
_KILLS_WITHOUT_A_PAGE = 4
_WINDOW = ("Metering:MinIntervalSeconds=1", "Metering:MaxIntervalSeconds=1")
# How a part is killed. A master's workers outlive it for a moment; "stopping" is kill -9 in the middle of SIGTERM.
_MANNERS = {
    "web": (("group", 55), ("worker", 30), ("stopping", 10), ("master", 5)),
    "meter": (("group", 75), ("stopping", 25)),
    "core": (("group", 50), ("worker", 25), ("master", 25)),
}
# When: at any time, soon after a start, around the end of a window, just after the ledger was written to, just after a
# client got an answer, or after a rest.
_MOMENTS = (("any", 25), ("start", 20), ("window", 15), ("commit", 20), ("answer", 12), ("rest", 8))


class KillSite(Site):
    """A site whose parts are forked from a zygote, and kept alive by the test instead of the launcher."""

    def __init__(self, zygote: Zygote, *settings: str) -> None:
        super().__init__(*_WINDOW, "Core:Workers=2", *settings)
        self._zygote = zygote
        self.pids: dict[str, int] = {}
        self.began: dict[str, float] = {}
        self.starts: Counter[str] = Counter()
        self.exits: Counter[str] = Counter()
        self.masterless = False

    def start_part(self, part: str) -> None:
        self.pids[part] = self._zygote.start(part, self.words, self.folder / f"{part}.log")
        self.began[part] = time.monotonic()
        self.starts[part] += 1

    def kill(self, part: str, manner: str, rng: random.Random) -> None:
        """Send the signal; a part that is gone with it is waited for and not started again."""
        pid = self.pids[part]
        if pid in self._zygote.ended():
            self.keep()
            pid = self.pids[part]
        if manner == "worker" and (workers := _children(pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
            return  # the master starts another
        with contextlib.suppress(ProcessLookupError):  # it may just have ended by itself
            if manner == "stopping":
                os.kill(pid, signal.SIGTERM)
                time.sleep(rng.random() * rng.choice([0.003, 0.03, 0.2]))
            if manner == "master":
                self.masterless |= part == "web"
                os.kill(pid, signal.SIGKILL)
            else:
                os.killpg(pid, signal.SIGKILL)
        wait_until(lambda: pid in self._zygote.ended(), 10, f"{part} does not die")
        del self.pids[part]

    def keep(self) -> None:
        """Start again what is gone, as the launcher would, and remember what ended by itself."""
        ended = self._zygote.ended()
        for part in PARTS:
            pid = self.pids.get(part)
            if pid is None:
                self.start_part(part)
            elif pid in ended:
                self.exits[f"{part} {ended[pid]}"] += 1
                self.start_part(part)

    def end_part(self, part: str) -> int:
        """SIGTERM; the exit code."""
        pid = self.pids.pop(part)
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: pid in self._zygote.ended(), 15, f"{part} does not stop")
        return self._zygote.ended()[pid]

    def crash(self) -> None:
        for pid in self.pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self.pids.clear()
        super().crash()

    def deadline(self) -> float:
        """Seconds until the open window is to be closed; zero when nobody knows."""
        try:
            ns = int(json.loads((self.folder / "state" / "meter.json").read_bytes())["deadline_ns"])
        except (OSError, ValueError, KeyError):
            return 0.0
        return (ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@dataclass
class Tally:
    """What happened on a site, and what was wrong with it."""

    kills: Counter[str] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.kills += other.kills
        self.facts += other.facts
        self.wrong += other.wrong

    def to_json(self) -> dict[str, object]:
        """For another process."""
        return {"kills": dict(self.kills), "facts": dict(self.facts), "wrong": self.wrong}


def _drawn(rng: random.Random, weighted: Iterable[tuple[str, int]]) -> str:
    names, weights = zip(*weighted, strict=True)
    return str(rng.choices(names, weights)[0])


class Campaign:
    """Some hundred kills of one site, and the reckoning.

    Args:
        site: Fresh; this starts it.
        seed: Of all choices.
        kills: How many.
    """

    def __init__(self, site: KillSite, seed: str, kills: int) -> None:
        self._site = site
        self._rng = random.Random(seed)
        self._kills = kills
        self._answered = threading.Event()
        papers = Papers(random.Random(f"{seed} papers"))
        self._clients = [Client(site.port, papers, f"{seed} {n}", self._answered) for n in range(CLIENTS)]
        self._observer = Observer(site.port, self._clients)
        self._tally = Tally()

    def run(self) -> Tally:
        site, tally = self._site, self._tally
        site.keep()
        site.wait_ready()
        for thread in (*self._clients, self._observer):
            thread.start()
        seen, since = 0, 0
        while (kills := sum(tally.kills.values())) < self._kills:
            if (now := self._pages_read()) > seen:
                seen, since = now, kills
            elif kills - since >= _KILLS_WITHOUT_A_PAGE:
                self._rest_until_more_than(seen)
                since = kills
            self._round()
        for client in self._clients:
            client.enough()
        while any(client.is_alive() for client in self._clients):
            site.keep()
            time.sleep(0.05)
        self._observer.enough()
        self._observer.join()
        tally.wrong += self._observer.wrong
        for client in self._clients:
            tally.wrong += client.wrong
            tally.facts.update(client.answers)
        tally.facts["looks at totals"] += self._observer.looks
        tally.facts.update({f"{part} started": count for part, count in site.starts.items()})
        # With the master gone its worker keeps the port for a while: the next web process may have to give up once.
        allowed = {"web 1"} if site.masterless else set()
        tally.wrong += [f"ended by itself: {name}" for name in site.exits if name not in allowed]
        tally.facts.update({f"ended by itself: {name}": count for name, count in site.exits.items()})
        wait_until(self._is_ready, 60, "not ready at the end")
        told = settled_pages(site, tally)
        site.keep()
        codes = {part: site.end_part(part) for part in PARTS}
        if set(codes.values()) != {0}:
            tally.wrong.append(f"the stop was not clean: {codes}")
        reckon(site, self._clients, told, tally)
        return tally

    def _pages_read(self) -> int:
        return sum(client.pages_read for client in self._clients)

    def _rest_until_more_than(self, pages: int, seconds: float = 5.0) -> None:
        """Kill nobody until a page is seen: a service that never gets to work has nothing to lose."""
        until = time.monotonic() + seconds
        while self._pages_read() <= pages and time.monotonic() < until:
            self._site.keep()
            time.sleep(0.02)
        self._tally.facts["rests for want of a page"] += 1

    def _is_ready(self) -> bool:
        self._site.keep()
        return self._site.ready() == 200

    def _round(self) -> None:
        """One moment, one to three parts killed, all started again."""
        site, rng = self._site, self._rng
        moment = _drawn(rng, _MOMENTS)
        victims = rng.sample(PARTS, rng.choices([1, 2, 3], [65, 20, 15])[0])
        if moment == "window" and "meter" not in victims:
            victims[0] = "meter"
        if moment in {"answer", "commit"} and "web" not in victims:
            victims[0] = "web"
        self._await(moment, victims)
        site.keep()
        for part in victims:
            manner = _drawn(rng, _MANNERS[part])
            site.kill(part, manner, rng)
            self._tally.kills[f"{part} {manner}"] += 1
        self._tally.facts[f"moment: {moment}"] += 1
        if "meter" in victims and "web" in site.pids:
            self._tally.facts.update(_meter_was(site))
        if "web" in victims and "meter" in site.pids:
            self._tally.facts.update(_web_was(site))
        if rng.random() < 0.1:
            time.sleep(rng.random() * 0.5)
        in_order = sorted(victims, key=("core", "meter", "web").index)  # as the launcher does
        for part in in_order if rng.random() < 0.6 else rng.sample(victims, len(victims)):
            if part not in site.pids:
                site.start_part(part)

    def _await(self, moment: str, victims: list[str]) -> None:
        rng, site = self._rng, self._site
        if moment == "any":
            time.sleep(rng.random() * 0.3)
        elif moment == "start":
            since = time.monotonic() - max(site.began[part] for part in victims)
            time.sleep(max(0.0, rng.random() * 0.15 - since))
        elif moment == "window":
            left = site.deadline()
            if 0 < left < 1.5:
                time.sleep(left + rng.random() * 0.06)
        elif moment == "commit":
            self._until_commit(1.0)
            time.sleep(rng.random() * rng.choice([0.001, 0.005, 0.02]))
        elif moment == "answer":
            self._answered.clear()
            self._answered.wait(1.0)
            time.sleep(rng.random() * rng.choice([0.002, 0.02]))
        else:
            time.sleep(rng.uniform(0.4, 1.2))

    def _until_commit(self, seconds: float) -> None:
        """Wait until somebody writes to the ledger: the count was made, and its result cannot be seen yet."""
        journal = self._site.folder / "state" / "ledger.db-wal"
        until = time.monotonic() + seconds
        before = _written(journal)
        while _written(journal) == before and time.monotonic() < until:
            time.sleep(0.0002)


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _meter_was(site: KillSite) -> list[str]:
    """Where in a cycle the meter was when it was killed, as far as what it left behind tells."""
    found = []
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_ledger(site)) as db:
        for root, file in db.execute("SELECT root, file_sha256 FROM seal WHERE file_sha256 IS NULL"):
            found.append("meter was: window closed, not sealed" if root is None else "meter was: sealed, not written")
            assert file is None
    if next(site.folder.glob("output/computervisionread/*/usage/*/*/.*"), None):
        found.append("meter was: in the middle of a record file")
    return found


def _web_was(site: KillSite) -> list[str]:
    """Whether the web was killed between counting an operation and showing its result."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_ledger(site)) as db:
        last = db.execute("SELECT body FROM entry WHERE kind = 'use' ORDER BY seq DESC LIMIT 30").fetchall()
        folders = {site.folder / "share" / "operations" / json.loads(row[0])["id"] for row in last}
        if any((folder / "request.json").exists() and not (folder / "outcome.json").exists() for folder in folders):
            return ["web was: counted, not shown"]
    return []


def _ledger(site: Site) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{site.folder / 'state' / 'ledger.db'}?mode=ro", uri=True)


# ---- the reckoning --------------------------------------------------------------------------------------------------


def settled_pages(site: Site, tally: Tally) -> int:
    """What the service says it counted, once nothing is unfinished in its spool."""

    def unfinished() -> list[str]:
        return [
            folder.name
            for folder in (site.folder / "share" / "operations").iterdir()
            if (folder / "request.json").exists() and not (folder / "outcome.json").exists()
        ]

    with contextlib.suppress(AssertionError):
        wait_until(lambda: not unfinished(), 20, "unfinished")
    tally.wrong += [f"operation {one} was accepted and never ended" for one in unfinished()]
    return site.pages()


def reckon(site: Site, clients: list[Client], told: int, tally: Tally) -> None:
    """Compare the clients' books, the ledger, the records, the spool and the totals of a site that has been stopped."""
    wrong = tally.wrong
    with contextlib.closing(_ledger(site)) as db:
        lines = [bytes(row[0]) for row in db.execute("SELECT body FROM entry ORDER BY seq")]
    entries = [json.loads(line) for line in lines]
    uses = [(entry["id"], entry["page"]) for entry in entries if entry["kind"] == "use"]
    counted: dict[str, tuple[int, ...]] = {}
    for operation, page in sorted(uses):
        counted[operation] = (*counted.get(operation, ()), page)

    # Each page once; ledger, totals, records and the auditor agree.
    doubled = [use for use, times in Counter(uses).items() if times > 1]
    wrong += [f"counted twice: {use}" for use in doubled]
    quantities = {entry["meter"]["quantity"] for entry in entries if entry["kind"] == "use"}
    if quantities - {1}:
        wrong.append(f"quantities {quantities}")
    if told != len(uses):
        wrong.append(f"/records/usage-logs/ told {told} pages, the ledger has {len(uses)}")
    recorded = list(_record_lines(site))
    if recorded != lines:
        wrong.append(f"{len(recorded)} entries in the record files are not the ledger's {len(lines)}")
    report = verify_records(
        site.folder / "output",
        load_trust_root(site.trust_root),
        device_keys=[load_device_public(site.folder / "state")],
    )
    for one in report.instances:
        if str(one.verdict) != "good":
            wrong.append(f"the auditor says {one.verdict}: {one.findings}")
        if one.meters.get(READ_PAGES_METER, 0) != len(uses):
            wrong.append(f"the auditor counts {one.meters}, the ledger has {len(uses)}")
    if len(report.instances) != 1 or report.findings:
        wrong.append(f"the auditor found {report}")

    # Each operation that a client knows by its id.
    book = [claim for client in clients for claim in client.book]
    known = {claim.operation: claim for claim in book if claim.operation}
    for operation, claim in known.items():
        wanted = claim.paper.pages if claim.fate == "read" else ()
        if counted.get(operation, ()) != wanted:
            wrong.append(f"{operation} is {claim.fate}, {wanted} are due, counted {counted.get(operation, ())}")
        if claim.fate == "read" and not claim.paper.readable:
            wrong.append(f"{operation} was read and cannot be")

    # The others: answers of syncAnalyze bear no id, and a broken connection may have been an operation or none.
    others = {operation: pages for operation, pages in counted.items() if operation not in known}
    owed = Counter(claim.paper.pages for claim in book if claim.fate == "read" and claim.synchronous)
    may = Counter(claim.paper.pages for claim in book if claim.fate == "broken" and claim.paper.readable)
    have = Counter(others.values())
    for pages in {*have, *owed}:
        if not owed[pages] <= have[pages] <= owed[pages] + may[pages]:
            wrong.append(
                f"pages {pages} of operations without an id: {have[pages]} counted, {owed[pages]} seen, "
                f"{may[pages]} on broken connections"
            )

    # What lies in the spool is counted if it was read, and not if not; it is of a document that somebody sent.
    broken = {claim.paper.number: claim for claim in book if claim.fate == "broken"}
    kept = 0
    for folder in (site.folder / "share" / "operations").iterdir():
        outcome = folder / "outcome.json"
        if not outcome.exists():
            continue
        read = json.loads(outcome.read_bytes())["status"] == "succeeded"
        if read and folder.name not in known and not (folder / "result.jsonl").exists():
            tally.facts["web was: about to remove a result that it had answered with"] += 1
            continue
        results = [json.loads(line) for line in (folder / "result.jsonl").read_bytes().splitlines()] if read else []
        if counted.get(folder.name, ()) != tuple(page["page"] for page in results):
            wrong.append(f"{folder.name} in the spool is not what was counted: {counted.get(folder.name)}")
        if folder.name not in known and results and book[0].paper.marked:
            number = int(results[0]["lines"][0]["text"].split()[1])
            if broken.pop(number, None) is None:
                wrong.append(f"{folder.name} is of document {number}, which nobody sent on a broken connection")
            kept += 1
    for operation, claim in known.items():
        if not (site.folder / "share" / "operations" / operation / "outcome.json").exists():
            wrong.append(f"{operation} is {claim.fate} and not in the spool")

    fates = Counter(claim.fate for claim in book)
    tally.facts.update({f"documents {fate}": count for fate, count in fates.items()})
    tally.facts.update(Counter(f"failed: {claim.error}" for claim in book if claim.fate == "failed"))
    refusals = [claim.error for claim in book if claim.fate == "refused"]
    tally.facts.update(f"refused: {re.sub('[0-9a-f-]{8,}', '…', text)[:160]}" for text in refusals)
    tally.facts.update(_complaints(site))
    tally.facts["pages that clients saw"] += sum(client.pages_read for client in clients)
    tally.facts["pages counted"] += len(uses)
    tally.facts["operations counted and seen by nobody, in the spool"] += kept
    tally.facts["operations counted and seen by nobody, gone"] += len(others) - kept - sum(owed.values())
    tally.facts["record files"] += sum(1 for _ in site.folder.glob("output/computervisionread/*/usage/*/*/*.jsonl"))
    litter = [path for name in ("output", "state") for path in site.folder.glob(f"{name}/**/.*") if path.is_file()]
    tally.facts.update(f"left behind: {re.sub('[0-9]+', '…', path.name)}" for path in litter)


def _complaints(site: Site) -> Iterator[str]:
    """What the parts logged of errors, without what differs from one to the next."""
    for log in site.folder.glob("*.log"):
        text = log.read_text(errors="replace")
        found = re.findall(r"(?m)^(?:fail|crit): .*\n +(.*)$|^(\w[\w.]*(?:Error|Exception)\b.*)$", text)
        for one in found:
            plain = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|/tmp/\S+|\d+", "…", "".join(one))
            yield f"{log.stem} logged: {plain[:160]}"


def _record_lines(site: Site) -> Iterator[bytes]:
    """The entries' exact lines in all record files, in order."""
    files = site.folder.glob("output/computervisionread/*/usage/*/*/*.jsonl")
    for path in sorted(files, key=lambda path: int(path.name.partition("-")[0])):
        yield from path.read_bytes().splitlines()[1:-1]


# ---- lanes ----------------------------------------------------------------------------------------------------------


def run_site(zygote: Zygote, seed: str, kills: int) -> Tally:
    """One site: start, kill, settle, reckon. When something is wrong its folder is kept."""
    rng = random.Random(seed)
    site = KillSite(zygote, f"Sidecar:WebWorkers={rng.choice([1, 1, 2])}")
    try:
        tally = Campaign(site, seed, kills).run()
    except BaseException:
        _say(f"seed {seed}: stopped; the site is kept in {_kept(site)}")
        raise
    if tally.wrong:
        tally.wrong.append(f"seed {seed}; the site is kept in {_kept(site)}")
    site.remove()
    return tally


def _kept(site: Site) -> str:
    site.crash()
    kept = Path(f"{site.folder}-kept")
    shutil.copytree(site.folder, kept, ignore=shutil.ignore_patterns("core.sock"))
    return str(kept)


def run_lane(kills: int, seed: str, *, per_site: int = KILLS_PER_SITE) -> Tally:
    """As many kills as asked for, on one fresh site after the other."""
    total, began, zygote = Tally(), time.monotonic(), Zygote()
    try:
        number = 0
        while (left := kills - sum(total.kills.values())) > 0:
            number += 1
            tally = run_site(zygote, f"{seed}.{number}", min(left, per_site))
            total.add(tally)
            done, seconds = sum(total.kills.values()), time.monotonic() - began
            _say(
                f"lane {seed}: {done} kills in {seconds:.0f} s ({done / seconds:.2f}/s), site {number}: "
                f"{tally.facts['pages counted']} pages counted, {tally.facts['pages that clients saw']} seen, "
                f"{len(tally.wrong)} wrong"
            )
            for line in tally.wrong[:30]:
                _say(f"  WRONG {line}")
    finally:
        zygote.close()
    return total


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def text_of(tally: Tally) -> str:
    """A tally as lines of text."""
    lines = [f"{sum(tally.kills.values())} kills"]
    lines += [f"  {count:7} {name}" for name, count in sorted((*tally.kills.items(), *tally.facts.items()))]
    return "\n".join([*lines, f"{len(tally.wrong)} wrong", *(f"  {line}" for line in tally.wrong[:50])])


def run_lanes(kills: int, seed: str, lanes: int = 2) -> Tally:
    """The same in several processes side by side; what they say goes to standard output."""
    total = Tally()
    with tempfile.TemporaryDirectory() as folder:
        books = [Path(folder) / f"{number}.json" for number in range(lanes)]
        running = [
            subprocess.Popen(
                [sys.executable, "-m", __name__, str(-(-kills // lanes)), f"{seed}-{number}", str(book)], cwd=ROOT
            )
            for number, book in enumerate(books)
        ]
        for number, (lane, book) in enumerate(zip(running, books, strict=True)):
            lane.wait()
            if book.exists():
                found = json.loads(book.read_text())
                total.add(Tally(Counter(found["kills"]), Counter(found["facts"]), list(found["wrong"])))
            else:
                total.wrong.append(f"lane {seed}-{number} ended with {lane.returncode}")
    return total


if __name__ == "__main__":
    outcome = run_lane(int(sys.argv[1]), sys.argv[2])
    if len(sys.argv) > 3:
        Path(sys.argv[3]).write_text(json.dumps(outcome.to_json()))
    else:
        _say(text_of(outcome))
    sys.exit(bool(outcome.wrong))
