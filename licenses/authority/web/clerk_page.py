"""What every page of the clerk is made with: who asks, the frame around it, downloads, and where to go afterwards.

Invariant: whatever a page shows goes through a template, which escapes it; whatever a download is called has no other
characters than letters, digits, dots and dashes.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar, cast

from flask import Response, current_app, g, redirect, render_template, request, url_for
from markupsafe import Markup
from werkzeug.wrappers import Response as AnyResponse

from licenses import __version__
from licenses.authority.devices import NOT_IN_FORCE
from licenses.authority.web.forms import Form
from licenses.authority.web.services import ClerkOffice, services

TOKEN_FIELD = "token"  # noqa: S105 - the name of a field
DONE = {
    "customer": "The customer was added.",
    "tier": "The tier was added.",
    "subscription": "The subscription was added. It has no key yet: make one.",
    "approved": "The subscription is approved.",
    "refused": "The approval was taken back. Licences that were handed out go on to their end.",
    "moved": "The subscription is in the other tier from now on.",
    "revoked": "The key was revoked.",
    "enrolled": "The device is enrolled.",
    "older_enrolment": NOT_IN_FORCE,
    "issued": "The licence was issued.",
}
"""What a page may say on top after a form was sent, by the word in its address."""

_View = TypeVar("_View", bound=Callable[..., AnyResponse])
_UNSAFE_IN_NAMES = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who asks.

    Attributes:
        name: The clerk; None for somebody who is not logged in.
        by_proxy: Whether a proxy vouches for the name.
        secret: What the form's token is made from; only this browser has it.
    """

    name: str | None
    by_proxy: bool
    secret: str

    @property
    def token(self) -> str:
        """What a form of this visitor must hold."""
        return hmac.new(self.secret.encode("ascii"), b"tollgate clerk form", hashlib.sha256).hexdigest()


def visitor() -> Visitor:
    """Who asks."""
    return cast(Visitor, g.visitor)


def clerk() -> str:
    """The clerk's name; there is one behind the door."""
    return cast(str, visitor().name)


def form() -> Form:
    """The fields of a form without files, of which the door has seen the token."""
    return cast(Form, g.clerk_form)


def clerk_office() -> ClerkOffice:
    """What the application was given for these pages."""
    office = services(current_app).clerk
    if office is None:
        raise RuntimeError("the clerk's pages were registered without an office")
    return office


def page(template: str, *, here: str, status: HTTPStatus = HTTPStatus.OK, **facts: object) -> Response:
    """A page in its frame.

    Args:
        template: The file.
        here: The page of the navigation that it belongs to; empty for none.
        status: The HTTP status.
        facts: What the template shows.
    """
    one, office = services(current_app), clerk_office()
    body = render_template(
        template,
        here=here,
        visitor=visitor(),
        token_field=Markup('<input type="hidden" name="{}" value="{}">').format(TOKEN_FIELD, visitor().token),
        vendor=one.keys.trust_root.vendor,
        evaluation=one.keys.trust_root.evaluation,
        version=__version__,
        now=office.clock(),
        done=DONE.get(request.args.get("done", "")),
        **facts,
    )
    return Response(body, status=status, content_type="text/html; charset=utf-8")


def see(endpoint: str, *, done: str = "", **values: str) -> AnyResponse:
    """Send the browser on to a page after a form was taken, so that loading it again does nothing again."""
    more: dict[str, Any] = {**values, "done": done} if done else dict(values)
    return redirect(url_for(f"clerk.{endpoint}", **more), HTTPStatus.SEE_OTHER)


def download(blob: bytes, name: str, content_type: str) -> Response:
    """A file to keep.

    Args:
        blob: Its bytes.
        name: What to keep it under; other characters than letters, digits, dots and dashes become dashes.
        content_type: Of the file.
    """
    safe = _UNSAFE_IN_NAMES.sub("-", name).strip(".-") or "file"
    return Response(blob, content_type=content_type, headers={"Content-Disposition": f'attachment; filename="{safe}"'})


def takes_a_file(view: _View) -> _View:
    """Mark a route that reads its own form, because a file is in it, and looks at the token itself."""
    view.__dict__["takes_a_file"] = True
    return view
