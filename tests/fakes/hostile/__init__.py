"""Documents made to break a decoder, as numbered families of samples; nothing here is anybody else's file.

Invariants:

* A sample's name and bytes are the same in every run.
* A sample is made when it is asked for; none is larger than a few megabytes.
"""

import random
from collections.abc import Iterator

from tests.fakes.hostile import damage, pdf, pictures, tiff
from tests.fakes.hostile.sample import ANY, Sample

__all__ = ["ANY", "Sample", "everything", "made", "quick"]


def made() -> Iterator[Sample]:
    """The samples that are each built for a purpose."""
    yield from pictures.samples()
    yield from tiff.samples()
    yield from pdf.samples()


def everything() -> Iterator[Sample]:
    """All: those that are built for a purpose, and good documents of every format that were damaged."""
    yield from made()
    yield from damage.truncated()
    yield from damage.flipped()
    yield from damage.lying()


def quick(count: int = 24, *, seed: int = 6) -> list[Sample]:
    """A few damaged documents, drawn the same way each time."""
    damaged = [*damage.truncated(), *damage.flipped(), *damage.lying()]
    return random.Random(seed).sample(damaged, min(count, len(damaged)))
