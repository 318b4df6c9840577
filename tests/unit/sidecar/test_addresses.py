"""Lists of places, address ranges and origins: what is listed is meant, and nothing else in any spelling."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from sidecar.addresses import DocumentSources, DocumentUrl, TrustedProxies, is_public, read_origins
from sidecar.errors import SettingsError
from sidecar.settings import load_settings

SOURCES = DocumentSources.from_text(
    "https://files.example, http://scans.example:8080/share/in  http://10.1.2.3;http://[::1]:81/ 10.20.0.0/16 fd00::/8"
)


@pytest.mark.parametrize(
    "url",
    [
        "https://files.example/a.png",
        "HTTPS://FILES.EXAMPLE:443/deep/path?sig=a%2Fb&x=1#part",
        "https://files.example",
        " https://files.example/a.png ",
        "http://scans.example:8080/share/in/a.png",
        "http://scans.example:8080/share/in",
        "http://scans.example:8080/%73hare/in/ä.png",
        "http://10.1.2.3/a.png",
        "http://10.1.2.3:80/a.png",
        "http://[::1]:81/a.png",
        "http://[0:0:0:0:0:0:0:1]:81/a.png",
    ],
)
def test_listed_places(url: str) -> None:
    assert SOURCES.permits(DocumentUrl.from_text(url))


@pytest.mark.parametrize(
    "url",
    [
        "http://files.example/a.png",
        "https://files.example:8443/a.png",
        "https://files.example./a.png",
        "https://sub.files.example/a.png",
        "https://files.example.evil.example/a.png",
        "https://files.example@evil.example/a.png",
        "https://user:pass@files.example/a.png",
        "https://@files.example/a.png",
        "https://evil.example/https://files.example/",
        "http://scans.example:8080/share/inside/a.png",
        "http://scans.example:8080/share/in/../out/a.png",
        "http://scans.example:8080/share/in/%2e%2e/out/a.png",
        "http://scans.example:8080/share/in/%252e%252e%252fout/a.png",
        "http://scans.example:8080/share/in/..;/out/a.png",
        "http://scans.example:8080/share/in/..%5cout/a.png",
        "http://scans.example:8080/share%2Fin/a.png",
        "http://scans.example:8080//share/in/a.png",
        "http://scans.example:8080/a.png",
        "http://scans.example/share/in/a.png",
        "http://10.1.2.4/",
        "http://10.1.515/",
        "http://167838211/",
        "http://012.1.2.3/",
        "http://0x0a.0x01.0x02.0x03/",
        "http://0x0a010203/",
        "http://[::ffff:10.1.2.3]/",
        "http://127.0.0.1/",
        "http://localhost/",
        "http://[::1]/",
        "http://[fd00::1]/",
        "http://10.20.0.1/",
    ],
)
def test_everything_else_is_refused(url: str) -> None:
    assert not SOURCES.permits(DocumentUrl.from_text(url))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "files.example/a.png",
        "//files.example/a.png",
        "/a.png",
        "ftp://files.example/a.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "http://",
        "http:///a.png",
        "https:files.example",
        "http://files.example:99999/",
        "http://files.example:0/",
        "http://files.example:x/",
        "http://[::1/",
        "http://files.example/a b.png",
        "http://files.example\\@evil.example/",
        "http://files.example/a\r\nHost: evil.example",
        "http://files.example/\0",
        "http://files.example/" + "a" * 9000,
    ],
)
def test_no_absolute_address(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - several kinds, all of them this one
        DocumentUrl.from_text(text)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.1",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:0:1::1",
        "2001:db8::1",
        "fc00::1",
        "fd12::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_addresses_that_are_not_of_the_open_internet(address: str) -> None:
    assert not is_public(ip_address(address))
    assert not SOURCES.permits_address(DocumentUrl.from_text("https://files.example/"), ip_address("192.168.1.1"))


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_of_the_open_internet(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    ("address", "permitted"),
    [("10.20.3.4", True), ("::ffff:10.20.3.4", True), ("10.21.0.1", False), ("fd00::7", True), ("127.0.0.1", False)],
)
def test_a_name_leads_to_listed_ranges(address: str, permitted: bool) -> None:
    assert SOURCES.permits_address(DocumentUrl.from_text("https://files.example/"), ip_address(address)) is permitted


def test_an_address_that_is_listed_as_a_place_needs_no_range() -> None:
    url = DocumentUrl.from_text("http://10.1.2.3/")
    assert SOURCES.permits_address(url, ip_address("10.1.2.3"))
    assert not SOURCES.permits_address(url, ip_address("10.20.0.1"))


@pytest.mark.parametrize(
    "text",
    [
        "files.example",
        "*",
        "https://*",
        "https://*.example",
        "https://user@files.example",
        "https://files.example/?q",
        "https://files.example/#x",
        "https://files.example/a/../b",
        "ftp://files.example",
        "http://2130706433",
        "http://0x7f.1",
        "http://127.1",
        "10.1.2.3/16",
        "10.1.2.0/33",
        "::ffff:10.0.0.0/104",
    ],
)
def test_lists_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(SettingsError, match="Sidecar:AllowedImageSources"):
        load_settings([f"Sidecar:AllowedImageSources={text}"], {})


def test_lists_survive_the_way_to_a_child_process() -> None:
    words = [
        "Sidecar:AllowedImageSources=https://files.example/in;10.0.0.0/8 http://[::1]:81",
        "Sidecar:TrustForwardedHeaders=10.0.0.0/8,::1",
        "Sidecar:CorsAllowedOrigins=https://a.example http://b.example:8080",
    ]
    settings = load_settings(words, {})
    again = load_settings([], settings.to_environment())
    assert (again.document_sources, again.trusted_proxies, again.cors_origins) == (
        settings.document_sources,
        settings.trusted_proxies,
        settings.cors_origins,
    )
    assert len(again.document_sources.places) == 2
    assert again.cors_origins == ("https://a.example", "http://b.example:8080")
    plain = load_settings([], load_settings([], {}).to_environment())
    assert not plain.document_sources
    assert not plain.trusted_proxies.trust("127.0.0.1")
    assert plain.cors_origins == ()
    assert load_settings(["Sidecar:TrustForwardedHeaders=True"], {}).trusted_proxies.trust("1.2.3.4")


@pytest.mark.parametrize(
    ("listed", "peer", "trusted"),
    [
        ("false", "10.0.0.1", False),
        ("true", "10.0.0.1", True),
        ("10.0.0.0/8", "10.0.0.1", True),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8 ::1", "::1", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("10.0.0.0/8", "", False),
        ("10.0.0.0/8", "nonsense", False),
    ],
)
def test_whose_forwarded_headers_count(listed: str, peer: str, trusted: bool) -> None:
    assert TrustedProxies.from_text(listed).trust(peer) is trusted


@pytest.mark.parametrize("text", ["maybe", "proxy.example", "10.0.0.1/8", "true,10.0.0.0/8"])
def test_proxies_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(SettingsError):
        load_settings([f"Sidecar:TrustForwardedHeaders={text}"], {})


def test_origins() -> None:
    assert read_origins("https://A.example:443, http://b.example:8080/") == (
        "https://a.example",
        "http://b.example:8080",
    )
    assert read_origins("https://a.example *") == ("*",)
    for text in ("a.example", "https://a.example/path", "null", "https://*.example", "https://u@a.example"):
        with pytest.raises(ValueError):  # noqa: PT011 - several kinds, all of them this one
            read_origins(text)
