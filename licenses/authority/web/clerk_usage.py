"""The clerk's pages of usage: bundles and acknowledgements, statements, findings and forks, and the audit trail."""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import datetime

from flask import Blueprint, Response, current_app, g, request

from licenses.ack import ack_name
from licenses.authority.reconcile import find_proof, reconcile
from licenses.authority.statement_csv import to_csv
from licenses.authority.statement_html import to_html
from licenses.authority.statements import statement
from licenses.authority.web.clerk_desk import desk
from licenses.authority.web.clerk_page import download, page, takes_a_file
from licenses.authority.web.forms import stored_file
from licenses.authority.web.login import require_token
from licenses.authority.web.services import services
from licenses.errors import ExchangeError, FormatError
from licenses.usage_log.report import Severity

MONTHS_SHOWN = 13
LINES_SHOWN = 200

_MONTH = re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])")
_GRAVITY: Mapping[Severity | None, int] = {
    one: at for at, one in enumerate((Severity.TAMPERED, Severity.UNREADABLE, Severity.GAP, Severity.NOTE))
}
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)


def add_to(bp: Blueprint) -> None:
    """Put these pages into the blueprint."""
    bp.get("/bundles", endpoint="bundles")(bundles)
    bp.post("/bundles", endpoint="take_bundle")(take_bundle)
    bp.get("/acknowledgements/<path:origin>/<number:size>", endpoint="acknowledgement")(acknowledgement)
    bp.get("/statements", endpoint="statements")(statements)
    bp.get("/statements/<customer_id>/<month>.<kind>", endpoint="statement")(one_statement)
    bp.get("/findings", endpoint="findings")(findings)
    bp.get("/forks/<number:number>/<path:origin>", endpoint="fork_proof")(fork_proof)
    bp.get("/trail", endpoint="trail")(trail)


def largest_bundle() -> int:
    """Most bytes of a bundle."""
    return services(current_app).uploads.max_bytes


# ---- bundles --------------------------------------------------------------------------------------------------------


def bundles() -> Response:
    """Where a site's bundle is dropped."""
    return page("bundles.html", here="bundles", max_bytes=largest_bundle(), taken=None)


@takes_a_file
def take_bundle() -> Response:
    """Take a bundle in, and show what became of it."""
    one, uploads = desk(), services(current_app).uploads
    with (
        uploads.place(None),
        stored_file(request, uploads, field="bundle", before=require_token) as (path, fields),
        uploads.turn(),
    ):
        taken = one.intake.take_bundle(None, path, renew=fields.get("renew") == "yes")
    g.facts = {"origin": taken.span.origin, "size": taken.span.size, "repeated": taken.repeated}
    device = one.licensing.devices.one(taken.span.origin)
    customer = one.owners()[device.subscription_id][1]
    return page("bundles.html", here="bundles", max_bytes=largest_bundle(), taken=taken, customer=customer)


def acknowledgement(origin: str, size: int) -> Response:
    """An acknowledgement that was given."""
    one = desk()
    subscription = one.accounts.subscription(one.licensing.devices.one(origin).subscription_id)
    return download(one.intake.acknowledgement(subscription, origin, size), ack_name(origin, size), "application/json")


# ---- statements -----------------------------------------------------------------------------------------------------


def statements() -> Response:
    """All customers, with the months of the last year."""
    one = desk()
    return page(
        "statements.html",
        here="statements",
        customers=one.accounts.customers(),
        months=list(_months_before(one.now(), MONTHS_SHOWN)),
    )


def one_statement(customer_id: str, month: str, kind: str) -> Response:
    """The statement of a customer for a month, as a page or as CSV."""
    one = desk()
    customer = one.accounts.customer(customer_id)
    if _MONTH.fullmatch(month) is None or kind not in {"html", "csv"}:
        raise FormatError(
            "there is no such statement", next_step="A month is written as 2027-03, and a statement is html or csv."
        )
    made = statement(services(current_app).database, customer_id, month)
    if kind == "csv":
        return download(
            to_csv(made).encode("utf-8"), f"statement-{customer.name}-{month}.csv", "text/csv; charset=utf-8"
        )
    text = to_html(made)
    answer = Response(text, content_type="text/html; charset=utf-8")
    answer.headers["Content-Security-Policy"] = (
        f"default-src 'none'; style-src {_styles_of(text)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return answer


def _styles_of(text: str) -> str:
    """What allows the style sheet that is in a page, and no other."""
    digests = [hashlib.sha256(sheet.encode("utf-8")).digest() for sheet in _STYLE.findall(text)]
    return " ".join(f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests) or "'none'"


def _months_before(now: datetime, count: int) -> Iterator[str]:
    year, month = now.year, now.month
    for _ in range(count):
        yield f"{year:04}-{month:02}"
        year, month = (year, month - 1) if month > 1 else (year - 1, 12)


# ---- findings -------------------------------------------------------------------------------------------------------


def findings() -> Response:
    """All devices: what was billed, what of it was borne out, and what does not fit; the gravest at the top."""
    one = desk()
    books = reconcile(services(current_app).database, at=one.now())
    devices = sorted(books.devices, key=lambda each: (_GRAVITY.get(each.worst, len(_GRAVITY)), each.origin))
    return page(
        "findings.html", here="findings", devices=devices, subscriptions=books.subscriptions, owners=one.owners()
    )


def fork_proof(origin: str, number: int) -> Response:
    """The portable proof of a fork, counted from the first that was found of the device."""
    desk().licensing.devices.one(origin)
    proof = find_proof(services(current_app).database, origin, number)
    if proof is None:
        raise ExchangeError(
            "there is no portable proof of that fork",
            next_step="Without one, keep both bundles: the vendor's database holds what was known before.",
        )
    return download(proof.blob, proof.name, "application/json")


# ---- the audit trail ------------------------------------------------------------------------------------------------


def trail() -> Response:
    """The newest lines, of one subject if one is asked for; and whether the whole chain holds."""
    one = desk()
    subject = request.args.get("subject", "").strip()[:300]
    verified = one.trail.verify() if request.args.get("verify") == "yes" else None
    return page(
        "trail.html",
        here="trail",
        subject=subject,
        lines=one.trail.lines(subject=subject or None, limit=LINES_SHOWN),
        verified=verified,
    )
