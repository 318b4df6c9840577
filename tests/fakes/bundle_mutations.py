"""What somebody without the device's key may do to a bundle, drawn from a seed.

specimen = BundleSpecimen(folder, Random(7))
blob = BUNDLE_MUTATIONS["member edited"](specimen, Random(8))
with_the_pinned_key = specimen.contents(blob)       # raises, or is what was packed

Invariant: whoever makes them packs, sums up and names anew all that bears no signature; what he cannot do is sign the
manifest, so he leaves it, edits it, takes it from another bundle, or signs it with a key of his own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

from licenses import envelope
from licenses.keyring import TrustRoot
from licenses.keys import SigningKey
from licenses.usage_log.bundle import MANIFEST_NAME, BundleFile, seal_bundle, unpack_bundle
from licenses.usage_log.report import Report
from licenses.usage_log.verify import verify_records
from tests.fakes.bundles import archive_of, bundle_files, members_of, packed, span_of, tar_member
from tests.fakes.histories import History, seeded_key
from tests.fakes.mutations import encode

Members = list[tuple[str, bytes]]


class BundleSpecimen:
    """A bundle, an older and another one of the same device, one of another device, and a key of an attacker's own.

    Args:
        folder: An empty folder; best on a file system in memory.
        rng: Decides everything.
    """

    def __init__(self, folder: Path, rng: Random) -> None:
        self.folder = folder
        self.history = History(folder / "output", rng, with_older_versions=False, calm=True)
        self.history.live(2)
        older = self._bundle(self.history)
        self.history.live(rng.randrange(1, 3))
        ends = [int(path.stem.partition("-")[2]) for path in self.history.files[:-1]]
        self.blob = self._bundle(self.history, rng.choice((0, *ends)))
        self.attacker = seeded_key(rng)
        other = History(folder / "other", rng, with_older_versions=False, calm=True)
        other.live(2)
        self.others = [older, self._bundle(self.history, rng.choice(ends)), self._bundle(other)]
        self.others = [blob for blob in self.others if blob != self.blob]
        self.archive = self._archive(self.blob)
        self.members = members_of(self.archive)
        self.packed = dict(self.members)

    def contents(self, blob: bytes) -> dict[str, bytes]:
        """What an auditor with the pinned key gets out of a bundle.

        Raises:
            LicensesError: The bundle is refused.
            AssertionError: It is accepted, but the pinned key does not vouch for it.
        """
        path = self.folder / "usage.tar.gz"
        path.write_bytes(blob)
        with tempfile.TemporaryDirectory(dir=self.folder) as into:
            device = self.history.device.verifying
            manifest = unpack_bundle(path, Path(into), device_keys=[device])
            assert manifest.signer == device, "another log, of which no key was pinned"
            return {str(one.relative_to(into)): one.read_bytes() for one in Path(into).rglob("*") if one.is_file()}

    def audit(self, blob: bytes, trust_root: TrustRoot) -> Report:
        """What an auditor with the pinned key is told of a bundle."""
        path = self.folder / "usage.tar.gz"
        path.write_bytes(blob)
        return verify_records(path, trust_root, device_keys=[self.history.device.verifying])

    def of(self, members: Members) -> bytes:
        """A bundle of these members, in their order."""
        return packed(b"".join(tar_member(name, content) for name, content in members) + bytes(1024))

    def _bundle(self, history: History, since: int = 0, key: SigningKey | None = None) -> bytes:
        files = bundle_files(history, since)
        return b"".join(seal_bundle(files, span_of(history, since), key or history.device).chunks())

    def _archive(self, blob: bytes) -> bytes:
        path = self.folder / "archive"
        path.write_bytes(blob)
        return archive_of(path)


BundleMutator = Callable[[BundleSpecimen, Random], bytes]
BUNDLE_MUTATIONS: dict[str, BundleMutator] = {}


def _mutator(function: BundleMutator) -> BundleMutator:
    BUNDLE_MUTATIONS[function.__name__.strip("_").replace("_", " ")] = function
    return function


def _edited(blob: bytes, rng: Random) -> bytes:
    """One small edit somewhere."""
    at = rng.randrange(len(blob)) if blob else 0
    match rng.randrange(6):
        case 0:
            return blob[:at] + bytes([blob[at] ^ 1 << rng.randrange(8)]) + blob[at + 1 :] if blob else b"x"
        case 1:
            return blob[:at] + rng.randbytes(1) + blob[at + 1 :]
        case 2:
            return blob[:at] + blob[at + rng.choice((1, 2, 100)) :]
        case 3:
            return blob[:at] + rng.choice((rng.randbytes(1), b" ", b"\n", b"\x00", blob[at : at + 9])) + blob[at:]
        case 4:
            return blob + rng.choice((b"\n", b"\x00", rng.randbytes(9), blob))
        case _:
            return blob[:at]


@_mutator
def _packed_bytes_edited(specimen: BundleSpecimen, rng: Random) -> bytes:
    return _edited(specimen.blob, rng)


@_mutator
def _archive_bytes_edited(specimen: BundleSpecimen, rng: Random) -> bytes:
    return packed(_edited(specimen.archive, rng))


@_mutator
def _tar_header_edited(specimen: BundleSpecimen, rng: Random) -> bytes:
    """Other owners, modes, times, kinds, names and lengths, with a good sum."""
    at = rng.randrange(len(specimen.members))
    change = rng.choice(
        (
            {"mode": 0o644},
            {"mode": 0o4555},
            {"uid": 1000},
            {"gid": 1},
            {"mtime": 1},
            {"uname": "root"},
            {"type": b"2", "linkname": "/etc/passwd"},
            {"type": b"1", "linkname": specimen.members[0][0]},
            {"type": b"3"},
            {"type": b"5"},
            {"type": b"6"},
            {"type": b"x"},
            {"type": b"L"},
        )
    )
    pieces = [
        tar_member(name, content, **(change if index == at else {}))
        for index, (name, content) in enumerate(specimen.members)
    ]
    return packed(b"".join(pieces) + bytes(1024))


@_mutator
def _member_edited(specimen: BundleSpecimen, rng: Random) -> bytes:
    members = list(specimen.members)
    at = rng.randrange(len(members))
    members[at] = (members[at][0], _edited(members[at][1], rng))
    return specimen.of(members)


@_mutator
def _member_edited_and_manifest_too(specimen: BundleSpecimen, rng: Random) -> bytes:
    """The manifest tells the new sum, under the old signature or one of the attacker's."""
    members = [one for one in specimen.members if one[0] != MANIFEST_NAME]
    at = rng.randrange(len(members))
    members[at] = (members[at][0], _edited(members[at][1], rng))
    return specimen.of(_with_manifest(specimen, members, rng))


