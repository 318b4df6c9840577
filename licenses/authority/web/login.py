"""The door of the clerk's page: who is there, whether the request is meant, logging in and out.

Invariants:

* Nothing of the page is shown, and nothing of a request's body is read, before it is known who asks. What is done is
  done in that name.
* What changes anything is a POST that holds the token of its own session, comes from a page of this very origin, and
  carries a cookie that browsers send for no other site (SameSite=Strict).
* A login begins a new session and ends the one before; what a browser brought along decides nothing.
* Every answer forbids frames, foreign content, scripts and storing.
"""

import hmac
import re
import secrets
from http import HTTPStatus
from typing import cast
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, current_app, g, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from licenses.authority.audit_trail import AuditTrail, Clock
from licenses.authority.clerk_access import ClerkAccess, neighbourhood
from licenses.authority.clerk_sessions import ClerkSessions
from licenses.authority.database import Database
from licenses.authority.passwords import same_stamp
from licenses.authority.web.clerk_page import TOKEN_FIELD, Visitor, clerk, form, page, visitor
from licenses.authority.web.errors import RequestRefusedError
from licenses.authority.web.forms import Form, read_form
from licenses.errors import ClerkAccessError

EXTENSION = "authority.clerk"
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

_SAFE = frozenset({"GET", "HEAD"})
_SESSION = "tollgate-clerk"
_FORM = "tollgate-form"
_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "X-Real-IP")
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_PLACE = re.compile(r"/clerk/[A-Za-z0-9._~/=&?%:-]{0,500}")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Door:
    """What the door needs to know; one per application.

    Args:
        database: Where sessions and the audit trail are kept.
        clock: The vendor's time.
        access: The ways in.
    """

    def __init__(self, database: Database, clock: Clock, access: ClerkAccess) -> None:
        self.access = access
        self.clock = clock
        self.sessions = ClerkSessions(database)
        self._database = database

    def note(self, name: str, action: str) -> None:
        """Write to the audit trail that a clerk came or went."""
        trail = AuditTrail(self._database, self.clock, actor=f"clerk:{name}")
        with self._database.writing() as tx:
            trail.record(tx, action, name)


def door(app: Flask) -> Door:
    """The door of an application."""
    return cast(Door, app.extensions[EXTENSION])


def is_closed() -> bool:
    """Whether nobody could log in now."""
    return cast(bool, g.get("clerk_is_closed", True))


def register_door(bp: Blueprint) -> None:
    """Put the door before every route of a blueprint, and the two routes of the door itself into it."""
    bp.before_request(_guard)
    bp.after_request(_harden)
    bp.add_url_rule("/login", view_func=show_login, endpoint="login", methods=["GET"])
    bp.add_url_rule("/login", view_func=log_in, endpoint="log_in", methods=["POST"])
    bp.add_url_rule("/logout", view_func=log_out, endpoint="log_out", methods=["POST"])


def require_token(fields: Form) -> None:
    """Refuse a form that this visitor's page did not make.

    Raises:
        RequestRefusedError: The token is missing, or another one's.
    """
    if not hmac.compare_digest(fields.get(TOKEN_FIELD, "").encode(), visitor().token.encode()):
        raise RequestRefusedError(
            HTTPStatus.FORBIDDEN,
            "clerk_form",
            "this form was not made by a page that you have open here; nothing was changed",
            next_step="Open the page anew, and fill in the form there.",
        )


# ---- the routes -----------------------------------------------------------------------------------------------------


def show_login() -> AnyResponse:
    """The form to log in with; who is logged in already is sent on."""
    if visitor().name is not None:
        return redirect(_place(request.args.get("next", "")), HTTPStatus.SEE_OTHER)
    return _login_page(_place(request.args.get("next", "")))


def log_in() -> AnyResponse:
    """Look at name and password, and begin a session."""
    one, fields = door(current_app), form()
    name, target = fields.get("name", "").strip().lower(), _place(fields.get("next", ""))
    at, place = one.clock(), neighbourhood(_client())
    one.sessions.count_try(name[:80], place, at=at)
    stamp = one.access.passwords.verify(name, fields.get("password", ""))
    if stamp is None:
        return _login_page(target, name=name[:80], wrong=True)
    one.sessions.forget_tries(name, place)
    if (before := _cookie(_SESSION)) is not None:
        one.sessions.end(before)
    secret = one.sessions.begin(name, stamp, at=at)
    one.note(name, "clerk.login")
    answer = redirect(target, HTTPStatus.SEE_OTHER)
    _set_cookie(answer, _SESSION, secret)
    _forget_cookie(answer, _FORM)
    return answer


def log_out() -> AnyResponse:
    """End the session. A proxy's clerk has none: who logs out there logs out of the proxy."""
    secret = _cookie(_SESSION)
    if secret is not None:
        door(current_app).sessions.end(secret)
    if not visitor().by_proxy:
        door(current_app).note(clerk(), "clerk.logout")
    answer = redirect(url_for("clerk.login"), HTTPStatus.SEE_OTHER)
    _forget_cookie(answer, _SESSION)
    return answer


