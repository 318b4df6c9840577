"""What the clerk's pages work with: the rooms below, in the clerk's own name.

Invariant: whatever a clerk changes is written to the audit trail as "clerk:NAME"; no page has the rooms in
another name.
"""

from dataclasses import dataclass
from datetime import datetime

from flask import current_app, g

from licenses.authority.accounts import Accounts, Customer, Subscription
from licenses.authority.audit_trail import AuditTrail, Clock
from licenses.authority.intake import Intake
from licenses.authority.licensing import Licensing
from licenses.authority.web.clerk_page import clerk, clerk_office
from licenses.authority.web.services import services


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """The rooms, as this clerk uses them.

    Attributes:
        accounts: Customers, tiers, subscriptions, keys.
        licensing: Devices and licences.
        intake: Bundles and acknowledgements.
        trail: The audit trail.
        clock: The vendor's time.
    """

    accounts: Accounts
    licensing: Licensing
    intake: Intake
    trail: AuditTrail
    clock: Clock

    def now(self) -> datetime:
        """The vendor's time, aware UTC, to the second."""
        return self.clock()

    def owners(self) -> dict[str, tuple[Subscription, Customer]]:
        """Subscription and customer of each subscription's id."""
        customers = {one.id: one for one in self.accounts.customers()}
        return {one.id: (one, customers[one.customer_id]) for one in self.accounts.subscriptions()}


def desk() -> Desk:
    """The desk of the clerk who asks."""
    kept: Desk | None = g.get("clerk_desk")
    if kept is None:
        one, office = services(current_app), clerk_office()
        trail = office.trail.by(f"clerk:{clerk()}")
        accounts = Accounts(one.database, trail, office.clock)
        licensing = Licensing(one.database, trail, one.keys, office.clock, terms=office.terms)
        intake = Intake(
            one.database,
            trail,
            accounts,
            licensing,
            one.keys,
            office.clock,
            max_bundle_bytes=one.uploads.max_bytes,
        )
        kept = g.clerk_desk = Desk(
            accounts=accounts, licensing=licensing, intake=intake, trail=trail, clock=office.clock
        )
    return kept
