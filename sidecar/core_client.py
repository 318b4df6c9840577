"""The sidecar's end of the core's socket.

Invariant: whatever happens on the other side (refusal, crash, hang, garbage) comes back as one of our errors with its
cause chained, within the time limit. A connection that dies is one error, a time limit is another, because only the
first is worth a second try.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from ocr_core.page_text import PageText
from sidecar.errors import (
    CoreBusyError,
    CoreDownError,
    CoreRefusedError,
    CoreTimeoutError,
    CoreUnavailableError,
    DocumentRefusedError,
    RecognitionError,
    SidecarError,
    SlowDocumentError,
)

LEASE_HEADER = "Tollgate-Lease"
DECODING_SECONDS = 38.0
"""As long as the core may wait for a place to decode a page, and then for the decoding. Its page timeout does not end
that: whoever gave up sooner would fail a page that the core was only about to answer as busy."""
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_SLOW = "SlowDocument"
_BUSY = "MachineBusy"
_REFUSALS = {"LeaseRefused", "LicenseRefused", "CpuUnsupported"}
_HEALTH_SECONDS = 2.0
_INSPECT_SECONDS = 22.0  # a little longer than the core's own limit
_RESTART_SECONDS = 5.0
# How long licence and lease may disagree while the licence is exchanged: the core looks every half second.
_EXCHANGE_SECONDS = {"LicenseRefused": 1.0, "LeaseRefused": 3.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRules:
    """What one API version takes (contract E.1.5, E.4, E.5, E.6).

    Attributes:
        formats: `jpeg`, `png`, `bmp`, `tiff`, `pdf`, ….
        max_bytes: Largest document, bytes.
        min_side: Shortest side of a picture, pixels.
        max_side: Longest side of a picture, pixels.
        max_pages: Most pages of a document.
        max_sheet_inches: Longest side of a PDF's page, inches; None for any.
    """

    formats: tuple[str, ...]
    max_bytes: int
    min_side: int = 50
    max_side: int = 10_000
    max_pages: int = 2000
    max_sheet_inches: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What the core found when it looked at a document's structure.

    Attributes:
        format: `jpeg`, `png`, `bmp`, `tiff` or `pdf`.
        pages: Number of pages, at least 1.
    """

    format: str
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondEngineHealth:
    """What the running core tells of its engine for handwriting and photos; counts are since the core's start.

    Attributes:
        name: Its name and version.
        state: What it is at, as `unloaded`, `idle`, `reading`; `paused` after it failed.
        pictures: Read, or found unreadable.
        killed: How often it was ended because it took too long.
        died: How often it ended by itself.
    """

    name: str
    state: str
    pictures: int
    killed: int
    died: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreLicense:
    """How the core finds the licence, which it reads with its own user's rights.

    Attributes:
        standing: A standing of licensing, or `none`.
        reason: In words.
    """

    standing: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreHealth:
    """The core's word about itself.

    Attributes:
        workers: Pages it recognises side by side.
        cpu_problem: Why this processor cannot run it; empty when it can.
        engine: Name and version of the engine.
        languages: Installed models.
        second_engine: Its second engine; None where there is none, or it is told of in words that are not known here.
        license: How it finds the licence; None where it does not tell.
    """

    workers: int
    cpu_problem: str
    engine: str
    languages: tuple[str, ...]
    second_engine: SecondEngineHealth | None = None
    license: CoreLicense | None = None


class CoreLanguage(msgspec.Struct, frozen=True, kw_only=True):
    """One language that requests may name.

    Attributes:
        code: BCP-47.
        name: In English.
        served_by: The installed model that reads it; None when there is none.
        own_model: The model made for it, or for its script.
        debian_package: What installs `own_model` on Debian.
    """

    code: str
    name: str
    served_by: str | None
    own_model: str
    debian_package: str


