"""Nothing secret is left, in whatever text it turns up."""

from __future__ import annotations

import json
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from sidecar.deploy.redaction import HIDDEN, Redactor, shown_settings

SECRETS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=4, max_size=40).filter(
    lambda text: text not in HIDDEN and ":" not in text and "@" not in text
)


def test_settings_are_shown_when_they_are_known_and_not_secret() -> None:
    environment = {
        "Eula": "accept",
        "ApiKey": "k-1",
        "Core__Workers": "2",
        "HTTP_PROXY": "http://u:p@proxy:3128",
        "HTTP_PROXY_CREDS": "u:p",
        "Billing": "https://user:pass@billing.example/x",
        "Logging__LogLevel__Tollgate.Meter": "Debug",
        "logging__debug__x": "y",
        "Some__Token": "t-1",
    }
    assert shown_settings(environment) == {
        "ApiKey": HIDDEN,
        "Billing": f"https://{HIDDEN}@billing.example/x",
        "Core:Workers": "2",
        "Eula": "accept",
        "HTTP_PROXY": HIDDEN,
        "HTTP_PROXY_CREDS": HIDDEN,
        "Logging:LogLevel:Tollgate.Meter": "Debug",
        "Some:Token": HIDDEN,
        "logging:debug:x": "y",
    }


@given(SECRETS, st.text(), st.text())
def test_a_secret_is_found_in_every_text(secret: str, before: str, after: str) -> None:
    redactor = Redactor.of({"ApiKey": secret})
    for text in (f"{before}{secret}{after}", f"?key={quote(secret, safe='')}&"):
        cleaned = redactor.clean(text)
        assert secret not in cleaned.replace(HIDDEN, "")


@given(SECRETS)
def test_a_secret_is_found_in_every_member(secret: str) -> None:
    value = {"a": [secret, {"b": f"{secret}\n{secret}"}, 1, None], secret: True}
    cleaned = Redactor.of({"Some__Token": secret}).clean_members(value)
    (name,) = cleaned.keys() - {"a"}
    texts = [name, cleaned["a"][0], *cleaned["a"][1].values()]
    assert not any(secret in text.replace(HIDDEN, "") for text in texts)
    assert cleaned["a"][2:] == [1, None]


def test_the_parts_of_credentials_are_secret_by_themselves() -> None:
    redactor = Redactor.of({"HTTP_PROXY": "http://meter:Pa55word@proxy:3128", "HTTP_PROXY_CREDS": "other:0ther-pass"})
    told = "proxy answered 407 to meter with Pa55word, then 0ther-pass; see https://who:what@host/path"
    assert redactor.clean(told) == (
        f"proxy answered 407 to {HIDDEN} with {HIDDEN}, then {HIDDEN}; see https://{HIDDEN}@host/path"
    )


def test_a_secret_is_found_however_it_is_written() -> None:
    redactor = Redactor.of({"ApiKey": 'a"b\\ü k', "HTTP_PROXY": "http://meter:Pa%40ss@proxy:3128"})
    for written in ('a"b\\ü k', json.dumps('a"b\\ü k')[1:-1], "a%22b%5C%C3%BC+k", "Pa@ss", "Pa%40ss"):
        assert redactor.clean(f"<{written}>") == f"<{HIDDEN}>", written
    assert redactor.clean("Basic bWV0ZXI6UGFAc3M=") == f"Basic {HIDDEN}"


def test_private_keys_are_taken_out_whole_or_cut() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\n-----END PRIVATE KEY-----"
    redactor = Redactor(())
    assert redactor.clean(f"a {key} b") == f"a {HIDDEN} b"
    assert redactor.clean(f"a {key[:40]}") == f"a {HIDDEN}"


def test_a_short_value_is_not_looked_for_everywhere() -> None:
    assert Redactor.of({"Some__Flag": "1"}).clean("1 page, 11 entries") == "1 page, 11 entries"
