"""The folder of licence files, shared by all threads of one process.

Invariant: one `LicenseWatch` behind one lock; every look happens at the effective time that the caller computed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from licenses.host import collect
from licenses.keyring import TrustRoot
from licenses.keys import VerifyingKey
from licenses.watch import LicenseView, LicenseWatch
from sidecar import __version__
from sidecar.settings import Settings

LEASE_NAME = "lease.dsse.json"

__all__ = ["LEASE_NAME", "LicenseMount", "LicenseView"]


class Remembered(Protocol):
    """What the ledger remembers of licences."""

    @property
    def license_floors(self) -> Mapping[str, int]:
        """The highest sequence ever in force, by licence id."""

    @property
    def license_pages(self) -> Mapping[str, int]:
        """Pages counted, by licence id."""


class LicenseMount:
    """The licence folder, the trust root and the lease's place.

    Args:
        settings: Where they are.
        keeper: Whether this process writes down the licence in force; the meter does.
        monotonic: Seconds from a clock that never steps.
    """

    def __init__(
        self, settings: Settings, *, keeper: bool = False, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._watch = LicenseWatch(
            settings.license_folder,
            trust_root_path=settings.trust_root,
            state_directory=settings.core_state_directory,
            host=collect(operator_id=settings.host_id or None),
            keeper=keeper,
            monotonic=monotonic,
        )
        self._lock = threading.Lock()
        self.lease_path: Path = settings.state_directory / LEASE_NAME

    @property
    def device(self) -> VerifyingKey | None:
        """The device's public key; None before the meter's first start."""
        with self._lock:
            return self._watch.device

    @property
    def trust_root(self) -> TrustRoot | None:
        """The trust root; None when none can be read."""
        with self._lock:
            return self._watch.trust_root

    @property
    def vendor(self) -> str:
        """The vendor's domain, as the trust root names it."""
        with self._lock:
            return self._watch.trust_root.vendor if self._watch.trust_root else "unknown.invalid"

    def look(self, at: datetime, remembered: Remembered | None = None) -> LicenseView:
        """Read the folder and judge what is there.

        Args:
            at: The effective time, aware UTC.
            remembered: What the ledger remembers; None where there is none yet.
        """
        floors = {} if remembered is None else remembered.license_floors
        used = {} if remembered is None else remembered.license_pages
        with self._lock:
            return self._watch.look(at, sequence_floor=floors, used=used, product_version=__version__)

    def vouches(self, license_id: str, sequence: int, at: datetime) -> bool:
        """Whether the meter's licence in force is this one, and serves."""
        with self._lock:
            return self._watch.vouches(license_id, sequence, at)
