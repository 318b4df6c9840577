"""Record files: written once, read strictly."""

import dataclasses
import hashlib
import json
import os
import re
import stat
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licenses.errors import FormatError, RecordError
from licenses.strict_json import Fields
from licenses.usage_log import files
from licenses.usage_log.files import (
    Moment,
    RecordReader,
    header_line,
    parse_record_file,
    record_name,
    render,
    sequence_range,
    trailer_line,
    write_once,
    write_replacing,
)
from licenses.usage_log.merkle import root_of
from tests.fakes.records import FakeMeter


@pytest.fixture
def meter(tmp_path):
    """A meter with one record file of two uses."""
    meter = FakeMeter(tmp_path)
    meter.window(uses=2)
    return meter


def test_name_has_month_and_numbers():
    at = datetime(2027, 3, 1, tzinfo=UTC)
    assert record_name(0, 12, at) == "2027/03/0-12.jsonl"
    with pytest.raises(RecordError):
        record_name(12, 12, at)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("0-12.jsonl", (0, 12)),
        ("12-13.jsonl", (12, 13)),
        ("12-12.jsonl", None),
        ("13-12.jsonl", None),
        ("00-12.jsonl", None),
        ("0-12.jsonl.bak", None),
        ("x0-12.jsonl", None),
        ("0-\u0662.jsonl", None),
    ],
)
def test_numbers_are_read_from_the_name(name, found):
    assert sequence_range(name) == found


def test_file_is_read_back(meter):
    found = parse_record_file(meter.files[0])
    assert found.lines == tuple(meter.lines)
    assert found.header.first_seq == 0
    assert found.header.instance == meter.instance
    assert found.header.closed.boot_id == meter.boot_id
    assert found.trailer.size == 5
    assert found.trailer.root == meter.frontier.root()
    assert found.trailer.counts == {"boot": 1, "license": 1, "use": 2, "window": 1}
    assert found.trailer.meters == {"CognitiveServices.ComputerVision.Container.ReadPages": 2}
    assert found.sha256 == hashlib.sha256(meter.files[0].read_bytes()).hexdigest() == meter.previous_sha256


def test_common_tools_can_read_it(meter):
    lines = [json.loads(line) for line in meter.files[0].read_text("ascii").splitlines()]
    assert [line.get("record", line.get("kind")) for line in lines] == [
        "header", "boot", "license", "use", "use", "window", "trailer",
    ]  # fmt: skip


def test_reader_streams_and_then_knows_the_end(meter):
    with RecordReader(meter.files[0]) as reader:
        assert reader.trailer is None
        assert list(reader) == meter.lines
    assert reader.trailer is not None


HEADER = b'{"record":"header"}'
MALFORMED = {
    "empty": lambda blob: b"",
    "no_line_end": lambda blob: blob[:-1],
    "trailer_cut_off": lambda blob: blob[: blob.rindex(b"\n", 0, -1) + 1],
    "cut_in_an_entry": lambda blob: blob[: len(blob) // 2],
    "header_alone": lambda blob: blob[: blob.index(b"\n") + 1],
    "header_missing": lambda blob: blob[blob.index(b"\n") + 1 :],
    "header_twice": lambda blob: blob.replace(b'"record":"header"', b'"record":"header","record":"header"'),
    "header_of_trailer": lambda blob: blob.replace(b'"record":"header"', b'"record":"trailer"'),
    "header_with_space": lambda blob: blob.replace(b'{"closed"', b'{ "closed"', 1),
    "other_product": lambda blob: blob.replace(b'"product":"tollgate"', b'"product":"other"'),
    "unknown_member": lambda blob: blob.replace(b'"schema":1}\n{"boot_id"', b'"schema":1,"z":1}\n{"boot_id"'),
    "schema_2": lambda blob: blob.replace(b'"schema":1', b'"schema":2'),
    "trailer_unknown_kind": lambda blob: blob.replace(b'"counts":{"boot"', b'"counts":{"boat"'),
    "trailer_root_short": lambda blob: blob.replace(b'"root":"', b'"root":"0'),
    "long_line": lambda blob: blob.replace(b"\n", b" " * 40_000 + b"\n", 2),
}


@pytest.mark.parametrize("spoil", MALFORMED.values(), ids=MALFORMED)
def test_malformed_file_is_refused(tmp_path, meter, spoil):
    path = tmp_path / "0-5.jsonl"
    path.write_bytes(spoil(meter.files[0].read_bytes()))
    with pytest.raises(RecordError):
        parse_record_file(path)


def test_what_is_no_regular_file_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "0-5.jsonl")
    with pytest.raises(RecordError, match="regular"):
        parse_record_file(tmp_path / "0-5.jsonl")
    (tmp_path / "link").symlink_to(tmp_path / "0-5.jsonl")
    with pytest.raises(OSError, match="symbolic links"):
        parse_record_file(tmp_path / "link")


