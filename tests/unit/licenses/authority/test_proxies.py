"""Whose request it is, and whether it came over TLS, when reverse proxies tell: listed ones alone are believed."""

import pytest

from licenses.authority.clerk_access import neighbourhood
from licenses.authority.proxies import NO_PROXIES, Proxies
from licenses.errors import ClerkAccessError

PROXIES = Proxies.from_words(["10.0.0.5", "10.1.2.0/24", "fd00::7"], danger="pass for any client")


@pytest.mark.parametrize(
    ("peer", "header", "expected"),
    [
        ("10.0.0.5", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.5", "198.51.100.1, 192.0.2.7", "192.0.2.7"),  # the client wrote the first
        ("10.0.0.5", "198.51.100.1,192.0.2.7,10.1.2.3", "192.0.2.7"),  # two proxies of ours
        ("10.0.0.5", "10.1.2.9, 10.1.2.3", "10.1.2.9"),  # somebody within
        ("10.0.0.5", "198.51.100.1, 10.1.2.9, 192.0.2.7, 10.1.2.3", "192.0.2.7"),
        ("fd00::7", "2001:db8::1", "2001:db8::1"),
        ("::ffff:10.0.0.5", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.5", "::ffff:192.0.2.7", "192.0.2.7"),
        ("10.0.0.5", "192.0.2.7:51324", "192.0.2.7"),
        ("10.0.0.5", "[2001:db8::1]:51324", "2001:db8::1"),
        ("10.0.0.5", "[2001:db8::1]", "2001:db8::1"),
        ("10.0.0.5", None, "10.0.0.5"),
        ("10.0.0.5", "", "10.0.0.5"),
        ("10.0.0.5", "unknown", "10.0.0.5"),
        ("10.0.0.5", "192.0.2.7, unknown", "10.0.0.5"),  # whom no proxy named is not the client
        ("10.0.0.5", "192.0.2.7, , 10.1.2.3", "10.1.2.3"),
        ("10.0.0.5", "192.0.2.7,", "10.0.0.5"),
        ("10.0.0.6", "192.0.2.7", "10.0.0.6"),
        ("127.0.0.1", "192.0.2.7", "127.0.0.1"),
        ("", "192.0.2.7", ""),
        ("nonsense", "192.0.2.7", "nonsense"),
    ],
)
def test_the_client_is_the_right_most_address_that_is_no_proxy(peer: str, header: str | None, expected: str) -> None:
    assert PROXIES.client_of(peer, header) == expected
    assert NO_PROXIES.client_of(peer, header) == peer


def test_a_chain_of_any_length_is_read_to_its_end() -> None:
    assert PROXIES.client_of("10.0.0.5", ", ".join(["192.0.2.7", *["10.1.2.3"] * 5000])) == "192.0.2.7"


def test_a_scope_makes_no_other_guesser() -> None:
    one, other = (PROXIES.client_of("10.0.0.5", f"2001:db8::1%{scope}") for scope in ("a", "b"))
    assert neighbourhood(one) == neighbourhood(other) == "2001:db8::/64"


@pytest.mark.parametrize(
    ("peer", "header", "expected"),
    [
        ("10.0.0.5", "https", True),
        ("10.1.2.200", " HTTPS ", True),
        ("10.0.0.5", "http", False),
        ("10.0.0.5", "https,http", False),
        ("10.0.0.5", "", False),
        ("10.0.0.5", None, False),
        ("10.0.0.6", "https", False),
        ("", "https", False),
    ],
)
def test_tls_is_a_listed_proxys_word(peer: str, header: str | None, expected: bool) -> None:
    assert PROXIES.is_https(peer, header) is expected
    assert NO_PROXIES.is_https(peer, header) is False


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("proxy.example", "no address"),
        ("10.0.0.5/8", "no address"),
        ("", "no address"),
        ("0.0.0.0/0", "could pass for any client"),
        ("::/0", "could pass for any client"),
    ],
)
def test_a_wrong_address_or_nearly_everybody_is_refused(word: str, text: str) -> None:
    with pytest.raises(ClerkAccessError, match=text) as caught:
        Proxies.from_words(["10.0.0.5", word], danger="pass for any client")
    assert caught.value.next_step
