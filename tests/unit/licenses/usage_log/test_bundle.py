"""The bundle: one spelling, common tools read it, and no hostile archive gets further than its first wrong byte."""

import base64
import gzip
import hashlib
import io
import json
import os
import re
import resource
import shutil
import subprocess
import tarfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licenses import envelope
from licenses.errors import BadSignatureError, FileAccessError, LicensesError, RecordError, UntrustedKeyError
from licenses.keys import SigningKey
from licenses.usage_log import bundle as bundle_module
from licenses.usage_log.bundle import (
    MANIFEST_NAME,
    BundleFile,
    Span,
    check_proof,
    is_bundle,
    plain_file,
    proof_name,
    unpack_bundle,
    write_bundle,
)
from licenses.usage_log.entry import leaf_hash
from licenses.usage_log.merkle import root_of
from licenses.usage_log.note import Checkpoint
from tests.fakes.bundles import a_bundle, archive_of, bundle_files, members_of, packed, span_of, tar_member
from tests.fakes.records import FakeMeter


@pytest.fixture
def meter(tmp_path):
    meter = FakeMeter(tmp_path / "output")
    for uses in (3, 0, 2):
        meter.window(uses=uses)
    return meter


@pytest.fixture
def path(meter, tmp_path):
    return a_bundle(meter, tmp_path)


def _refused(tmp_path, blob: bytes, words: str, **options) -> None:
    bad, into = tmp_path / "bad.tar.gz", tmp_path / "into"
    bad.write_bytes(blob)
    with pytest.raises(RecordError, match=words):
        unpack_bundle(bad, into, **options)
    outside = {found.name for found in tmp_path.iterdir()} - {"into", "bad.tar.gz", "output"}
    assert all(name.startswith("usage-") for name in outside)
    shutil.rmtree(into, ignore_errors=True)


# ---- what an honest one is ------------------------------------------------------------------------------------------


def test_bundle_is_read_back(meter, path, tmp_path):
    manifest = unpack_bundle(path, tmp_path / "into", device_keys=[meter.device.verifying])
    assert (manifest.span, manifest.signer) == (span_of(meter), meter.device.verifying)
    for original in meter.files:
        copy = tmp_path / "into" / manifest.span.folder / original.relative_to(meter.folder)
        assert copy.read_bytes() == original.read_bytes()
    assert len(manifest.files) == len(meter.files) + 4
    assert path.name == f"usage-{meter.origin.replace('/', '-')}-{meter.size}.tar.gz"


def test_same_content_gives_the_same_bytes_in_any_order(meter, path):
    again = io.BytesIO()
    write_bundle(again, reversed(bundle_files(meter)), span_of(meter), meter.device)
    assert again.getvalue() == path.read_bytes()


def test_archive_is_spelled_as_tarfile_spells_it(path):
    archive = archive_of(path)
    members = members_of(archive)
    assert [name for name, _ in members] == sorted(name for name, _ in members)
    assert archive == b"".join(tar_member(name, content) for name, content in members) + bytes(1024)


def test_common_tools_read_it(meter, path, tmp_path):
    out = tmp_path / "by-tar"
    out.mkdir()
    subprocess.run(["tar", "-xzf", path, "-C", out], check=True)
    subprocess.run(["gzip", "--test", path], check=True)
    manifest = unpack_bundle(path, tmp_path / "into")
    sums = "".join(f"{digest}  {name}\n" for name, digest in manifest.files.items())
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict"], input=sums.encode(), cwd=out, check=True, capture_output=True
    )
    assert checked.stdout.count(b": OK") == len(manifest.files)
    with tarfile.open(path) as tar:
        assert {(one.mode, one.uid, one.gid, one.mtime, one.uname) for one in tar} == {(0o444, 0, 0, 0, "")}


def test_readme_tells_a_command_that_works(path, tmp_path):
    if shutil.which("jq") is None:
        pytest.skip("needs jq")
    manifest = unpack_bundle(path, tmp_path / "into")
    readme = (tmp_path / "into" / "README.txt").read_text()
    command = next(line.strip() for line in readme.splitlines() if "sha256sum" in line)
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path / "into", check=True, capture_output=True)
    assert done.stdout.count(b": OK") == len(manifest.files)