def _header(meter: FakeMeter) -> dict[str, object]:
    header = dataclasses.asdict(parse_record_file(meter.files[0]).header)
    assert header_line(header) + b"\n" == meter.files[0].read_bytes().splitlines(keepends=True)[0]
    return header


@pytest.mark.parametrize(
    "changes",
    [
        {"instance": ""},
        {"opened": {}},
        {"first_seq": -1},
        {"evaluation": "no"},
        {"previous_file_sha256": "x"},
        {"extra": 1},
        {"license_sequence": 1.0},
        {"frontier": ["0" * 64]},
        {"frontier": "0" * 64},
        {"frontier": {}},
    ],
)
def test_header_without_sense_is_not_written(meter, changes):
    with pytest.raises(RecordError):
        header_line({**_header(meter), **changes})


@pytest.mark.parametrize("spelling", [bytes, bytes.hex], ids=["bytes", "hexadecimal"])
def test_frontier_is_told_and_read(meter, spelling):
    hashes = tuple(bytes([number]) * 32 for number in (1, 2))
    line = header_line({**_header(meter), "first_seq": 5, "frontier": [spelling(one) for one in hashes]})
    assert json.loads(line)["frontier"] == [one.hex() for one in hashes]
    path = meter.files[0].with_name("5-6.jsonl")
    path.write_bytes(line + b"\n" + b"\n".join([*meter.lines, trailer_line([], size=6, root=root_of([]))]) + b"\n")
    assert parse_record_file(path).header.frontier == hashes


@pytest.mark.parametrize(
    "hashes", [["0" * 64] * 3, ["0" * 64], ["0" * 64, 5], ["0" * 64, "g" * 64], ["0" * 64, "1" * 63], []]
)
def test_frontier_of_another_size_or_form_is_refused(meter, hashes):
    with pytest.raises(RecordError):
        header_line({**_header(meter), "first_seq": 5, "frontier": hashes})


def test_header_without_a_frontier_is_read(meter):
    line = header_line({**_header(meter), "frontier": None})
    assert "frontier" not in json.loads(line)


# ---- read fast, and read as it must be ------------------------------------------------------------------------------

numbers = st.integers(0, 2**53 - 1)
printable = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=12)
moments = st.fixed_dictionaries(
    {"wall_ms": numbers, "effective_ms": numbers, "boottime_ms": numbers, "boot_id": printable}
)


@st.composite
def headers(draw) -> dict[str, object]:
    first_seq = draw(st.integers(0, 2**20))
    return {
        "instance": draw(printable), "origin": draw(printable), "product_version": draw(printable),
        "license_id": draw(printable | st.just("")), "license_sequence": draw(numbers),
        "evaluation": draw(st.booleans()), "reason": draw(printable), "opened": draw(moments),
        "closed": draw(moments), "first_seq": first_seq,
        "previous_file_sha256": draw(st.sampled_from(["", "ab" * 32])),
        "frontier": [draw(st.binary(min_size=32, max_size=32)) for _ in range(first_seq.bit_count())],
    }  # fmt: skip


def _read(parse, line: bytes):
    try:
        return parse(line)
    except FormatError:
        return None


