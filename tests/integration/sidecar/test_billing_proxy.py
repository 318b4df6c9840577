"""The way to the billing endpoint: the proxy that the settings name, and none that the host's environment names."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator

import pytest

from sidecar.billing_client import BillingClient, proxy_for
from sidecar.errors import BillingError
from sidecar.settings import Proxy, load_settings
from tests.e2e.site import free_port
from tests.fakes.billing import FakeBilling

KEY = "0123456789abcdef"


@pytest.fixture
def server() -> Iterator[FakeBilling]:
    fake = FakeBilling()
    fake.answer = (200, b"a licence", {})
    yield fake
    fake.close()


def a_proxy(server: FakeBilling, *words: str) -> Proxy:
    proxy = load_settings([f"HTTP_PROXY={server.url}", *words], {}).proxy
    assert proxy is not None
    return proxy


def test_through_the_proxy_with_credentials(server: FakeBilling) -> None:
    client = BillingClient("http://billing.example/x", KEY, a_proxy(server, "HTTP_PROXY_CREDS=user:pä:ss"))
    assert client.fetch_license("computervisionread", None) == b"a licence"
    ((path, headers, _),) = server.requests
    assert path == "http://billing.example/x/tollgate/v1/license"
    assert headers["Host"] == "billing.example"
    assert headers["Ocp-Apim-Subscription-Key"] == KEY
    assert base64.b64decode(headers["Proxy-Authorization"].removeprefix("Basic ")).decode() == "user:pä:ss"


def test_without_credentials_none_are_sent(server: FakeBilling) -> None:
    BillingClient("http://billing.example", KEY, a_proxy(server)).fetch_license("computervisionread", None)
    assert "Proxy-Authorization" not in server.requests[0][1]


def test_the_environment_names_no_proxy_and_no_way_round_it(
    server: FakeBilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, dead)
    BillingClient(server.url, KEY).fetch_license("computervisionread", None)
    assert server.requests[0][0] == "/tollgate/v1/license"
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("NO_PROXY", "*")
    BillingClient("http://billing.example", KEY, a_proxy(server)).fetch_license("computervisionread", None)
    assert server.requests[1][0].startswith("http://billing.example/")


def test_an_https_endpoint_is_reached_by_connect_and_the_key_is_not_shown_to_the_proxy() -> None:
    seen = b""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            nonlocal seen
            connection, _ = listener.accept()
            with connection:
                seen = connection.recv(65536)
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        proxy = Proxy(host="127.0.0.1", port=listener.getsockname()[1], credentials="user:secret")
        client = BillingClient("https://billing.example", KEY, proxy)
        with pytest.raises(BillingError, match=r"through the proxy 127\.0\.0\.1:") as caught:
            client.fetch_license("computervisionread", None)
        thread.join(10)
    assert seen.startswith(b"CONNECT billing.example:443 HTTP/1.")
    assert b"Proxy-Authorization: Basic " in seen
    assert KEY.encode() not in seen
    assert "secret" not in str(caught.value) + caught.value.next_step
    assert "407" in str(caught.value)


@pytest.mark.parametrize(
    ("listed", "through"),
    [
        ("", True),
        ("https://billing.example", False),
        ("https://billing.example:443/vision/", False),
        ("other.example;BILLING.example", False),
        ("*.example", False),
        (".example", False),
        ("example", True),
        ("https://other.example, http://x", True),
    ],
)
def test_endpoints_that_bypass_the_proxy(listed: str, through: bool) -> None:
    bypass = load_settings([f"HTTP_PROXY_BYPASS_URLS={listed}"], {}).proxy_bypass
    proxy = Proxy(host="proxy", port=3128)
    assert (proxy_for("https://billing.example/vision", proxy, bypass) is proxy) is through
    assert proxy_for("https://billing.example", None, bypass) is None
