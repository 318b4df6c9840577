"""Documents that a client names by URL, fetched from places that the operator listed (ADR 15).

Invariant: nothing is asked of the network, not even a name, for a URL that is not listed. The address that is connected
to is the one that was judged; no redirect is followed, no proxy is used, nothing is unpacked, and bytes and seconds are
bounded whatever the other side does.
"""

from __future__ import annotations

import contextlib
import http.client
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from ipaddress import ip_address

import structlog

from sidecar.addresses import Address, DocumentSources, DocumentUrl
from sidecar.errors import DocumentRefusedError

FETCH_SECONDS = 60.0
_SILENCE_SECONDS = 10.0
_CHUNK_BYTES = 64 * 1024
_MAX_RESOLVING = 16
_log = structlog.get_logger("Tollgate.Download")


class _FetchError(Exception):
    """Why a document was not fetched, for the log; what the client may know is less."""


class DocumentDownload:
    """Fetches documents by URL.

    Args:
        sources: From where.
        seconds: Longest time for one document.
        resolve: From name and port to addresses; may block.
    """

    def __init__(
        self,
        sources: DocumentSources,
        *,
        seconds: float = FETCH_SECONDS,
        resolve: Callable[[str, int], list[Address]] | None = None,
    ) -> None:
        self._sources = sources
        self._seconds = seconds
        self._resolve = resolve or _addresses
        self._resolving = threading.BoundedSemaphore(_MAX_RESOLVING)
        self._trust: ssl.SSLContext | None = None

    def fetch(self, text: str, *, max_bytes: int) -> Iterator[bytes]:
        """The document at a URL, piece by piece; the network is asked when the first piece is.

        Args:
            text: The URL, as the client wrote it.
            max_bytes: Largest document.

        Raises:
            DocumentRefusedError: `InvalidImageUrl` for what is no absolute http or https address,
                `FailedToDownloadImage` for one that is not listed or cannot be fetched, `InvalidImageSize` for a
                document that is too large or empty. The pieces raise the last two as well.
        """
        try:
            url = DocumentUrl.from_text(text)
        except ValueError as exc:
            raise DocumentRefusedError(
                "InvalidImageUrl", "The image URL is not an absolute http or https address."
            ) from exc
        if not self._sources:
            raise DocumentRefusedError(
                "FailedToDownloadImage",
                "This service does not fetch documents from the network; send the document itself in the request body.",
            )
        if not self._sources.permits(url):
            raise DocumentRefusedError(
                "FailedToDownloadImage",
                "This service does not fetch documents from there; the operator lists where from.",
            )
        return self._pieces(url, max_bytes)

    def _pieces(self, url: DocumentUrl, max_bytes: int) -> Iterator[bytes]:
        until = time.monotonic() + self._seconds
        received = 0
        too_large = DocumentRefusedError(
            "InvalidImageSize", f"Input image is too large: at most {max_bytes} bytes are accepted."
        )
        try:
            with self._opened(url, until) as response:
                if (response.length or 0) > max_bytes:
                    raise too_large
                while piece := response.read(_CHUNK_BYTES):
                    received += len(piece)
                    if received > max_bytes:
                        raise too_large
                    yield piece
                if response.length or time.monotonic() >= until:
                    raise _FetchError("it ended before it was complete")
        except (OSError, http.client.HTTPException, ValueError, _FetchError) as exc:
            late = time.monotonic() >= until
            cause = f"it took longer than {self._seconds:g} s" if late else str(exc) or type(exc).__name__
            _log.warning("a document could not be fetched", place=url.authority, cause=cause)
            raise DocumentRefusedError(
                "FailedToDownloadImage", "The image could not be downloaded from the given URL."
            ) from exc
        if not received:
            raise DocumentRefusedError("InvalidImageSize", "The image at the given URL is empty.")

    @contextlib.contextmanager
    def _opened(self, url: DocumentUrl, until: float) -> Iterator[http.client.HTTPResponse]:
        """The answer to a GET, its status and headers read and its body still to come."""
        with contextlib.ExitStack() as stack:
            raw = self._connected(url, until)
            stack.callback(raw.close)
            stack.enter_context(_cut_off(raw, until))
            stream = raw
            if url.scheme == "https":
                stream = self._context().wrap_socket(raw, server_hostname=url.host, suppress_ragged_eofs=False)
                stack.callback(stream.close)
            connection = http.client.HTTPConnection(url.host, url.port)
            connection.sock = stream
            host = url.authority.partition("://")[2]
            # The length and the end of what is sent must be those of the document: no encoding, no second request.
            connection.request(
                "GET", url.target, headers={"Host": host, "Accept-Encoding": "identity", "Connection": "close"}
            )
            response = connection.getresponse()
            stack.callback(response.close)
            if response.status != HTTPStatus.OK:
                raise _FetchError(f"the answer was {response.status}")
            if (response.getheader("Content-Encoding") or "identity").strip().lower() != "identity":
                raise _FetchError("the answer is compressed")
            yield response

    def _connected(self, url: DocumentUrl, until: float) -> socket.socket:
        """A connection to the first address of the host that may be reached, and can."""
        found = [url.address] if url.address else self._resolved(url, until)
        permitted = [address for address in found if self._sources.permits_address(url, address)]
        if not permitted:
            raise _FetchError(f"{', '.join(map(str, found)) or 'no address'}: not public, and not in a listed range")
        failure: OSError = OSError("no time was left")
        for address in permitted:
            left = until - time.monotonic()
            if left <= 0:
                break
            try:
                connected = socket.create_connection((str(address), url.port), timeout=min(_SILENCE_SECONDS, left))
            except OSError as exc:
                failure = exc
            else:
                connected.settimeout(_SILENCE_SECONDS)
                return connected
        raise failure

    def _resolved(self, url: DocumentUrl, until: float) -> list[Address]:
        """Ask for a name's addresses, and wait no longer than `until`: the system's own limit may be minutes."""
        if not self._resolving.acquire(blocking=False):
            raise _FetchError("too many names are being looked up")
        answers: queue.SimpleQueue[list[Address] | OSError] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._resolve(url.host, url.port))
            except (OSError, ValueError) as exc:
                answers.put(OSError(f"the name cannot be resolved: {exc}"))
            finally:
                self._resolving.release()

        threading.Thread(target=ask, name="resolve", daemon=True).start()
        try:
            answer = answers.get(timeout=max(0.0, min(_SILENCE_SECONDS, until - time.monotonic())))
        except queue.Empty:
            raise _FetchError("the name could not be resolved in time") from None
        if isinstance(answer, OSError):
            raise answer
        return answer

    def _context(self) -> ssl.SSLContext:
        if self._trust is None:
            context = ssl.create_default_context()
            with contextlib.suppress(OSError):  # SSL_CERT_FILE was taken instead of the system's file: it comes on top
                context.load_verify_locations(ssl.get_default_verify_paths().openssl_cafile)
            self._trust = context
        return self._trust


@contextlib.contextmanager
def _cut_off(connection: socket.socket, until: float) -> Iterator[None]:
    """Shut a connection at a moment, whatever is being read from it: a byte now and then defeats any time-out."""
    own = connection.dup()

    def shut() -> None:
        with contextlib.suppress(OSError):
            own.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, until - time.monotonic()), shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        own.close()


def _addresses(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(one[4][0]).partition("%")[0]) for one in found))