@given(headers(), st.data())
@settings(deadline=None)
def test_header_read_fast_is_read_the_same(members, data):
    line = header_line(members)
    fast, slow = files._plain_header(line), files._any_header(line)
    assert fast in (None, slow)
    assert fast is not None or b"\\" in line or re.search(rb"[0-9]{16}", line)
    position = data.draw(st.integers(0, len(line)))
    spoilt = line[:position] + data.draw(st.binary(max_size=2)) + line[position + data.draw(st.integers(0, 2)) :]
    assert files._plain_header(spoilt) in (None, _read(files._any_header, spoilt))


@pytest.mark.parametrize(
    "changes",
    [
        (b'"frontier":[]', b'"frontier":[,]'),
        (b'"frontier":[]', b'"frontier":null'),
        (b'"frontier":[]', b'"frontier":["' + b"0" * 64 + b'"]'),
        (b'"license_sequence":1', b'"license_sequence":01'),
        (b'"license_sequence":1', b'"license_sequence":true'),
        (b'"evaluation":false', b'"evaluation":0'),
        (b'"schema":1', b'"schema":2'),
        (b'"reason":"interval"', b'"reason":""'),
    ],
)
def test_header_that_is_not_so_is_refused_by_both_readers(meter, changes):
    line = meter.files[0].read_bytes().split(b"\n")[0]
    spoilt = line.replace(*changes)
    assert spoilt != line
    assert files._plain_header(spoilt) is None
    assert _read(files._any_header, spoilt) is None


moment_values = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.integers(-1, 2) | st.sampled_from([2**53, True, "1", None]) for name in
           ("wall_ms", "effective_ms", "boottime_ms")},
        "boot_id": st.sampled_from(["b", "", "b" * 64, "b" * 65, "\x1b", 5]),
        "more": st.just(1),
    },
)  # fmt: skip


@given(moment_values | st.sampled_from([None, [], "x"]))
def test_moment_read_fast_is_read_the_same(value):
    slow = _read(lambda one: Moment.from_fields(Fields({"moment": one}, "w").nested("moment")), value)
    assert _read(lambda one: Moment.from_value(one, "w"), value) == slow


def test_header_may_tell_of_no_licence_and_no_file_before(meter):
    line = header_line({**_header(meter), "license_id": "", "license_sequence": 0, "previous_file_sha256": ""})
    assert json.loads(line)["license_id"] == ""


def test_trailer_leaves_out_meters_without_use():
    trailer = json.loads(trailer_line([], size=1, root=root_of([])))
    assert (trailer["counts"], trailer["meters"]) == ({}, [])


# ---- writing --------------------------------------------------------------------------------------------------------


def test_file_is_written_once_for_the_owner_and_group_to_read(tmp_path):
    path = tmp_path / "f"
    digest = write_once(path, render(b"h", [b"l"], b"t"))
    assert path.read_bytes() == b"h\nl\nt\n"
    assert digest == hashlib.sha256(b"h\nl\nt\n").hexdigest()
    assert stat.S_IMODE(path.stat().st_mode) == 0o440


def test_same_bytes_again_change_nothing(tmp_path):
    path = tmp_path / "f"
    first = write_once(path, [b"same"])
    before = path.stat().st_mtime_ns, path.stat().st_ino
    assert write_once(path, iter([b"sa", b"me"])) == first
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_other_bytes_under_the_name_are_refused(tmp_path):
    path = tmp_path / "f"
    write_once(path, [b"one"])
    with pytest.raises(FileExistsError):
        write_once(path, [b"two"])
    assert path.read_bytes() == b"one"


def test_writers_killed_again_and_again_leave_one_hidden_file(tmp_path):
    for name in ("a", "b"):
        (tmp_path / ".incoming").write_bytes(b"half")
        write_once(tmp_path / name, [b"whole"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_missing_folder_is_the_operating_systems_refusal(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_once(tmp_path / "none" / "f", [b"x"])


def test_small_file_is_replaced(tmp_path):
    path = tmp_path / "checkpoint"
    write_replacing(path, b"old")
    write_replacing(path, b"new", mode=0o640)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
