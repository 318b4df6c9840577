"""Killed at any moment: what a command told is in the books, the trail holds, and the next command goes on."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from licenses.authority.accounts import Accounts
from licenses.authority.audit_trail import AuditTrail
from licenses.authority.database import open_database
from licenses.cli_text import now

PROJECT = Path(__file__).parents[4]
KILLS = 20

WRITER = """
import sys
from licenses.authority.accounts import Accounts
from licenses.authority.audit_trail import AuditTrail
from licenses.authority.database import open_database
from licenses.cli_text import now
database = open_database(sys.argv[1], create=True)
accounts = Accounts(database, AuditTrail(database, now, actor="writer"), now)
sys.stdout.write("ready\\n")
number = int(sys.argv[2])
while True:
    made = accounts.add_customer(f"customer {number}")
    sys.stdout.write(made.id + "\\n")
    sys.stdout.flush()
    number += 1
"""


@pytest.mark.slow
def test_what_was_told_is_in_the_books_after_any_kill(tmp_path):
    path = tmp_path / "authority.db"
    chance = random.Random(8)
    told: list[str] = []
    for number in range(KILLS):
        words = [sys.executable, "-c", WRITER, str(path), str(number * 1_000_000)]
        with subprocess.Popen(words, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            if number % 4:  # else while it opens, makes or migrates the database
                assert writer.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.0, 0.15))
            writer.send_signal(signal.SIGKILL)
            told += [line.strip() for line in writer.stdout.read().splitlines() if line.startswith("c-")]
    database = open_database(path, create=True)
    trail = AuditTrail(database, now, actor="reader")
    known = {one.id for one in Accounts(database, trail, now).customers()}
    assert len(told) > KILLS
    assert set(told) <= known
    assert len(known) <= len(told) + KILLS  # at most one was kept and not told, each time
    assert trail.verify().seq == len(known)  # each with its line, and no line without one
    assert database.one("PRAGMA integrity_check") == {"integrity_check": "ok"}
