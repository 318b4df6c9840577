"""A signal that comes while the main thread waits is noticed, always."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

from sidecar.stop_signal import StopSignal


def test_signal_in_the_middle_of_waiting_never_deadlocks() -> None:
    """With a lock in the handler, a few hundred rounds hang; the timer thread hits every phase of the wait."""
    code = """
import os, random, signal, threading, time
from sidecar.stop_signal import StopSignal
for number in range(450):
    stop = StopSignal()
    delay = random.random() * 0.002
    threading.Thread(target=lambda: (time.sleep(delay), os.kill(os.getpid(), signal.SIGTERM))).start()
    while not stop.wait(0):
        pass
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_wait_ends_with_its_time_and_stays_true_after_the_signal() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop = StopSignal()
        assert not stop.wait(0.01)
        timer = threading.Timer(random.uniform(0.01, 0.05), os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        started = time.monotonic()
        assert stop.wait(10)
        assert time.monotonic() - started < 5
        for _ in range(70000):
            stop._received(15, None)
        assert stop.wait(0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