@_mutator
def _members_dropped(specimen: BundleSpecimen, rng: Random) -> bytes:
    members = rng.sample(specimen.members, rng.randrange(len(specimen.members)))
    members.sort()
    if rng.random() < 0.5:
        members = _with_manifest(specimen, [one for one in members if one[0] != MANIFEST_NAME], rng)
    return specimen.of(members)


@_mutator
def _members_shuffled(specimen: BundleSpecimen, rng: Random) -> bytes:
    return specimen.of(rng.sample(specimen.members, len(specimen.members)))


@_mutator
def _contents_swapped(specimen: BundleSpecimen, rng: Random) -> bytes:
    members = list(specimen.members)
    one, two = rng.sample(range(len(members)), 2)
    members[one], members[two] = (members[one][0], members[two][1]), (members[two][0], members[one][1])
    return specimen.of(members)


@_mutator
def _member_added(specimen: BundleSpecimen, rng: Random) -> bytes:
    """A file more, some in places that no file of a bundle has."""
    folder = f"computervisionread/{specimen.history.instance}"
    name = rng.choice(
        (
            f"{folder}/usage/2030/01/900-901.jsonl",
            f"{folder}/checkpoints/900",
            f"{folder}/device.pub",
            "proofs/consistency-1-2.json",
            "../escape",
            "/etc/cron.d/escape",
            f"{folder}/../../escape",
            f"{folder}/usage",
            "README.txt/x",
            "z" * 99,
            rng.choice(specimen.members)[0],
        )
    )
    content = rng.choice((b"", b"x", rng.choice(specimen.members)[1]))
    members = [*specimen.members, (name, content)]
    if rng.random() < 0.7:
        members.sort()
    if rng.random() < 0.3:
        members = _with_manifest(specimen, [one for one in members if one[0] != MANIFEST_NAME], rng)
    return specimen.of(members)


@_mutator
def _spliced(specimen: BundleSpecimen, rng: Random) -> bytes:
    """Members of another bundle, of this device or of another, in place of these; the manifest of either."""
    donor = dict(members_of(specimen._archive(rng.choice(specimen.others))))
    members = dict(specimen.members)
    for name in rng.sample(sorted(donor), rng.randrange(1, len(donor) + 1)):
        members[name] = donor[name]
    if rng.random() < 0.5:
        members[MANIFEST_NAME] = rng.choice((donor, specimen.packed))[MANIFEST_NAME]
    return specimen.of(sorted(members.items()))


@_mutator
def _signed_by_another(specimen: BundleSpecimen, rng: Random) -> bytes:
    """All as it was but for the manifest, which the attacker signs; under his key's id or the device's."""
    members = [one for one in specimen.members if one[0] != MANIFEST_NAME]
    return specimen.of(_with_manifest(specimen, members, rng, edits=rng.random() < 0.5))


@_mutator
def _cut_to_fewer_windows(specimen: BundleSpecimen, rng: Random) -> bytes:
    """Packed anew with fewer record files, as if there had been no more; signed by the attacker."""
    span = span_of(specimen.history)
    names = sorted(name for name, _ in specimen.members if name.endswith(".jsonl"))
    gone = set(names[rng.randrange(len(names)) :])
    files = [
        BundleFile(name=name, chunks=lambda content=content: [content])  # type: ignore[misc]
        for name, content in specimen.members
        if name not in gone and name not in (MANIFEST_NAME, "README.txt")
    ]
    smaller = replace(span, size=max(1, span.size - 1))
    return b"".join(seal_bundle(files, smaller, specimen.attacker).chunks())


def _with_manifest(specimen: BundleSpecimen, members: Members, rng: Random, *, edits: bool = False) -> Members:
    """The members with a manifest that tells their sums; whose signature is no good."""
    signed = json.loads(specimen.packed[MANIFEST_NAME])
    statement = json.loads(base64.b64decode(signed["payload"]))
    statement["subject"] = [
        {"name": name, "digest": {"sha256": hashlib.sha256(content).hexdigest()}} for name, content in sorted(members)
    ]
    if edits:
        predicate = statement["predicate"]
        predicate[rng.choice(("size", "since", "until_ms"))] += rng.choice((-1, 1))
    payload = encode(statement)
    match rng.randrange(3):
        case 0:
            signed["payload"] = base64.b64encode(payload).decode()
            manifest = encode(signed)
        case 1:
            manifest = envelope.seal(payload, envelope.USAGE_BUNDLE_TYPE, [specimen.attacker])
        case _:
            alias = SigningKey(specimen.history.device.key_id, specimen.attacker.private)
            manifest = envelope.seal(payload, envelope.USAGE_BUNDLE_TYPE, [alias])
    return sorted([*members, (MANIFEST_NAME, manifest)])
