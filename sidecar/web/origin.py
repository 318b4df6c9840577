"""The address of this service as its client named it (contract E.0).

Invariant: nothing of a request is repeated in an answer unless it is what a host and a port may be made of.
"""

from __future__ import annotations

import re

from flask import current_app, request

from sidecar.web.services import services

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?", re.ASCII)


def origin() -> str:
    """Scheme, host and port, as in `http://host:5000`."""
    named = request.headers.get("Host", "")
    host = named if _HOST.fullmatch(named) else services(current_app).settings.listen
    return f"{request.scheme}://{host}"
