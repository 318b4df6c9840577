"""The line of a `use` entry, taken apart so that a page costs little: its constants once, its numbers per page.

Invariant: `text % values` is byte for byte what `encode_entry` writes, in Python and in SQLite's `printf` alike; so the
view `entry` shows anyone who opens the database the exact line that is hashed and exported.
"""

from __future__ import annotations

import json
import uuid
from typing import Any, NamedTuple

CONTAINER_TYPE = "ComputerVision.ComputerVisionRead"
API_TYPE = "computervision"

_GUID = "||'-'||".join(
    f"substr(lower(hex(u.operation)),{start},{length})"
    for start, length in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
)
LINE_SQL = f"""CAST(printf(f.text, u.boottime_ms, u.effective_ms, {_GUID}, u.quantity, u.page, u.wall_ms / 1000,
               u.seq, u.wall_ms) AS BLOB)"""


class UseForm(NamedTuple):
    """What stays the same from page to page.

    Attributes:
        container_id: The instance.
        container_version: Product version.
        meter: Meter name.
        container_type: Contract C.1.
        api_type: Contract C.1.
    """

    container_id: str
    container_version: str
    meter: str
    container_type: str = CONTAINER_TYPE
    api_type: str = API_TYPE

    @property
    def text(self) -> str:
        """The line as a printf format; its places in the order of `line`."""
        return (
            f'{{"apiType":{_quoted(self.api_type)},"boottime_ms":%d,"containerId":{_quoted(self.container_id)},'
            f'"containerType":{_quoted(self.container_type)},"containerVersion":{_quoted(self.container_version)},'
            f'"effective_ms":%d,"id":"%s","kind":"use","meter":{{"name":{_quoted(self.meter)},"quantity":%d}},'
            f'"page":%d,"requestTime":%d,"seq":%d,"wall_ms":%d}}'
        )


def use_line(
    text: str,
    *,
    seq: int,
    operation: uuid.UUID,
    page: int,
    quantity: int,
    wall_ms: int,
    effective_ms: int,
    boottime_ms: int,
) -> bytes:
    """The exact line, without line end."""
    values = (boottime_ms, effective_ms, str(operation), quantity, page, wall_ms // 1000, seq, wall_ms)
    return (text % values).encode("ascii")


def form_of(entry: dict[str, Any]) -> UseForm:
    """The constants of an entry that was parsed."""
    return UseForm(
        container_id=entry["containerId"],
        container_version=entry["containerVersion"],
        meter=entry["meter"]["name"],
        container_type=entry["containerType"],
        api_type=entry["apiType"],
    )


def meter_of(text: str) -> str:
    """The meter's name in a form's text."""
    return str(json.loads(text % (0, 0, "", 0, 0, 0, 0, 0))["meter"]["name"])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=True).replace("%", "%%")
