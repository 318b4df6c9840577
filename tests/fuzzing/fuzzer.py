"""Mutates documents and watches a decoder process: what crashes it, surprises it or holds its worker is a find.

Invariants:

* A find is kept as bytes, made smaller while it stays a find, under a name that tells what happened.
* What the decoder's budget of time and memory ends is no find, but is told: PDF can always be made to take longer.
* A run is the same for the same seed and seeds, but for how far it comes in its time.
"""

import hashlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ocr_core import documents, errors
from ocr_core.budget import Budget
from ocr_core.decoder_process import FAILED, LOAD, LOOK, TOO_LARGE, TOO_LONG, DecoderProcess
from tests.fuzzing.mutations import mutated

LATEST_SECONDS = 10.0
_MAX_PIXELS = 3_000_000
_MAX_KEPT = 2000
_SMALLER_TRIES = 300
_SMALLER_SECONDS = 20.0
_QUICK_SECONDS = 0.25


@dataclass(kw_only=True)
class Report:
    """What a run did.

    Attributes:
        executions: Documents tried.
        ends: How often each end came.
        finds: What happened → the smallest document that makes it happen.
    """

    executions: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    finds: dict[str, bytes] = field(default_factory=dict)


class Fuzzer:
    """One run.

    Args:
        seeds: Good and bad documents to begin with.
        out: Where finds are kept; None keeps none.
        seed: Of the chance.
        look: What a look may take; as in service unless told otherwise.
        load: What a page may take, likewise.
    """

    def __init__(
        self,
        seeds: Mapping[str, bytes],
        *,
        out: Path | None = None,
        seed: int = 0,
        look: Budget = LOOK,
        load: Budget = LOAD,
    ) -> None:
        self._out = out
        self._chance = random.Random(seed)
        self._look, self._load = look, load
        self._seen: set[str] = set()
        self._decoder = DecoderProcess()
        self.report = Report()
        self._kept = [blob for blob in seeds.values() if self._is_quick(blob)] or list(seeds.values())

    def _is_quick(self, blob: bytes) -> bool:
        """Whether going on from here does not cost the time of many others."""
        started = time.monotonic()
        self.tried(blob)
        return time.monotonic() - started < _QUICK_SECONDS

    def run(self, seconds: float, *, until_finds: int | None = None) -> Report:
        """Go on for so long, or until there are so many finds."""
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                if until_finds is not None and len(self.report.finds) >= until_finds:
                    break
                self._step()
        finally:
            self._decoder.close()
        return self.report

    def _step(self) -> None:
        parent = self._chance.choice(self._kept)
        others = [self._chance.choice(self._kept) for _ in range(3)]
        blob = mutated(parent, others, self._chance)
        started = time.monotonic()
        end = self.tried(blob)
        took = time.monotonic() - started
        if took > LATEST_SECONDS and not end.startswith("busy"):
            end = f"find: took more than {LATEST_SECONDS:g} s {_kind(blob)}"
        self.report.executions += 1
        self.report.ends[end.partition(":")[0]] += 1
        if end.startswith("find"):
            if end not in self.report.finds:
                self._keep(end, self._smaller(blob, end))
        elif end not in self._seen and len(self._kept) < _MAX_KEPT and took < _QUICK_SECONDS:
            self._seen.add(end)
            self._kept.append(blob)  # it went somewhere new: go on from there

    def tried(self, blob: bytes) -> str:
        """What became of a document: read, refused or a find, and how."""
        with tempfile.TemporaryFile() as file:
            file.write(blob)
            file.flush()
            try:
                found = self._decoder.inspect(file, documents.READABLE, budget=self._look)
                sizes = []
                for page in {1, found.pages}:
                    image = self._decoder.load_page(file, page, max_pixels=_MAX_PIXELS, budget=self._load)
                    sizes.append(image.image.width * image.image.height >> 16)
            except errors.InvalidImageError as exc:
                if str(exc) == FAILED:
                    return f"find: {exc} {_kind(blob)}"
                if str(exc) in (TOO_LONG, TOO_LARGE):
                    return f"ended: {_kind(blob)} {exc}"
                return f"refused: {_kind(blob)} {exc}"
            except errors.MachineBusyError:
                return "busy: the machine"
            except errors.FailedToProcessError as exc:
                return f"find: {exc} {_kind(blob)}"
            except errors.CoreError as exc:
                return f"refused: {_kind(blob)} {type(exc).__name__}"
            return f"read: {found.format} {min(found.pages, 3)} {max(sizes)}"

    def _smaller(self, blob: bytes, end: str) -> bytes:
        """Fewer bytes that end the same way."""
        tries, part, until = 0, max(1, len(blob) // 2), time.monotonic() + _SMALLER_SECONDS
        while part and tries < _SMALLER_TRIES:
            at = 0
            while at < len(blob) and tries < _SMALLER_TRIES and time.monotonic() < until:
                tries += 1
                shorter = blob[:at] + blob[at + part :]
                if self.tried(shorter) == end:
                    blob = shorter
                else:
                    at += part
            part //= 2
        return blob

    def _keep(self, end: str, blob: bytes) -> None:
        self.report.finds[end] = blob
        if self._out is not None:
            self._out.mkdir(parents=True, exist_ok=True)
            name = f"{_kind(blob)}-{hashlib.sha256(blob).hexdigest()[:12]}"
            (self._out / name).write_bytes(blob)
            (self._out / f"{name}.txt").write_text(end + "\n", encoding="utf-8")


def _kind(blob: bytes) -> str:
    try:
        return str(documents.sniff(blob[:1024]))
    except errors.CoreError:
        return "unknown"
