"""Who is let in to the clerk's page: by password, by a listed proxy's word, and else nobody."""

import pytest

from licenses.authority.clerk_access import ClerkAccess, TrustedProxy, is_loopback, neighbourhood
from licenses.authority.passwords import Cost, PasswordFile
from licenses.errors import ClerkAccessError

CHEAP = Cost(memory_kib=8, passes=1, lanes=1)


@pytest.fixture
def passwords(tmp_path):
    return PasswordFile(tmp_path / "passwords", cost=CHEAP)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:8400", True),
        ("127.9.9.9:1", True),
        ("localhost:8400", True),
        ("[::1]:8400", True),
        ("unix:/run/authority.sock", True),
        ("0.0.0.0:8400", False),
        ("[::]:8400", False),
        ("192.0.2.7:8400", False),
        ("authority.vendor.example:8400", False),
        (":8400", False),
        ("", False),
    ],
)
def test_what_only_this_machine_can_reach(listen, expected):
    assert is_loopback(listen) is expected


@pytest.mark.parametrize("listen", ["127.0.0.1:8400", "0.0.0.0:8400"])
def test_page_is_closed_until_a_password_is_set(passwords, listen):
    access = ClerkAccess(listen=listen, passwords=passwords)
    with pytest.raises(ClerkAccessError, match="no clerk has a password") as caught:
        access.require_way_in()
    assert "licenses authority password" in caught.value.next_step
    assert (listen in str(caught.value)) is (listen != "127.0.0.1:8400")
    passwords.set("anna", "four words nobody joins")
    access.require_way_in()
    passwords.remove("anna")
    with pytest.raises(ClerkAccessError):
        access.require_way_in()


def test_a_proxy_is_a_way_in(passwords):
    proxy = TrustedProxy.from_words("X-Remote-User", ["10.0.0.5"])
    ClerkAccess(listen="0.0.0.0:8400", passwords=passwords, proxy=proxy).require_way_in()


def test_no_header_is_believed_unless_it_was_switched_on(passwords):
    assert TrustedProxy.from_words(None, []) is None
    access = ClerkAccess(listen="127.0.0.1:8400", passwords=passwords)
    assert access.clerk_by_header("127.0.0.1", "anna") is None


@pytest.mark.parametrize(
    ("header", "addresses", "text"),
    [
        ("X-Remote-User", [], "together"),
        (None, ["10.0.0.5"], "together"),
        ("X Remote", ["10.0.0.5"], "cannot be the header"),
        ("X_Remote_User", ["10.0.0.5"], "cannot be the header"),
        ("Cookie", ["10.0.0.5"], "cannot be the header"),
        ("X-Remote-User", ["proxy.example"], "no address"),
        ("X-Remote-User", ["10.0.0.5/8"], "no address"),
        ("X-Remote-User", ["0.0.0.0/0"], "nearly everybody"),
        ("X-Remote-User", ["::/0"], "nearly everybody"),
    ],
)
def test_half_a_setting_or_a_wrong_one_is_refused(header, addresses, text):
    with pytest.raises(ClerkAccessError, match=text) as caught:
        TrustedProxy.from_words(header, addresses)
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("10.0.0.5", "anna"),
        ("10.1.2.3", "anna"),
        ("::ffff:10.0.0.5", "anna"),
        ("fd00::7", "anna"),
        ("10.0.0.6", None),
        ("fd00::8", None),
        ("127.0.0.1", None),
        ("", None),
        ("nonsense", None),
    ],
)
def test_the_header_counts_from_listed_addresses_alone(passwords, peer, expected):
    proxy = TrustedProxy.from_words("X-Remote-User", ["10.0.0.5", "10.1.2.0/24", "fd00::7"])
    access = ClerkAccess(listen="0.0.0.0:8400", passwords=passwords, proxy=proxy)
    assert access.clerk_by_header(peer, "Anna") == expected


@pytest.mark.parametrize("value", [None, "", " ", "anna,bert", "an na", "<b>", "x" * 65])
def test_a_proxy_that_names_nobody_lets_nobody_in(passwords, value):
    proxy = TrustedProxy.from_words("X-Remote-User", ["10.0.0.5"])
    access = ClerkAccess(listen="0.0.0.0:8400", passwords=passwords, proxy=proxy)
    with pytest.raises(ClerkAccessError, match=r"10\.0\.0\.5"):
        access.clerk_by_header("10.0.0.5", value)


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("", "local"),
    ],
)
def test_a_guesser_is_an_address_or_a_network_that_one_host_has(peer, expected):
    assert neighbourhood(peer) == expected
