"""The clerk's pages of customers: their subscriptions, tiers and keys.

Invariant: an API key is in one answer, the one to the form that made it, and in no page that can be opened again. The
form names the key that it replaces, so that sending it twice does not end the key that was just handed out.
"""

from http import HTTPStatus
from typing import cast

from flask import Blueprint, Response
from werkzeug.wrappers import Response as AnyResponse

from licenses.authority.accounts import Period, Slot
from licenses.authority.web.clerk_desk import desk
from licenses.authority.web.clerk_page import form, page, see
from licenses.authority.web.errors import RequestRefusedError
from licenses.errors import AccountError
from licenses.model import CONTAINER_TYPE, READ_PAGES_METER


def add_to(bp: Blueprint) -> None:
    """Put these pages into the blueprint."""
    bp.get("/customers", endpoint="customers")(customers)
    bp.post("/customers", endpoint="add_customer")(add_customer)
    bp.get("/customers/<customer_id>", endpoint="customer")(customer)
    bp.post("/customers/<customer_id>/subscriptions", endpoint="add_subscription")(add_subscription)
    bp.get("/tiers", endpoint="tiers")(tiers)
    bp.post("/tiers", endpoint="add_tier")(add_tier)
    bp.post("/subscriptions/<subscription_id>/approval", endpoint="approve")(approve)
    bp.post("/subscriptions/<subscription_id>/tier", endpoint="change_tier")(change_tier)
    bp.get("/subscriptions/<subscription_id>/keys/<number:slot>", endpoint="key")(key)
    bp.post("/subscriptions/<subscription_id>/keys/<number:slot>", endpoint="new_key")(new_key)
    bp.post("/subscriptions/<subscription_id>/keys/<number:slot>/revocation", endpoint="revoke_key")(revoke_key)


def customers() -> Response:
    """All customers."""
    one = desk()
    count: dict[str, int] = {}
    for subscription in one.accounts.subscriptions():
        count[subscription.customer_id] = count.get(subscription.customer_id, 0) + 1
    devices: dict[str, int] = {}
    owners = one.owners()
    for device in one.licensing.devices.all():
        owner = owners[device.subscription_id][1].id
        devices[owner] = devices.get(owner, 0) + 1
    return page(
        "customers.html", here="customers", customers=one.accounts.customers(), subscriptions=count, devices=devices
    )


def add_customer() -> AnyResponse:
    """Begin a customer's account."""
    made = desk().accounts.add_customer(form().get("name", "").strip())
    return see("customer", done="customer", customer_id=made.id)


def customer(customer_id: str) -> Response:
    """One customer with the subscriptions, their keys, devices and licences."""
    one = desk()
    found = one.accounts.customer(customer_id)
    subscriptions = one.accounts.subscriptions(customer_id)
    return page(
        "customer.html",
        here="customers",
        customer=found,
        subscriptions=[
            (
                subscription,
                one.accounts.tier(subscription.tier),
                one.accounts.keys(subscription.id),
                one.licensing.devices.all(subscription.id),
            )
            for subscription in subscriptions
        ],
        tiers=one.accounts.tiers(),
        container_type=CONTAINER_TYPE,
    )


def add_subscription(customer_id: str) -> AnyResponse:
    """Begin a subscription of a customer."""
    fields = form()
    desk().accounts.add_subscription(
        customer_id,
        container_type=fields.get("container_type", "").strip(),
        tier=fields.get("tier", ""),
        approved=fields.get("approved") == "yes",
    )
    return see("customer", done="subscription", customer_id=customer_id)


def tiers() -> Response:
    """What can be committed to."""
    return page("tiers.html", here="customers", tiers=desk().accounts.tiers(), meter=READ_PAGES_METER)


def add_tier() -> AnyResponse:
    """Offer another tier."""
    fields = form()
    desk().accounts.add_tier(
        fields.get("name", "").strip(),
        meter=fields.get("meter", "").strip(),
        quantity=_count(fields.get("quantity", "")),
        period=cast(Period, fields.get("period", "")),
        overage_allowed=fields.get("overage") == "yes",
    )
    return see("tiers", done="tier")


def approve(subscription_id: str) -> AnyResponse:
    """Approve a subscription, or take that back."""
    approved = form().get("approved") == "yes"
    changed = desk().accounts.approve(subscription_id, approved)
    return see("customer", done="approved" if approved else "refused", customer_id=changed.customer_id)


def change_tier(subscription_id: str) -> AnyResponse:
    """Move a subscription to another tier."""
    changed = desk().accounts.change_tier(subscription_id, form().get("tier", ""))
    return see("customer", done="moved", customer_id=changed.customer_id)


def key(subscription_id: str, slot: int) -> Response:
    """What making or revoking a key would do, before it is done."""
    one = desk()
    subscription = one.accounts.subscription(subscription_id)
    return page(
        "key.html",
        here="customers",
        subscription=subscription,
        customer=one.accounts.customer(subscription.customer_id),
        slot=one.accounts.keys(subscription_id)[_slot(slot) - 1],
    )


def new_key(subscription_id: str, slot: int) -> Response:
    """Make a key, and show it this once."""
    one = desk()
    subscription = one.accounts.subscription(subscription_id)
    _require_replaces(subscription_id, slot)
    made = one.accounts.new_key(subscription_id, _slot(slot))
    return page(
        "new_key.html",
        here="customers",
        subscription=subscription,
        customer=one.accounts.customer(subscription.customer_id),
        slot=one.accounts.keys(subscription_id)[slot - 1],
        key=made,
    )


def revoke_key(subscription_id: str, slot: int) -> AnyResponse:
    """End a key."""
    one = desk()
    subscription = one.accounts.subscription(subscription_id)
    _require_replaces(subscription_id, slot)
    one.accounts.revoke_key(subscription_id, _slot(slot))
    return see("customer", done="revoked", customer_id=subscription.customer_id)


def _require_replaces(subscription_id: str, slot: int) -> None:
    """Refuse a form that was made when another key, or none, was in this place."""
    now = desk().accounts.keys(subscription_id)[_slot(slot) - 1]
    if form().get("replaces", "") != now.fingerprint:
        raise RequestRefusedError(
            HTTPStatus.CONFLICT,
            "clerk_key_changed",
            f"key {slot} is another one by now; this form was sent before, or somebody else made a key",
            next_step="A key is shown once. Open the subscription again, and make another key if that one is lost.",
        )


def _slot(slot: int) -> Slot:
    if slot not in (1, 2):
        raise AccountError(f"a subscription has the keys 1 and 2, no {slot}", next_step="Choose 1 or 2.")
    return cast(Slot, slot)


def _count(text: str) -> int:
    digits = text.replace(",", "").replace(" ", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 16):
        raise AccountError("the quantity is a whole number", next_step="Give it in digits, such as 100000.")
    return int(digits)
