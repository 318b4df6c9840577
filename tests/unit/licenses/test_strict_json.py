"""Strict JSON: one reading, or FormatError."""

import contextlib
import json
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licenses.errors import FormatError
from licenses.strict_json import MAX_BYTES, MAX_INTEGER, canonical, instant_text, loads, parse_instant, parse_object

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc\u00e9", max_size=3), inner, max_size=4),
    max_leaves=8,
)

BAD = {
    "empty": b"",
    "not_utf8": b'{"a":"\xff"}',
    "utf16": '{"a":1}'.encode("utf-16"),
    "byte_order_mark": b'\xef\xbb\xbf{"a":1}',
    "duplicate_member": b'{"a":1,"a":1}',
    "duplicate_member_by_escape": b'{"a":1,"\\u0061":1}',
    "duplicate_member_deep": b'{"a":[{"b":1,"b":2}]}',
    "trailing_value": b"{}{}",
    "trailing_nul": b"{}\0",
    "float": b"1.0",
    "exponent": b"1e3",
    "nan": b"NaN",
    "infinity": b"-Infinity",
    "minus_zero": b"-0",
    "integer_2_53": str(2**53).encode(),
    "integer_minus_2_53": str(-(2**53)).encode(),
    "integer_5000_digits": b"9" * 5000,
    "integer_leading_zero": b"01",
    "lone_high_surrogate": b'"\\ud800"',
    "lone_low_surrogate": b'["\\udc00x"]',
    "lone_surrogate_as_member": b'{"\\ud83d":1}',
    "surrogate_in_utf8": b'"\xed\xa0\x80"',
    "depth_9": b"[" * 9 + b"]" * 9,
    "depth_without_end": b"[" * 60_000,
    "depth_of_objects": b'{"a":' * 9 + b"1" + b"}" * 9,
    "too_long": b'"' + b"a" * MAX_BYTES + b'"',
    "single_quotes": b"{'a':1}",
    "comment": b"{}//",
    "control_character": b'"\x01"',
    "unfinished_string": b'"abc',
    "unfinished_escape": b'"\\',
}


@pytest.mark.parametrize("blob", BAD.values(), ids=BAD)
def test_bad_document_is_refused(blob):
    with pytest.raises(FormatError):
        loads(blob)


@pytest.mark.parametrize(
    ("blob", "told"),
    [
        (b'{"payload":"aGVsbG8', "not JSON: it ends after 19 characters in the middle, so it looks cut off"),
        (b'{"payload":\n', "not JSON: it ends after 11 characters in the middle, so it looks cut off"),
        (b'{"payload":"x"', "not JSON: it ends after 14 characters in the middle, so it looks cut off"),
        (b" \n", "not JSON: there is nothing in it"),
        (b"from the vendor", "not JSON: expecting value at character 0"),
        (b'{"a":"\x01"}', "not JSON: invalid control character at character 6"),
        (b"{}{}", "not JSON: extra data at character 2"),
    ],
)
def test_what_is_no_json_is_told_in_plain_words(blob, told):
    with pytest.raises(FormatError) as refused:
        loads(blob)
    assert str(refused.value) == told


@pytest.mark.parametrize("unit", [b'"', b'\\"', b'"\\"', b"[", b'{"', b"\\", b'"\\\\"'])
def test_hostile_repetition_is_refused_quickly(unit):
    started = time.perf_counter()
    with pytest.raises(FormatError):
        loads(b'"' + unit * (MAX_BYTES // len(unit) - 1))
    assert time.perf_counter() - started < 0.1


@pytest.mark.parametrize(
    ("blob", "value"),
    [
        (b' {"a" : [1, true, null, "\\ud83d\\ude00"]}\n', {"a": [1, True, None, "\U0001f600"]}),
        (str(MAX_INTEGER).encode(), MAX_INTEGER),
        (b"[" * 8 + b"]" * 8, [[[[[[[[]]]]]]]]),
        (b'"[[[[[[[[[[[["', "[[[[[[[[[[[["),
        (b'"\\"[[[[[[[[[[[["', '"[[[[[[[[[[[['),
    ],
)
def test_good_document_is_read(blob, value):
    assert loads(blob) == value


@given(VALUES)
def test_canonical_form_is_read_back_and_stays(value):
    blob = canonical(value)
    assert blob.isascii()
    assert canonical(json.loads(blob)) == blob
    with contextlib.suppress(FormatError):  # only by being nested too deep
        assert loads(blob) == value


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_else(blob):
    with contextlib.suppress(FormatError):
        loads(blob)


@pytest.mark.parametrize("value", [1.5, float("nan"), {"a": [1.0]}, {1, 2}, b"x", object()])
def test_canonical_refuses_what_has_no_single_form(value):
    with pytest.raises(FormatError):
        canonical(value)


def test_canonical_refuses_endless_nesting():
    value: list[object] = []
    value.append(value)
    with pytest.raises(FormatError):
        canonical(value)


@pytest.mark.parametrize(
    "text",
    [
        "2027-03-31",
        "2027-03-31T23:59:59",
        "2027-03-31T23:59:59+00:00",
        "2027-02-30T00:00:00Z",
        "2027-03-31t23:59:59Z",
        "2027-03-31T23:59:60Z",
        "2027-03-31T23:59:59.5Z",
        " 2027-03-31T23:59:59Z",
        "\u0662027-03-31T23:59:59Z",
        "0000-01-01T00:00:00Z",
    ],
)
def test_instant_of_another_form_is_refused(text):
    with pytest.raises(FormatError):
        parse_instant(text, what="it")


@given(st.datetimes(timezones=st.just(UTC)))
def test_instant_is_read_back(at):
    assert parse_instant(instant_text(at), what="it") == at.replace(microsecond=0)


def test_instant_of_an_early_year_keeps_four_digits():
    assert instant_text(datetime(99, 1, 1, tzinfo=UTC)) == "0099-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("blob", "take"),
    [
        (b"[]", lambda f: f),
        (b"{}", lambda f: f.text("a")),
        (b'{"a":1}', lambda f: f.text("a")),
        (b'{"a":""}', lambda f: f.text("a")),
        (b'{"a":"\\u0007"}', lambda f: f.text("a")),
        (b'{"a":"\\u202e"}', lambda f: f.text("a")),
        (b'{"a":"xx"}', lambda f: f.text("a", max_length=1)),
        (b'{"a":true}', lambda f: f.integer("a")),
        (b'{"a":-1}', lambda f: f.integer("a")),
        (b'{"a":1}', lambda f: f.flag("a")),
        (b'{"a":"AB"}', lambda f: f.hex_bytes("a", length=1)),
        (b'{"a":"abc"}', lambda f: f.hex_bytes("a", length=1)),
        (b'{"a":["x","x"]}', lambda f: f.texts("a")),
        (b'{"a":["x",1]}', lambda f: f.texts("a")),
        (b'{"a":["x","y"]}', lambda f: f.texts("a", max_items=1)),
        (b'{"a":[]}', lambda f: f.nested("a")),
        (b'{"a":[1]}', lambda f: f.nested_list("a")),
        (b'{"a":1}', lambda f: f.end()),
    ],
)
def test_fields_refuse_what_is_missing_wrong_or_left(blob, take):
    with pytest.raises(FormatError):
        take(parse_object(blob, what="it"))
