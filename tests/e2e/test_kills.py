"""kill -9 of web, meter and core at random points: nothing that was acknowledged is lost, nothing is counted twice.

The short form runs with all tests. The full form is ten thousand kills or more (`FAULTS=full`), or as many as `KILLS`
says; `SEED` repeats the choices of another run. In it the parts are forked from one process that has imported them,
and the core reads boards instead of prose, because what is under test is the counting and not the reading; everything
else is as it is delivered. `test_kills_under_the_launcher` has the real launcher, Tesseract and printed pages.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import sys
import threading
import time
import uuid
from dataclasses import replace

import psutil

from tests.e2e.kill_clients import Claim, Client, Observer, Papers
from tests.e2e.kills import KILLS_PER_SITE, PARTS, Tally, reckon, run_lane, run_lanes, settled_pages, text_of
from tests.e2e.site import Site

KILLS = int(os.environ.get("KILLS", "10000" if os.environ.get("FAULTS") == "full" else "20"))
SEED = os.environ.get("SEED") or secrets.token_hex(3)


def test_kills() -> None:
    began = time.monotonic()
    tally = run_lane(KILLS, SEED) if KILLS <= KILLS_PER_SITE else run_lanes(KILLS, SEED)
    sys.stdout.write(f"\nseed {SEED}, {time.monotonic() - began:.0f} s, {text_of(tally)}\n")
    assert not tally.wrong, f"seed {SEED}\n{text_of(tally)}"
    assert sum(tally.kills.values()) >= KILLS
    assert tally.facts["pages that clients saw"] >= KILLS / 4, text_of(tally)


def test_kills_under_the_launcher() -> None:
    rng = random.Random(SEED)
    site = Site("Metering:MinIntervalSeconds=1", "Metering:MaxIntervalSeconds=1", "Core:Workers=2")
    try:
        site.start()
        papers = Papers(rng, real=True)
        clients = [Client(site.port, papers, f"{SEED} {number}", threading.Event()) for number in range(3)]
        observer = Observer(site.port, clients)
        for thread in (*clients, observer):
            thread.start()
        # The launcher gives a part up that dies more often than five times in a minute.
        for _ in range(2 if KILLS > 20 else 1):
            for part in rng.sample(PARTS, len(PARTS)):
                time.sleep(rng.uniform(0.1, 0.9))
                for process in site.processes(part):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            site.wait_ready()
        for client in clients:
            client.enough()
        for client in clients:
            client.join()
        observer.enough()
        observer.join()
        tally = Tally(wrong=[*observer.wrong, *(line for client in clients for line in client.wrong)])
        told = settled_pages(site, tally)
        assert site.stop() == 0
        reckon(site, clients, told, tally)
        assert not tally.wrong, f"seed {SEED}\n{text_of(tally)}\n{site.log_text()[-3000:]}"
        assert tally.facts["pages that clients saw"] >= 3

        # The reckoning notices an operation or a page that is in one book alone.
        book = next(client.book for client in clients if any(claim.operation for claim in client.book))
        claim = next(claim for claim in book if claim.operation and claim.fate == "read")
        more = replace(claim, paper=replace(claim.paper, pages=(*claim.paper.pages, 99)))
        for forged in (replace(claim, operation=str(uuid.uuid4())), replace(claim, fate="failed"), more):
            assert _is_noticed(site, clients, book, [*book, forged], told)
        assert _is_noticed(site, clients, book, book, told + 1)
    finally:
        site.remove()


def _is_noticed(site: Site, clients: list[Client], book: list[Claim], forged: list[Claim], told: int) -> bool:
    kept, tally = list(book), Tally()
    book[:] = forged
    try:
        reckon(site, clients, told, tally)
    finally:
        book[:] = kept
    return bool(tally.wrong)
