"""The books of customers: what was in force can always be told, and a key is nowhere but with who got it."""

from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from licenses.errors import AccountError, AuthorityError, FormatError, InvalidKeyError
from licenses.model import CONTAINER_TYPE, READ_PAGES_METER
from tests.fakes.licences import NOW
from tests.fakes.vendor_accounts import a_books


@pytest.fixture
def books(tmp_path):
    books = a_books(tmp_path)
    yield books
    books.database.close()


# ---- customers and tiers --------------------------------------------------------------------------------------------


def test_customers_are_kept_by_name(books):
    added = [books.accounts.add_customer(name) for name in ("Žižkov", "Alba", "St. Example's Hospital")]
    again = books.again().accounts
    assert [one.name for one in again.customers()] == sorted(one.name for one in added)
    assert [again.customer(one.id) for one in added] == added
    assert len({one.id for one in added}) == 3
    assert all(one.id.startswith("c-") and one.created_at == NOW for one in added)


@pytest.mark.parametrize("name", ["", " ", " Alba", "Alba ", "Al\nba", "a" * 201, "\u202eabla"])
def test_a_name_must_be_one(books, name):
    with pytest.raises(AccountError, match="a customer's name has"):
        books.accounts.add_customer(name)
    assert books.accounts.customers() == []
    assert books.trail.lines() == []


def test_two_customers_or_tiers_of_one_name_are_refused(books):
    books.accounts.add_customer("Alba")
    with pytest.raises(AccountError, match="there is a customer 'Alba' already"):
        books.accounts.add_customer("Alba")
    terms = {"meter": READ_PAGES_METER, "quantity": 5, "period": "year", "overage_allowed": False}
    tier = books.accounts.add_tier("t1", **terms)
    with pytest.raises(AccountError, match="there is a tier 't1' already"):
        books.accounts.add_tier("t1", **{**terms, "quantity": 6})
    assert books.accounts.tiers() == [tier]
    assert [line.action for line in books.trail.lines()] == ["tier.add", "customer.add"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": ""}, AccountError),
        ({"name": "two words"}, AccountError),
        ({"name": "t" * 65}, AccountError),
        ({"meter": "no such meter"}, FormatError),
        ({"quantity": -1}, AccountError),
        ({"quantity": 2**53}, AccountError),
        ({"period": "week"}, AccountError),
    ],
)
def test_a_tier_must_be_one(books, change, error):
    terms = {"name": "t", "meter": READ_PAGES_METER, "quantity": 5, "period": "year", "overage_allowed": True, **change}
    with pytest.raises(error) as caught:
        books.accounts.add_tier(terms.pop("name"), **terms)
    assert "file" not in caught.value.next_step
    assert books.accounts.tiers() == []


# ---- subscriptions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantity", [-1, 2**53, 10**400])
def test_a_quantity_beyond_all_bounds_is_told_with_them(books, quantity):
    with pytest.raises(AccountError, match="at most 9,007,199,254,740,991 units") as caught:
        books.accounts.add_tier("t1", meter=READ_PAGES_METER, quantity=quantity, period="year", overage_allowed=False)
    assert "quantity in that range" in caught.value.next_step


def test_a_subscription_needs_a_customer_a_tier_and_a_word(books):
    made = books.a_subscription()
    for customer, tier, container_type in (
        ("c-000000000000", made.tier, CONTAINER_TYPE),
        (made.customer_id, "none", CONTAINER_TYPE),
        (made.customer_id, made.tier, "two words"),
    ):
        with pytest.raises(AccountError):
            books.accounts.add_subscription(customer, container_type=container_type, tier=tier)
    assert books.accounts.subscriptions() == [made]
    assert books.accounts.subscriptions(made.customer_id) == [made]
    assert books.accounts.subscriptions("c-000000000000") == []


def test_what_a_subscription_was_can_be_told_for_any_time(books):
    made = books.a_subscription(quantity=10)
    larger = books.a_subscription(quantity=20)
    days = [NOW]
    for tier in (larger.tier, made.tier, larger.tier):
        days.append(books.clock.move(timedelta(days=1)))
        assert books.accounts.change_tier(made.id, tier).tier == tier
    found = [books.accounts.tier_at(made.id, at).quantity for at in days]
    assert found == [10, 20, 10, 20]
    assert books.accounts.tier_at(made.id, days[1] - timedelta(seconds=1)).quantity == 10
    assert books.accounts.tier_at(made.id, NOW - timedelta(days=99)).quantity == 10
    assert books.accounts.tier_at(made.id, NOW + timedelta(days=99)).quantity == 20
    assert books.accounts.subscription(larger.id).tier == larger.tier


def test_a_tier_that_changed_twice_in_a_second_is_the_last_one(books):
    made, other = books.a_subscription(quantity=10), books.a_subscription(quantity=20)
    books.accounts.change_tier(made.id, other.tier)
    assert books.accounts.tier_at(made.id, NOW).quantity == 20


def test_approval_is_given_and_taken_back_once(books):
    made = books.a_subscription(approved=False)
    for approved in (False, True, True, False):
        assert books.accounts.approve(made.id, approved).approved is approved
    actions = [line.action for line in reversed(books.trail.lines(subject=made.id))]
    assert actions == ["subscription.add", "subscription.approve", "subscription.refuse"]


