"""Entries: one spelling each, and nothing in them that does not belong there."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licenses.errors import RecordError
from licenses.strict_json import canonical
from licenses.usage_log.entry import KINDS, MAX_LINE_BYTES, encode_entry, leaf_hash, parse_entry, read_use

TIMES = {"wall_ms": 1_800_014_400_000, "effective_ms": 1_800_014_400_001, "boottime_ms": 5}
USE = {
    "seq": 3,
    "kind": "use",
    **TIMES,
    "apiType": "computervision",
    "containerId": "c0ffee123456",
    "containerType": "ComputerVision.ComputerVisionRead",
    "containerVersion": "0.1.0",
    "id": "5b1e5f0e-2c77-4c0e-8f7d-6a3f0f7f9b10",
    "page": 2,
    "meter": {"name": "CognitiveServices.ComputerVision.Container.ReadPages", "quantity": 1},
    "requestTime": 1_800_014_400,
}
BOOT = {"seq": 0, "kind": "boot", **TIMES, "boot_id": "b"}


@pytest.mark.parametrize("entry", [USE, BOOT], ids=["use", "boot"])
def test_entry_is_read_back(entry):
    line = encode_entry(entry)
    assert parse_entry(line) == entry
    assert line.isascii()
    assert b"\n" not in line


def test_line_is_compact_with_sorted_members():
    assert encode_entry(BOOT) == (
        b'{"boot_id":"b","boottime_ms":5,"effective_ms":1800014400001,"kind":"boot","seq":0,"wall_ms":1800014400000}'
    )


def test_leaf_is_the_hash_of_the_line_after_a_zero_byte():
    assert leaf_hash(b"line") == hashlib.sha256(b"\x00line").digest()


def test_all_kinds_of_the_format_are_accepted():
    for kind in KINDS - {"use"}:
        assert parse_entry(encode_entry({**BOOT, "kind": kind}))["kind"] == kind


METER = USE["meter"]
BAD = {
    "kind_unknown": {**BOOT, "kind": "other"},
    "kind_missing": {name: value for name, value in BOOT.items() if name != "kind"},
    "kind_list": {**BOOT, "kind": []},
    "seq_missing": {name: value for name, value in BOOT.items() if name != "seq"},
    "seq_negative": {**BOOT, "seq": -1},
    "seq_true": {**BOOT, "seq": True},
    "time_text": {**BOOT, "wall_ms": "1"},
    "float": {**BOOT, "wall_ms": 1.0},
    "integer_too_large": {**BOOT, "wall_ms": 2**53},
    "too_long": {**BOOT, "boot_id": "x" * MAX_LINE_BYTES},
    "bytes": {**BOOT, "boot_id": b"x"},
    "use_with_a_file_name": {**USE, "file": "secret.pdf"},
    "use_without_page": {name: value for name, value in USE.items() if name != "page"},
    "use_page_0": {**USE, "page": 0},
    "use_id_upper_case": {**USE, "id": str(USE["id"]).upper()},
    "use_id_no_guid": {**USE, "id": "1"},
    "use_id_number": {**USE, "id": 1},
    "use_text_empty": {**USE, "apiType": ""},
    "use_meter_text": {**USE, "meter": "pages"},
    "use_meter_extra": {**USE, "meter": {**METER, "price": 1}},
    "use_meter_name_empty": {**USE, "meter": {**METER, "name": ""}},
    "use_quantity_negative": {**USE, "meter": {**METER, "quantity": -1}},
    "use_quantity_huge": {**USE, "meter": {**METER, "quantity": 10**10}},
    "use_quantity_float": {**USE, "meter": {**METER, "quantity": 1.0}},
}


@pytest.mark.parametrize("entry", BAD.values(), ids=BAD)
def test_bad_entry_is_not_written(entry):
    with pytest.raises(RecordError):
        encode_entry(entry)


LINE = encode_entry(USE)
BAD_LINES = {
    "empty": b"",
    "space": LINE.replace(b":", b": ", 1),
    "trailing_space": LINE + b" ",
    "line_end": LINE + b"\n",
    "two": LINE + LINE,
    "another_order": json.dumps(USE, separators=(",", ":")).encode(),
    "needless_escape": LINE.replace(b"computervision", b"\\u0063omputervision", 1),
    "member_twice": LINE.replace(b'"page":2', b'"page":2,"page":2'),
    "not_ascii": LINE.replace(b"ComputerVision.", "Ç".encode()),
    "float": LINE.replace(b'"page":2', b'"page":2.0'),
    "exponent": LINE.replace(b'"page":2', b'"page":2e0'),
    "nan": LINE.replace(b'"page":2', b'"page":NaN'),
    "huge": LINE.replace(b'"page":2', b'"page":9007199254740992'),
    "digits_5000": LINE.replace(b'"page":2', b'"page":' + b"9" * 5000),
    "leading_zero": LINE.replace(b'"page":2', b'"page":02'),
    "minus_zero": LINE.replace(b'"page":2', b'"page":-0'),
    "list": b"[]",
    "nested": b"[" * 10_000,
    "half_a_surrogate_pair": LINE.replace(b"ComputerVision.", b"\\ud800", 1),
    "deep": LINE.replace(b'"page":2', b'"page":' + b"[" * 9 + b"]" * 9),
    "cut": LINE[:-1],
    "too_long": b'"' + b"x" * MAX_LINE_BYTES + b'"',
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_bad_line_is_not_read(line):
    with pytest.raises(RecordError):
        parse_entry(line)
    assert read_use(line) is None


def test_quick_reading_of_a_use_finds_the_same():
    use = read_use(LINE)
    assert use is not None
    assert use == (3, TIMES["effective_ms"], str(USE["id"]).encode(), 2, str(METER["name"]).encode(), 1)
    assert read_use(encode_entry(BOOT)) is None


TEXT = st.text(min_size=1, max_size=130)
NUMBER = st.integers(0, 2**54)


@given(
    st.fixed_dictionaries(
        {
            **{name: st.just(value) for name, value in USE.items()},
            "apiType": TEXT,
            "containerId": TEXT,
            "page": NUMBER,
            "seq": NUMBER,
            "effective_ms": NUMBER,
            "meter": st.fixed_dictionaries({"name": TEXT, "quantity": NUMBER}),
        }
    )
)
def test_quick_reading_never_accepts_more_than_the_slow_one(entry):
    line = canonical(entry)
    use = read_use(line)
    try:
        slow = parse_entry(line)
    except RecordError:
        slow = None
    if use is not None:
        assert slow is not None
        meter = slow["meter"]
        assert isinstance(meter, dict)
        assert use == (
            slow["seq"],
            slow["effective_ms"],
            str(slow["id"]).encode(),
            slow["page"],
            str(meter["name"]).encode(),
            meter["quantity"],
        )


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_else(line):
    with pytest.raises(RecordError):
        parse_entry(line)