class CoreLanguages(msgspec.Struct, frozen=True, kw_only=True):
    """Which languages the core reads, and with what.

    Attributes:
        tessdata: The folder of the models.
        models: Installed models.
        default_models: What a page is read with first when the request names no language.
        detects: Whether it is then read again with the installed model that its language asks for.
        languages: All that requests may name, by English name.
    """

    tessdata: str
    models: tuple[str, ...]
    default_models: tuple[str, ...]
    detects: bool
    languages: tuple[CoreLanguage, ...]


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        super().__init__("core", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class CoreClient:
    """Calls to the core. Holds no connection; safe to share between threads.

    Args:
        socket_path: The core's Unix socket.
        lease_path: File that holds the lease minted last.
        page_seconds: Time limit for one page.
    """

    def __init__(self, socket_path: Path, lease_path: Path, *, page_seconds: float) -> None:
        self._socket_path = socket_path
        self._lease_path = lease_path
        self._page_seconds = page_seconds

    def health(self) -> CoreHealth:
        """Ask how the core is.

        Raises:
            CoreUnavailableError: It does not answer.
        """
        try:
            answer = _json(*self._call("GET", "/health", None, _HEALTH_SECONDS))
        except CoreUnavailableError:
            raise
        except SidecarError as exc:
            raise CoreUnavailableError(f"the core is not well: {exc}", next_step="read the core's log") from exc
        try:
            cpu, engine = answer["cpu"], answer["engine"]
            return CoreHealth(
                workers=max(1, int(answer["workers"])),
                cpu_problem="" if cpu["supported"] else str(cpu["reason"]),
                engine=f"{engine['name']} {engine['version']}",
                languages=tuple(map(str, answer["languages"])),
                second_engine=_second_engine(answer.get("second_engine")),
                license=_license(answer.get("license")),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise CoreUnavailableError(f"the core's health answer is malformed: {exc!r}") from exc

    def languages(self) -> CoreLanguages:
        """Ask which languages it reads.

        Raises:
            CoreUnavailableError: It does not answer.
        """
        try:
            status, answer = self._call("GET", "/languages", None, _HEALTH_SECONDS)
        except CoreUnavailableError:
            raise
        except SidecarError as exc:
            raise CoreUnavailableError(f"the core is not well: {exc}", next_step="read the core's log") from exc
        try:
            return msgspec.json.decode(answer, type=CoreLanguages)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise CoreUnavailableError(f"the core's answer is malformed (status {status}): {exc}") from exc

    def inspect(
        self, operation_id: str, rules: DocumentRules, language: str | None, *, patient: bool = True
    ) -> Document:
        """Have the core look at a document's structure, and refuse what the rules do not take.

        Args:
            operation_id: Whose document it is.
            rules: What is taken.
            language: That its pages will be read with.
            patient: Whether the core takes all that a document may cost, and waits until it may.

        Raises:
            SlowDocumentError: Somebody patient must ask.
            DocumentRefusedError: The document is at fault.
            CoreBusyError: The core had nothing left for it.
            CoreRefusedError: The core will not work.
            CoreTimeoutError: It took longer than the limit, or no worker was free for so long.
            CoreUnavailableError: The core died, twice.
        """
        body = {
            "document": operation_id,
            "formats": list(rules.formats),
            "min_side": rules.min_side,
            "max_side": rules.max_side,
            "max_pages": rules.max_pages,
            "max_sheet_inches": rules.max_sheet_inches,
            "language": language,
            "patient": patient,
        }
        answer = _json(*self._twice("/inspect", body, _INSPECT_SECONDS))
        try:
            return Document(format=str(answer["format"]), pages=int(answer["pages"]))
        except (KeyError, TypeError, ValueError) as exc:
            raise CoreUnavailableError(f"the core's answer is malformed: {exc!r}") from exc

    def recognize(
        self, operation_id: str, page: int, *, language: str | None, reading_order: str, patient: bool = True
    ) -> PageText:
        """Have one page read; a page whose worker dies is tried once more.

        Args:
            operation_id: Whose document it is.
            page: Counted from 1.
            language: BCP-47 code; None to let the core choose.
            reading_order: `basic` or `natural`.
            patient: Whether the core takes all that decoding a page may cost, and waits until it may.

        Raises:
            SlowDocumentError: Somebody patient must ask.
            DocumentRefusedError: The page cannot be decoded.
            RecognitionError: The engine failed on the page.
            CoreBusyError: The core had nothing left for it.
            CoreRefusedError: The core will not work.
            CoreTimeoutError: The page took longer than the limit.
            CoreUnavailableError: The core died, twice.
        """
        body = {
            "document": operation_id,
            "page": page,
            "language": language,
            "reading_order": reading_order,
            "patient": patient,
        }
        status, answer = self._twice("/page", body, self._page_seconds)
        try:
            return PageText.from_bytes(answer)
        except ValueError as exc:
            raise CoreUnavailableError(f"the core's page is malformed (status {status}): {exc}") from exc

    def _twice(self, path: str, body: dict[str, Any], seconds: float) -> tuple[int, bytes]:
        """Call; if the worker died in the middle, call once more.

        A core that cannot be reached at all, or that refuses while licence and lease are just being exchanged, has
        tried nothing: that is awaited for a few seconds.
        """
        began = time.monotonic()
        again = True
        while True:
            try:
                return self._call("POST", path, body, seconds)
            except (CoreBusyError, CoreTimeoutError):
                raise
            except CoreDownError:
                if time.monotonic() - began > _RESTART_SECONDS:
                    raise
                time.sleep(0.2)
            except CoreUnavailableError:
                if not again:
                    raise
                again = False
                time.sleep(0.3)
            except CoreRefusedError as exc:
                if time.monotonic() - began > _EXCHANGE_SECONDS.get(exc.reason, 0.0):
                    raise
                time.sleep(0.1)

    def _call(self, method: str, path: str, body: dict[str, Any] | None, seconds: float) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        if body is not None:
            headers[LEASE_HEADER] = self._lease()
        connection = _UnixConnection(self._socket_path, seconds)
        try:
            connection.connect()
        except OSError as exc:
            connection.close()
            raise CoreDownError(
                f"the core at {self._socket_path} cannot be reached: {exc.strerror or exc}",
                next_step="read the core's log; run 'ocr-core --self-test'",
            ) from exc
        try:
            connection.request(method, path, json.dumps(body).encode() if body is not None else None, headers)
            response = connection.getresponse()
            answer = response.read(_MAX_ANSWER_BYTES)
            if response.length:  # `read` with a bound does not tell a body that was cut off from one that ended
                raise http.client.IncompleteRead(answer, response.length)
        except TimeoutError as exc:
            raise CoreTimeoutError(f"the core did not answer {path} within {seconds:g} s") from exc
        except (OSError, http.client.HTTPException) as exc:
            raise CoreUnavailableError(
                f"the core gave up in the middle of {path}: {type(exc).__name__}: {exc}",
                next_step="read the core's log",
            ) from exc
        finally:
            connection.close()
        if response.status != HTTPStatus.OK:
            raise _failure(response.status, answer)
        return response.status, answer

    def _lease(self) -> str:
        try:
            return base64.b64encode(self._lease_path.read_bytes()).decode("ascii")
        except OSError:
            return ""


def _second_engine(told: Any) -> SecondEngineHealth | None:
    """For people only: nothing hangs on it, so words that are not known here are no reason to refuse a core."""
    try:
        return SecondEngineHealth(
            name=f"{told['name']} {told['version']}",
            state=str(told["state"]),
            pictures=int(told["pictures"]),
            killed=int(told["killed"]),
            died=int(told["died"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _license(told: Any) -> CoreLicense | None:
    """For people only, as above."""
    try:
        return CoreLicense(standing=str(told["standing"]), reason=str(told["reason"]))
    except (KeyError, TypeError):
        return None


def _json(status: int, answer: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(answer)
    except ValueError as exc:
        raise CoreUnavailableError(f"the core's answer is no JSON (status {status})") from exc
    if not isinstance(parsed, dict):
        raise CoreUnavailableError("the core's answer is no object")
    return parsed


def _failure(status: int, answer: bytes) -> Exception:
    """The error that an answer other than 200 stands for."""
    try:
        error = json.loads(answer)["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return CoreUnavailableError(f"the core answered {status} without a reason")
    if code in _REFUSALS:
        return CoreRefusedError(code, message)
    if code == _BUSY:
        return CoreBusyError(message, next_step="try again later")
    if code == _SLOW:
        return SlowDocumentError(message)
    if status == HTTPStatus.GATEWAY_TIMEOUT:
        return CoreTimeoutError(message)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return CoreUnavailableError(f"{code}: {message}")
    if status == HTTPStatus.NOT_FOUND:
        return RecognitionError(f"the core does not find the document: {message}")
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return DocumentRefusedError(code, message)
    return RecognitionError(f"{code}: {message}")