@pytest.mark.parametrize("what", ["approve", "change_tier", "new_key", "revoke_key", "keys", "subscription", "tier_at"])
def test_nobody_elses_subscription_is_made_by_the_way(books, what):
    arguments = {"approve": (True,), "change_tier": ("t",), "new_key": (1,), "revoke_key": (1,), "tier_at": (NOW,)}
    with pytest.raises(AccountError, match="there is no subscription 's-0'"):
        getattr(books.accounts, what)("s-0", *arguments.get(what, ()))
    assert books.trail.lines() == []


# ---- keys -----------------------------------------------------------------------------------------------------------


def test_a_key_tells_its_subscription_until_it_is_replaced_or_revoked(books):
    made, other = books.a_subscription(), books.a_subscription(approved=False)
    first, second = books.accounts.new_key(made.id, 1), books.accounts.new_key(made.id, 2)
    strange = books.accounts.new_key(other.id, 1)
    assert [books.accounts.subscription_of_key(key) for key in (first, second, strange)] == [made, made, other]
    third = books.accounts.new_key(made.id, 1)
    with pytest.raises(InvalidKeyError, match="this key was regenerated"):
        books.accounts.subscription_of_key(first)
    assert books.accounts.subscription_of_key(second) == books.accounts.subscription_of_key(third) == made
    assert books.accounts.revoke_key(made.id, 2)
    assert not books.accounts.revoke_key(made.id, 2)
    with pytest.raises(InvalidKeyError, match="this key was revoked"):
        books.accounts.subscription_of_key(second)
    slots = books.accounts.keys(made.id)
    assert [(slot.slot, bool(slot.fingerprint)) for slot in slots] == [(1, True), (2, False)]


@pytest.mark.parametrize("key", ["", "0" * 64, "0" * 63, "0" * 65, "G" * 64, "é" * 64, "0" * 10_000_000, "' OR 1=1 --"])
def test_what_is_no_key_is_refused(books, key):
    books.accounts.new_key(books.a_subscription().id, 1)
    with pytest.raises(InvalidKeyError) as caught:
        books.accounts.subscription_of_key(key)
    assert key not in str(caught.value) or not key
    assert caught.value.word == "Invalid"


def test_a_key_in_capitals_is_another_key(books):
    key = books.accounts.new_key(books.a_subscription().id, 1)
    with pytest.raises(InvalidKeyError):
        books.accounts.subscription_of_key(key.upper())


@pytest.mark.parametrize("slot", [0, 3, -1])
def test_there_are_two_places(books, slot):
    made = books.a_subscription()
    with pytest.raises(AccountError, match="has the keys 1 and 2"):
        books.accounts.new_key(made.id, slot)
    with pytest.raises(AccountError, match="has the keys 1 and 2"):
        books.accounts.revoke_key(made.id, slot)


def test_a_key_is_in_no_file_and_no_line(books):
    made = books.a_subscription()
    keys = [books.accounts.new_key(made.id, 1), books.accounts.new_key(made.id, 1)]
    written = b"".join(path.read_bytes() for path in books.folder.glob("authority.db*"))
    for key in keys:
        assert key.encode() not in written
        assert bytes.fromhex(key) not in written
        assert not any(key in repr(line) for line in books.trail.lines())
    newest = books.trail.lines()[0].facts
    assert newest["key"] == books.accounts.keys(made.id)[0].fingerprint


class Keys(RuleBasedStateMachine):
    """However keys are made and ended: exactly the newest of each place is good."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile  # a machine has no fixtures
        from pathlib import Path

        self._folder = tempfile.TemporaryDirectory()
        self.books = a_books(Path(self._folder.name))
        self.subscriptions = [self.books.a_subscription(), self.books.a_subscription()]
        self.good: dict[tuple[str, int], str] = {}
        self.dead: list[str] = []

    def teardown(self) -> None:
        self.books.database.close()
        self._folder.cleanup()

    @rule(whose=st.integers(0, 1), slot=st.sampled_from([1, 2]))
    def make(self, whose: int, slot: int) -> None:
        place = (self.subscriptions[whose].id, slot)
        self.dead += [self.good[place]] if place in self.good else []
        self.good[place] = self.books.accounts.new_key(*place)

    @rule(whose=st.integers(0, 1), slot=st.sampled_from([1, 2]))
    def revoke(self, whose: int, slot: int) -> None:
        place = (self.subscriptions[whose].id, slot)
        assert self.books.accounts.revoke_key(*place) is (place in self.good)
        self.dead += [self.good.pop(place)] if place in self.good else []

    @invariant()
    def exactly_the_newest_are_good(self) -> None:
        for (subscription_id, _), key in self.good.items():
            assert self.books.accounts.subscription_of_key(key).id == subscription_id
        for key in self.dead:
            with pytest.raises(AuthorityError):
                self.books.accounts.subscription_of_key(key)
        self.books.trail.verify()


TestKeys = Keys.TestCase
TestKeys.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
