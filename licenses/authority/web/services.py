"""What stands behind the routes, as the application carries it.

Invariant: built once in each process, after the fork; the routes hold nothing of their own.
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from flask import Flask

from licenses.authority.accounts import Accounts
from licenses.authority.audit_trail import AuditTrail, Clock
from licenses.authority.clerk_access import ClerkAccess
from licenses.authority.database import Database
from licenses.authority.intake import Intake
from licenses.authority.licensing import USUAL_TERMS, Licensing, Terms
from licenses.authority.vendor_keys import VendorKeys
from licenses.errors import BusyError

EXTENSION = "authority"
MAX_BUNDLE_BYTES = 1024**3
UPLOADS = 6
UPLOADS_EACH = 2
CALLS_PER_SECOND = 200.0
CALLS_AT_ONCE = 1000
_VERIFY_SECONDS = 120.0


class Uploads:
    """Where bundles lie while they are looked at, how large they may be, and how many come at once.

    Args:
        folder: For nobody else; made when the first bundle comes.
        max_bytes: Largest bundle.
        at_once: How many are taken in at the same time; the others are told to come back. One is the clerk's.
        each: How many of these one subscription may have, so that it does not keep out the others.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int = MAX_BUNDLE_BYTES, at_once: int = UPLOADS, each: int = UPLOADS_EACH
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._at_once = at_once
        self._each = each
        self._taken: Counter[str | None] = Counter()
        self._lock = threading.Lock()
        self._verifier = threading.Lock()

    @contextlib.contextmanager
    def place(self, subscription: str | None) -> Iterator[None]:
        """Hold one of the places; a slow sender takes only one, and reports need none.

        Args:
            subscription: Whose bundle comes; None for the clerk's, who may have all places, and for whom one is kept.

        Raises:
            BusyError: All that it may have are taken.
        """
        with self._lock:
            total = self._taken.total()
            of_subscriptions = total - self._taken[None]
            if total >= self._at_once or (subscription is not None and of_subscriptions >= self._at_once - 1):
                raise BusyError("as many bundles as are taken in at once are on their way", retry_after=30)
            if subscription is not None and self._taken[subscription] >= self._each:
                raise BusyError("as many of your bundles as are taken in at once are on their way", retry_after=30)
            self._taken[subscription] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[subscription] -= 1
                if not self._taken[subscription]:
                    del self._taken[subscription]

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait to be the one bundle that is verified: that takes a processor, and reports need one, too.

        Raises:
            BusyError: The turn did not come in two minutes.
        """
        if not self._verifier.acquire(timeout=_VERIFY_SECONDS):
            raise BusyError("other bundles are still being verified", retry_after=60)
        try:
            yield
        finally:
            self._verifier.release()


class CallRate:
    """How often each caller may call: so many times a second, and so many at once after a silence.

    Args:
        per_second: Calls a second in the long run.
        at_once: Calls that may come together.
        monotonic: Where the time comes from, in seconds.
    """

    def __init__(
        self,
        per_second: float = CALLS_PER_SECOND,
        at_once: int = CALLS_AT_ONCE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second = per_second
        self._at_once = at_once
        self._monotonic = monotonic
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def wait_seconds(self, caller: str) -> float:
        """Count a call.

        Args:
            caller: Who calls; callers are remembered, so there must be an end to them.

        Returns:
            0 for a call that may be; else the seconds after which one may be, and nothing was counted.
        """
        now = self._monotonic()
        with self._lock:
            left, seen = self._left.get(caller, (float(self._at_once), now))
            left = min(float(self._at_once), left + (now - seen) * self._per_second)
            enough = left >= 1
            self._left[caller] = (left - 1 if enough else left, now)
        return 0.0 if enough else (1 - left) / self._per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class ClerkOffice:
    """What the clerk's pages need besides: they change things in the clerk's own name.

    Attributes:
        access: Who is let in.
        trail: The audit trail, as anybody writes it.
        clock: The vendor's time.
        terms: How long licences last.
    """

    access: ClerkAccess
    trail: AuditTrail
    clock: Clock
    terms: Terms = USUAL_TERMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The vendor's side.

    Attributes:
        database: Everything that is known.
        accounts: Customers, subscriptions and their keys.
        licensing: Devices and their licences.
        intake: What takes in reports and bundles.
        keys: The vendor's keys.
        uploads: Where bundles lie while they are looked at.
        calls: How often a subscription may call.
        clerk: What the clerk's pages need; None serves none.
    """

    database: Database
    accounts: Accounts
    licensing: Licensing
    intake: Intake
    keys: VendorKeys
    uploads: Uploads
    calls: CallRate = field(default_factory=CallRate)
    clerk: ClerkOffice | None = None


def services(app: Flask) -> Services:
    """The services of an application."""
    return cast(Services, app.extensions[EXTENSION])
