"""The compact form of a use gives back the exact line, in Python and in SQLite."""

import sqlite3
import uuid

from hypothesis import given
from hypothesis import strategies as st

from licenses.usage_log.entry import encode_entry, parse_entry
from sidecar.ledger.use_form import LINE_SQL, UseForm, form_of, use_line

WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=40) | st.text(
    min_size=1, max_size=20
).filter(lambda text: not any(0xD800 <= ord(one) <= 0xDFFF for one in text))
TIMES = st.integers(0, 2**53 - 1)


@given(
    form=st.builds(UseForm, WORDS, WORDS, WORDS, WORDS, WORDS),
    seq=TIMES,
    operation=st.uuids(),
    page=st.integers(1, 2**31),
    quantity=st.integers(0, 10**9),
    wall_ms=TIMES,
    effective_ms=TIMES,
    boottime_ms=TIMES,
)
def test_line_is_what_encode_entry_writes(form: UseForm, operation: uuid.UUID, **numbers: int) -> None:
    line = use_line(form.text, operation=operation, **numbers)
    assert line == encode_entry(
        {
            "apiType": form.api_type,
            "boottime_ms": numbers["boottime_ms"],
            "containerId": form.container_id,
            "containerType": form.container_type,
            "containerVersion": form.container_version,
            "effective_ms": numbers["effective_ms"],
            "id": str(operation),
            "kind": "use",
            "meter": {"name": form.meter, "quantity": numbers["quantity"]},
            "page": numbers["page"],
            "requestTime": numbers["wall_ms"] // 1000,
            "seq": numbers["seq"],
            "wall_ms": numbers["wall_ms"],
        }
    )
    assert form_of(dict(parse_entry(line))) == form
    with sqlite3.connect(":memory:") as db:
        columns = ", ".join(f"? AS {name}" for name in ("operation", *numbers))
        shown = db.execute(
            f"SELECT {LINE_SQL} FROM (SELECT {columns}) AS u, (SELECT ? AS text) AS f",
            [operation.bytes, *numbers.values(), form.text],
        ).fetchone()[0]
    db.close()
    assert shown == line