def _login_page(target: str, *, name: str = "", wrong: bool = False) -> Response:
    one, secret = door(current_app), visitor().secret
    answer = page(
        "login.html",
        here="",
        status=HTTPStatus.FORBIDDEN if wrong else HTTPStatus.OK,
        next=target,
        name=name,
        wrong=wrong,
        plain=_is_readable_on_the_way(),
        unknown_proxy=any(name in request.headers for name in _FORWARDED)
        and not one.access.knows(request.remote_addr or ""),
    )
    _set_cookie(answer, _FORM, secret)
    return answer


# ---- the door -------------------------------------------------------------------------------------------------------


def _guard() -> AnyResponse | None:
    """Before each request: who asks, and whether it is meant."""
    g.visitor = Visitor(name=None, by_proxy=False, secret=_cookie(_FORM) or secrets.token_urlsafe(32))
    if request.endpoint == "clerk.static":
        return None
    one = door(current_app)
    g.clerk_is_closed = True
    one.access.require_way_in()
    g.clerk_is_closed = False
    if request.endpoint != "clerk.log_in":  # who logs in is nobody yet, whatever cookie came along
        g.visitor = _who(one)
    entering = request.endpoint in {"clerk.login", "clerk.log_in"}
    if request.method not in _SAFE:
        _require_same_origin()
    if visitor().name is None and not entering:
        if request.method in _SAFE:
            target = request.full_path if request.query_string else request.path
            return redirect(url_for("clerk.login", next=_place(target)), HTTPStatus.SEE_OTHER)
        raise ClerkAccessError(
            "you are not logged in, or no longer; nothing was changed", next_step="Log in, and do it again."
        )
    if request.method not in _SAFE and not _takes_a_file():
        fields = read_form(request)
        if request.endpoint == "clerk.log_in" and _cookie(_FORM) is None:
            raise ClerkAccessError(
                "the browser sent no cookie along with the form", next_step="Allow cookies for this site, and log in."
            )
        require_token(fields)
        g.clerk_form = fields
    return None


def _who(one: Door) -> Visitor:
    proxy = one.access.proxy
    name = one.access.clerk_by_header(
        request.remote_addr or "", None if proxy is None else request.headers.get(proxy.header)
    )
    if name is not None:
        return Visitor(name=name, by_proxy=True, secret=visitor().secret)
    secret = _cookie(_SESSION)
    session = None if secret is None else one.sessions.find(secret, at=one.clock())
    if secret is None or session is None or not same_stamp(session.stamp, one.access.passwords.stamp(session.name)):
        return visitor()
    return Visitor(name=session.name, by_proxy=False, secret=secret)


def _takes_a_file() -> bool:
    view = current_app.view_functions.get(request.endpoint or "")
    return bool(getattr(view, "takes_a_file", False))


def _require_same_origin() -> None:
    """Refuse what a page of another origin sent, as far as the browser tells: a port of this host is another one, too.

    Raises:
        RequestRefusedError: It comes from elsewhere.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    foreign = site not in {"same-origin", "none"} if site else origin is not None and _host_of(origin) != request.host
    if foreign:
        raise RequestRefusedError(
            HTTPStatus.FORBIDDEN,
            "clerk_origin",
            "a page of another site sent this request; nothing was changed",
            next_step="Open the clerk's page itself. Behind a proxy: it must pass on the Host that the browser sent.",
        )


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _place(text: str) -> str:
    """Where to go after the login: a page of ours, whatever was asked for."""
    return text if _PLACE.fullmatch(text) else url_for("clerk.overview")


def _is_secure() -> bool:
    """Whether the browser speaks TLS, to us or to the proxy that is believed."""
    access = door(current_app).access
    return request.is_secure or access.is_over_tls(request.remote_addr or "", request.headers.get("X-Forwarded-Proto"))


def _client() -> str:
    """The address of who asks: of the peer, or the one that a listed proxy names."""
    forwarders = door(current_app).access.forwarders
    return forwarders.client_of(request.remote_addr or "", request.headers.get("X-Forwarded-For"))


def _is_readable_on_the_way() -> bool:
    """Whether a password typed here would go over a network as it is."""
    return neighbourhood(_client()) not in {"local", "127.0.0.1", "::/64"} and not _is_secure()


def _cookie(name: str) -> str | None:
    value = request.cookies.get(_cookie_name(name), "")
    return value if _SECRET.fullmatch(value) else None


def _cookie_name(name: str) -> str:
    return f"__Host-{name}" if _is_secure() else name


def _set_cookie(answer: AnyResponse, name: str, value: str) -> None:
    answer.set_cookie(
        _cookie_name(name),
        value,
        path="/" if _is_secure() else "/clerk",
        secure=_is_secure(),
        httponly=True,
        samesite="Strict",
    )


def _forget_cookie(answer: AnyResponse, name: str) -> None:
    answer.delete_cookie(
        _cookie_name(name),
        path="/" if _is_secure() else "/clerk",
        secure=_is_secure(),
        httponly=True,
        samesite="Strict",
    )


def _harden(answer: Response) -> Response:
    for name, value in _HEADERS.items():
        answer.headers.setdefault(name, value)
    answer.headers.setdefault("Content-Security-Policy", POLICY)
    if request.endpoint == "clerk.static":
        answer.headers["Cache-Control"] = "private, max-age=300"
    else:
        answer.headers["Cache-Control"] = "no-store"
        if visitor().by_proxy and _cookie(_FORM) is None:
            _set_cookie(answer, _FORM, visitor().secret)
    return answer