def test_manifest_is_an_in_toto_statement(path, tmp_path):
    unpack_bundle(path, tmp_path / "into")
    statement = json.loads(base64.b64decode(json.loads((tmp_path / "into" / MANIFEST_NAME).read_bytes())["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert set(statement) == {"_type", "subject", "predicateType", "predicate"}
    for subject in statement["subject"]:
        content = (tmp_path / "into" / subject["name"]).read_bytes()
        assert subject["digest"] == {"sha256": hashlib.sha256(content).hexdigest()}


def test_bundle_without_a_pinned_key_proves_nothing(path, tmp_path):
    stranger = SigningKey.generate("device").verifying
    assert unpack_bundle(path, tmp_path / "a").signer is None
    assert unpack_bundle(path, tmp_path / "b", device_keys=[stranger]).signer is None


def test_part_of_a_log_carries_its_proof(meter, tmp_path):
    since = 6
    path = a_bundle(meter, tmp_path, since=since)
    manifest = unpack_bundle(path, tmp_path / "into")
    proof = (tmp_path / "into" / proof_name(manifest.span)).read_bytes()
    root = root_of(map(leaf_hash, meter.lines[:since]))
    check_proof(proof, manifest.span, Checkpoint(meter.origin, since, root))
    for wrong in (
        Checkpoint(meter.origin, since, bytes(32)),
        Checkpoint(meter.origin, since - 1, root),
        Checkpoint("x/y", since, root),
    ):
        with pytest.raises(RecordError):
            check_proof(proof, manifest.span, wrong)
    for blob in (b"{}", proof.replace(b'"proof":["', b'"proof":["00'), b"", proof[:-20]):
        with pytest.raises(RecordError):
            check_proof(blob, manifest.span, Checkpoint(meter.origin, since, root))


def test_progress_reaches_its_end(meter):
    steps = []
    write_bundle(
        io.BytesIO(), bundle_files(meter), span_of(meter), meter.device, progress=lambda *one: steps.append(one)
    )
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]


def test_bundle_is_told_from_a_folder(path, tmp_path):
    assert is_bundle(path)
    assert not is_bundle(tmp_path)
    (tmp_path / "usage-x").write_bytes(b"x")
    assert not is_bundle(tmp_path / "usage-x")
    with pytest.raises(FileAccessError):
        is_bundle(tmp_path / "none")


def test_large_file_needs_no_memory(meter, tmp_path):
    """64 MiB in and out again, in much less than that."""
    name = f"{span_of(meter).folder}/usage/2027/01/7-8.jsonl"
    large = BundleFile(name=name, chunks=lambda: (os.urandom(0) + bytes(range(256)) * 4096 for _ in range(64)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (tmp_path / "usage-large").open("wb") as stream:
        write_bundle(stream, [*bundle_files(meter), large], span_of(meter), meter.device)
    unpack_bundle(tmp_path / "usage-large", tmp_path / "into")
    assert (tmp_path / "into" / name).stat().st_size == 64 * 1024 * 1024
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024


# ---- what is not made -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["x", "../x", "/x", "computervisionread/ffffffffffff/checkpoint", "README.txt", MANIFEST_NAME, "totals.json"],
)
def test_file_without_a_place_is_not_packed(meter, name):
    with pytest.raises(RecordError):
        write_bundle(io.BytesIO(), [*bundle_files(meter), plain_file(name, b"")], span_of(meter), meter.device)


def test_file_that_changes_meanwhile_is_noticed(meter):
    for give in ([b"aa", b"bb"], [b"aa", b"a"]):
        changing = BundleFile(name="proofs/consistency-1-2.json", chunks=lambda give=give: [give.pop()])
        with pytest.raises(RecordError, match="changed"):
            write_bundle(io.BytesIO(), [*bundle_files(meter), changing], span_of(meter), meter.device)


@pytest.mark.parametrize("changes", [{"since": 8, "size": 8}, {"since": -1}, {"root": b""}, {"instance": "../x"}])
def test_span_without_sense_does_not_exist(changes):
    facts = {"origin": "v/d", "instance": "0" * 12, "since": 0, "size": 8, "root": bytes(32), "until_ms": 0} | changes
    with pytest.raises(RecordError):
        Span(**facts)


# ---- hostile archives -----------------------------------------------------------------------------------------------

GOOD = "computervisionread/{instance}/usage/2027/01/90-91.jsonl"
PLACES = {
    "escape": "../escape",
    "deep_escape": "computervisionread/../../escape",
    "absolute": "/tmp/escape",
    "hidden": ".bashrc",
    "other_instance": "computervisionread/ffffffffffff/checkpoint",
    "not_ascii": "usage/\udce9",
    "backslash": "..\\x",
    "empty": "",
    "folder": "computervisionread/",
    "leading_zero": "computervisionread/{instance}/checkpoints/007",
    "shouting": "README.TXT",
}


@pytest.mark.parametrize("name", PLACES.values(), ids=PLACES)
def test_member_out_of_place_is_refused(meter, path, tmp_path, name):
    members = [*members_of(archive_of(path)), (name.format(instance=meter.instance), b"x")]
    archive = b"".join(tar_member(one, content) for one, content in sorted(members, key=lambda one: one[0]))
    _refused(tmp_path, packed(archive + bytes(1024)), "place|header|manifest")
    assert not os.path.exists("/tmp/escape")


KINDS = {
    "symlink": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
    "hard_link": {"type": tarfile.LNKTYPE, "linkname": "README.txt"},
    "character_device": {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
    "block_device": {"type": tarfile.BLKTYPE},
    "fifo": {"type": tarfile.FIFOTYPE},
    "folder": {"type": tarfile.DIRTYPE},
    "sparse": {"type": tarfile.GNUTYPE_SPARSE},
    "long_name": {"type": tarfile.GNUTYPE_LONGNAME},
    "extended": {"type": tarfile.XHDTYPE},
    "global": {"type": tarfile.XGLTYPE},
    "continuous": {"type": tarfile.CONTTYPE},
    "old_regular": {"type": tarfile.AREGTYPE},
    "set_uid": {"mode": 0o4755},
    "writable": {"mode": 0o644},
    "owned": {"uid": 1000},
    "named_owner": {"uname": "root"},
    "dated": {"mtime": 1},
    "link_name": {"linkname": "x"},
}


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_member_of_another_kind_is_refused(meter, path, tmp_path, changes):
    name = GOOD.format(instance=meter.instance)
    members = members_of(archive_of(path))
    before = b"".join(tar_member(*one) for one in members if one[0] < name)
    after = b"".join(tar_member(*one) for one in members if one[0] > name)
    archive = before + tar_member(name, **changes) + after + bytes(1024)
    _refused(tmp_path, packed(archive), "has no place in a bundle")


def test_header_with_a_prefix_or_another_spelling_is_refused(path, tmp_path):
    archive = archive_of(path)
    header = bytearray(archive[:512])
    for position, byte in (
        (345, b"x"),
        (500, b"\0x"),
        (257, b"ustar  \0"),
        (148, b"0000000\0"),
        (124, b" "),
        (124, b"\x80"),
    ):
        changed = bytearray(header)
        changed[position : position + len(byte)] = byte
        if position != 148:
            changed[148:156] = b" " * 8
            changed[148:156] = b"%06o\0 " % sum(changed)
        _refused(tmp_path, packed(bytes(changed) + archive[512:]), "place|malformed")


def test_declared_size_beyond_what_is_there(meter, path, tmp_path):
    name = GOOD.format(instance=meter.instance)
    for size in (2 * 1024**3, 8**11 - 1, 513):
        header = tar_member(name, size=size)
        _refused(tmp_path, packed(header + bytes(512)), "cut off")


def test_decompression_bomb_stops_early(meter, tmp_path):
    """Two gigabytes of zeros in two megabytes: nothing is written before the whole bundle is known to be good."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    header = tar_member(GOOD.format(instance=meter.instance), size=2 * 1024**3)
    pieces = [bundle_module._GZIP_HEADER, deflate.compress(header)]
    pieces += [deflate.compress(bytes(1024 * 1024)) for _ in range(300)]
    written = tmp_path / "into" / GOOD.format(instance=meter.instance)
    bad = tmp_path / "bad.tar.gz"
    bad.write_bytes(b"".join(pieces))
    with pytest.raises(RecordError, match="unpacks to more"):
        unpack_bundle(bad, tmp_path / "into")
    assert not written.exists()


def test_nothing_is_written_of_a_bundle_that_the_pinned_device_did_not_sign(meter, path, tmp_path):
    other = SigningKey.generate("device")
    data = bytearray(path.read_bytes())
    into = tmp_path / "into"
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.tar.gz").write_bytes(bytes(data))
    with pytest.raises(RecordError):
        unpack_bundle(tmp_path / "bad.tar.gz", into, device_keys=[meter.device.verifying, other.verifying])
    assert not into.exists()


def test_bound_of_bytes_is_kept(path, tmp_path):
    _refused(tmp_path, path.read_bytes(), "unpacks to more", max_bytes=4096)


def test_too_many_members_are_refused(meter, path, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_module, "MAX_MEMBERS", 5)
    _refused(tmp_path, path.read_bytes(), "too many")
    with pytest.raises(RecordError):
        write_bundle(io.BytesIO(), bundle_files(meter), span_of(meter), meter.device)


def test_manifest_too_long_is_refused(tmp_path):
    _refused(tmp_path, packed(tar_member(MANIFEST_NAME, size=33 * 1024**2)), "manifest is too long")


def _rewritten(path, change) -> bytes:
    members = members_of(archive_of(path))
    return packed(b"".join(tar_member(*one) for one in change(members)) + bytes(1024))


EDITS = {
    "twice": (lambda members: [members[0], *members], "order of their names"),
    "unsorted": (lambda members: members[::-1], "order of their names"),
    "one_missing": (lambda members: members[1:], "not there"),
    "manifest_missing": (lambda members: [one for one in members if one[0] != MANIFEST_NAME], "holds no manifest"),
    "nothing": (lambda members: [], "holds no manifest"),
    "one_changed": (lambda members: [(members[0][0], members[0][1] + b"x"), *members[1:]], "is not the file"),
    "manifest_with_a_line_end": (
        lambda members: [(name, content + b"\n" * (name == MANIFEST_NAME)) for name, content in members],
        "something follows",
    ),
    "manifest_no_json": (
        lambda members: [(name, b"{" if name == MANIFEST_NAME else content) for name, content in members],
        "malformed",
    ),
}


@pytest.mark.parametrize(("change", "words"), EDITS.values(), ids=EDITS)
def test_archive_that_is_not_its_manifest_is_refused(path, tmp_path, change, words):
    _refused(tmp_path, _rewritten(path, change), words)


def test_one_more_member_than_the_manifest_is_refused(meter, path, tmp_path):
    extra = (GOOD.format(instance=meter.instance), b"x")
    _refused(tmp_path, _rewritten(path, lambda members: sorted([*members, extra])), "not in its manifest")


def test_trailing_bytes_are_refused(path, tmp_path):
    blob, archive = path.read_bytes(), archive_of(path)
    for changed in (
        blob + b"\0",
        blob + blob,
        blob + gzip.compress(b"x"),
        packed(archive + b"x"),
        packed(archive + bytes(512)),
    ):
        _refused(tmp_path, changed, "follows")


def test_cut_or_changed_stream_is_refused(path, tmp_path):
    blob = path.read_bytes()
    for cut in (0, 5, 10, 11, len(blob) // 2, len(blob) - 9, len(blob) - 8, len(blob) - 1):
        _refused(tmp_path, blob[:cut], "is empty|cut off|checksum")
    wrong_sum = bytearray(blob)
    wrong_sum[-5] ^= 1
    _refused(tmp_path, bytes(wrong_sum), "checksum")
    archive = archive_of(path)
    _refused(tmp_path, packed(archive[:-1024]), "cut off")
    _refused(tmp_path, packed(archive[:-512] + b"x" * 512), "end is malformed")
    _refused(tmp_path, packed(archive[:700] + b"x" + archive[701:]), "is not the file|between|place|malformed")


def test_padding_is_nothing(path, tmp_path):
    archive = archive_of(path)
    size = int(archive[124:135], 8)
    assert size % 512
    at = 512 + size
    _refused(tmp_path, packed(archive[:at] + b"x" + archive[at + 1 :]), "between")


def _gzip(archive: bytes, folder) -> bytes:
    """What the common tool makes of it, with its name in the header."""
    (folder / "archive.tar").write_bytes(archive)
    blob = subprocess.run(["gzip", "-c", folder / "archive.tar"], check=True, capture_output=True).stdout
    (folder / "archive.tar").unlink()
    return blob


def test_gzip_of_another_tool_is_refused(path, tmp_path):
    archive = archive_of(path)
    every_field = b"\x1f\x8b\x08\x1e" + bytes(6) + b"\x03\0abcname\0comment\0\x12\x34" + packed(archive)[10:]
    for blob in (gzip.compress(archive), gzip.compress(archive, mtime=0), _gzip(archive, tmp_path), every_field):
        _refused(tmp_path, blob, "packed anew by another tool; the files in it are those")
    for blob in (archive, b"PK\x03\x04" + archive, b"\x89PNG\r\n\x1a\n", b"\x1f\x8b"):
        _refused(tmp_path, blob, "is no bundle, which gzip packed")
    for flags in range(256):
        _refused(tmp_path, b"\x1f\x8b\x08%c" % flags + bytes(6) + b"\xff\xffname", "cut off|damaged")


def test_a_changed_file_is_named_whoever_packed_it(path, tmp_path):
    """As a forger would do it with tar and gzip, and as a bad disk does."""
    members = members_of(archive_of(path))
    for name, content in members:
        if name == MANIFEST_NAME:
            continue
        changed = [(one, content[:-1] + b"?" if one == name else kept) for one, kept in members]
        archive = b"".join(tar_member(*one) for one in changed) + bytes(1024)
        for blob in (packed(archive), gzip.compress(archive), _gzip(archive, tmp_path)):
            _refused(tmp_path, blob, f"{re.escape(name)} is not the file that the manifest tells of")
        damaged = packed(archive)[:-8] + path.read_bytes()[-8:]
        _refused(tmp_path, damaged, f"checksum is wrong, .*; changed: {re.escape(name)}$")


def test_damage_is_told_with_its_place(path, tmp_path):
    archive = archive_of(path)
    first, (name, _), *_ = members_of(archive)
    at = len(tar_member(*first)) + 512
    _refused(tmp_path, packed(archive[: at + 5]), rf"is cut off \(at {re.escape(name)}\)")
    _refused(
        tmp_path, packed(archive[: at - 512] + tar_member(name, b"x", mode=0o644)), f"{re.escape(name)} has no place"
    )


def test_what_is_no_bundle_is_called_what_it_says_that_it_is(meter, path, tmp_path):
    sealed = envelope.seal(b"{}", envelope.LICENSE_TYPE, [meter.device])
    _refused(tmp_path, b"", "bad.tar.gz is empty")
    _refused(tmp_path, sealed, "is a licence, and no bundle")
    _refused(tmp_path, envelope.armour(sealed, envelope.LICENSE_TYPE), "is a licence, and no bundle")
    manifest = dict(members_of(archive_of(path)))[MANIFEST_NAME]
    _refused(tmp_path, manifest, "is a manifest of a usage bundle, and no bundle")


def _resigned(path, key: SigningKey, **changes) -> bytes:
    """The bundle with a statement of other words, signed by a key."""

    def change(members):
        blob = dict(members)[MANIFEST_NAME]
        statement = json.loads(envelope.unverified_payload(blob, max_bytes=len(blob)).payload)
        for place, value in changes.items():
            (statement["predicate"] if place in statement["predicate"] else statement)[place] = value
        signed = envelope.seal(envelope.canonical(statement), envelope.USAGE_BUNDLE_TYPE, [key])
        return [(name, signed if name == MANIFEST_NAME else content) for name, content in members]

    return _rewritten(path, change)


STATEMENTS = {
    "other_type": {"_type": "x"},
    "other_predicate": {"predicateType": "x"},
    "no_subject": {"subject": []},
    "name_out_of_place": {"subject": [{"name": "../x", "digest": {"sha256": "0" * 64}}]},
    "other_digest": {"subject": [{"name": "README.txt", "digest": {"sha512": "0" * 64}}]},
    "two_digests": {"subject": [{"name": "README.txt", "digest": {"sha256": "0" * 64, "md5": "0"}}]},
    "itself": {"subject": [{"name": MANIFEST_NAME, "digest": {"sha256": "0" * 64}}]},
    "twice": {"subject": [{"name": "README.txt", "digest": {"sha256": "0" * 64}}] * 2},
    "span": {"since": 99},
    "instance": {"instance": "ffffffffffff"},
    "until_far": {"until_ms": 2**53 - 1},
}


@pytest.mark.parametrize("changes", STATEMENTS.values(), ids=STATEMENTS)
def test_statement_that_says_something_else_is_refused_though_signed(meter, path, tmp_path, changes):
    _refused(
        tmp_path,
        _resigned(path, meter.device, **changes),
        "bundle|manifest|place",
        device_keys=[meter.device.verifying],
    )


def test_manifest_of_another_key_is_refused_where_the_log_is_pinned(meter, path, tmp_path):
    (tmp_path / "usage-forged").write_bytes(_resigned(path, SigningKey.generate("device")))
    with pytest.raises(UntrustedKeyError):
        unpack_bundle(tmp_path / "usage-forged", tmp_path / "a", device_keys=[meter.device.verifying])
    claimed = SigningKey(meter.device.key_id, SigningKey.generate("device").private)
    (tmp_path / "usage-claimed").write_bytes(_resigned(path, claimed))
    with pytest.raises(BadSignatureError):
        unpack_bundle(tmp_path / "usage-claimed", tmp_path / "b", device_keys=[meter.device.verifying])


def test_folder_that_cannot_be_written_is_named(path, tmp_path):
    (tmp_path / "into").write_bytes(b"")
    with pytest.raises(FileAccessError, match="into"):
        unpack_bundle(path, tmp_path / "into")
    with pytest.raises(FileAccessError):
        unpack_bundle(tmp_path, tmp_path / "other")


def test_file_that_is_there_is_not_written_over(path, tmp_path):
    victim = tmp_path / "victim"
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "README.txt").symlink_to(victim)
    with pytest.raises(FileAccessError):
        unpack_bundle(path, tmp_path / "into")
    assert not victim.exists()


@pytest.fixture(scope="module")
def packed_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    meter = FakeMeter(folder / "output")
    meter.window(uses=2)
    return meter, a_bundle(meter, folder).read_bytes(), folder


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_byte_of_the_archive_can_change(packed_once, data):
    meter, blob, folder = packed_once
    archive = bytearray(zlib.decompress(blob, zlib.MAX_WBITS | 16))
    archive[data.draw(st.integers(0, len(archive) - 1))] ^= data.draw(st.integers(1, 255))
    bad, into = folder / "bad", folder / "into"
    bad.write_bytes(packed(bytes(archive)))
    with pytest.raises(LicensesError):
        unpack_bundle(bad, into, device_keys=[meter.device.verifying])
    shutil.rmtree(into, ignore_errors=True)


@given(st.binary(max_size=600))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_raise_nothing_else(packed_once, blob):
    _, _, folder = packed_once
    for bad_bytes in (blob, packed(blob)):
        (folder / "bad").write_bytes(bad_bytes)
        with pytest.raises(LicensesError):
            unpack_bundle(folder / "bad", folder / "into")
