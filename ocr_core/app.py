"""The core over HTTP: four routes, plain WSGI, one request at a time for each worker process.

Invariants:

* `/inspect` and `/page` pass the wall first; `/health` and `/languages` answer always.
* Every answer is JSON; a refusal is `{"error": {"code", "message"}}` with a code of `errors`; no traceback leaves.
* A document is named by its GUID alone; whoever holds the wall opens it, and only for who has a lease.
* Neither text nor file names of documents are logged.
* What a stranger sent is looked at, decoded and read under a deadline each; work that has killed is not done again.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, BinaryIO, TypeVar

import msgspec

from ocr_core import decoder_process, documents, languages
from ocr_core.confinement import Confinement
from ocr_core.decoder_process import DecoderProcess
from ocr_core.documents.page_image import MAX_PIXELS
from ocr_core.engine import OcrEngine
from ocr_core.errors import (
    BadArgumentError,
    CoreError,
    EngineTimeoutError,
    FailedToProcessError,
    InvalidImageError,
)
from ocr_core.gatekeeper import Gate
from ocr_core.pages.page_reader import PageReader
from ocr_core.reading_order import ReadingOrder
from ocr_core.second_engine import SecondEngine
from ocr_core.slots import Slots, Task

INSPECTION_SECONDS = decoder_process.PATIENT_LOOK.longest_seconds + 2.0
DECODING_SECONDS = decoder_process.PATIENT_LOAD.longest_seconds + 2.0
"""Deadlines of the worker itself, a little after those of the process that decodes for it."""
HARD_DEADLINE_AFTER_SECONDS = 6.0
"""Later than the sidecar gives a page up, so that it does not try a hopeless one again; where the page timeout is so
small that the sidecar waits for decoding's sake, the second try is refused at once."""

_LOOKS = {
    None: decoder_process.LOOK,
    True: decoder_process.PATIENT_LOOK,
    False: decoder_process.QUICK_LOOK,
}
_LOADS = {
    None: decoder_process.LOAD,
    True: decoder_process.PATIENT_LOAD,
    False: decoder_process.QUICK_LOAD,
}
"""What a document may cost, by how patient the caller is."""

MAX_BODY_BYTES = 64 * 1024
LEASE_HEADER = "Tollgate-Lease"
SERVICE = "ocr-core"

_log = logging.getLogger("ocr_core")

Environ = dict[str, object]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]

_DocumentId = Annotated[
    str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\Z")
]


class InspectRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `/inspect` is asked.

    Attributes:
        document: GUID of the operation whose document it is.
        formats: Formats that the caller takes.
        min_side: Shortest side of a picture that the caller takes, pixels.
        max_side: Longest side, pixels.
        max_pages: Most pages.
        max_sheet_inches: Longest side of a PDF's page, inches; None for any.
        language: BCP-47 code that its pages will be read with; checked here, so that it is refused at once.
        patient: True waits for a place among those that may take much memory, and takes all the time that a document
            may cost; with False it is refused as `SlowDocument` if it takes long or much while others do; None takes
            the time and waits for no place.
    """

    document: _DocumentId
    formats: tuple[str, ...] = tuple(map(str, documents.USUAL_FORMATS))
    min_side: Annotated[int, msgspec.Meta(ge=documents.MIN_SIDE)] = documents.MIN_SIDE
    max_side: Annotated[int, msgspec.Meta(le=documents.MAX_SIDE)] = documents.USUAL_MAX_SIDE
    max_pages: Annotated[int, msgspec.Meta(ge=1, le=documents.MAX_PAGES)] = documents.MAX_PAGES
    max_sheet_inches: Annotated[float, msgspec.Meta(gt=0)] | None = None
    language: str | None = None
    patient: bool | None = None


class PageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `/page` is asked.

    Attributes:
        document: GUID of the operation whose document it is.
        page: Counted from 1.
        language: BCP-47 code to read with; None or "unk" has it detected.
        languages: Tesseract models to read with, for callers that know them; `language` goes first.
        reading_order: "basic" or "natural".
        patient: As for `InspectRequest`.
    """

    document: _DocumentId
    page: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    language: str | None = None
    languages: Annotated[tuple[str, ...], msgspec.Meta(max_length=8)] = ()
    reading_order: ReadingOrder = "basic"
    patient: bool | None = None


_Request = TypeVar("_Request", InspectRequest, PageRequest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the app works with; built once, at start.

    Attributes:
        engine: The engine.
        second: The second engine, for handwriting and photos; None where there is none.
        gate: The second wall, and the documents behind it.
        version: Of this package.
        tessdata: Where the models lie.
        default_languages: Models to read with when the caller names no language.
        detects: Whether a page may then be read again with another installed model that its language asks for.
        workers: How many pages are read at once.
        page_timeout_seconds: Deadline for one page.
        max_pixels: Pages are shrunk to this many pixels.
        second_for_print: Whether the second engine reads print that reads badly, too.
        slots: What the workers know of each other.
        decoder: Decodes documents, in a process beside each worker.
        confinement: How those are confined who see what strangers send; None: not at all.
    """

    engine: OcrEngine
    gate: Gate
    version: str
    tessdata: Path
    default_languages: tuple[str, ...]
    detects: bool
    workers: int
    page_timeout_seconds: float
    max_pixels: int
    second: SecondEngine | None = None
    second_for_print: bool = False
    slots: Slots = field(default_factory=lambda: Slots(1, cores=1))
    decoder: DecoderProcess = field(default_factory=DecoderProcess)
    confinement: Confinement | None = None


def create_app(services: Services) -> WsgiApp:
    """Build the app around services already built; opens nothing, starts nothing."""
    core = _Core(services)
    routes: dict[str, tuple[str, Callable[[Environ], bytes]]] = {
        "/health": ("GET", core.health),
        "/languages": ("GET", core.languages),
        "/inspect": ("POST", core.inspect),
        "/page": ("POST", core.page),
    }

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path, method = str(environ.get("PATH_INFO", "")), str(environ.get("REQUEST_METHOD", ""))
        allowed, handler = routes.get(path, ("", None))
        if handler is None:
            return _answer(start_response, HTTPStatus.NOT_FOUND, _error("BadArgument", f"There is no {path[:80]!r}."))
        if method != allowed:
            body = _error("BadArgument", f"{path} takes {allowed} only.")
            return _answer(start_response, HTTPStatus.METHOD_NOT_ALLOWED, body, ("Allow", allowed))
        try:
            return _answer(start_response, HTTPStatus.OK, handler(environ))
        except CoreError as exc:
            return _answer(start_response, HTTPStatus(exc.status), _error(exc.code, str(exc)))
        except MemoryError:
            _log.error("out of memory on %s", path)
            failure = FailedToProcessError("The page needs more memory than one page may take.")
        except Exception:  # noqa: BLE001 - the last net: the caller gets a code, the log gets the traceback
            _log.exception("unexpected failure on %s", path)
            failure = FailedToProcessError("The core failed; its log tells why.")
        return _answer(start_response, HTTPStatus(failure.status), _error(failure.code, str(failure)))

    return app


class _Core:
    """The four routes."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._reader = PageReader(
            services.engine,
            second=services.second,
            even_for_print=services.second_for_print,
            shrinks=services.max_pixels <= MAX_PIXELS,  # who asks for more wants pages read as they come
        )
        self._installed = frozenset(services.engine.languages())
        self._supported = languages.supported(self._installed)

    def health(self, _: Environ) -> bytes:
        """What the core is, and whether it would read."""
        services, cpu, standing = self._services, self._services.gate.cpu, self._services.gate.license_standing()
        return msgspec.json.encode(
            {
                "service": SERVICE,
                "version": services.version,
                "engine": {"name": services.engine.name, "version": services.engine.version},
                "second_engine": None if services.second is None else services.second.told(),
                "languages": sorted(self._installed),
                "supported_languages": self._supported,
                "default_languages": services.default_languages,
                "detects": services.detects,
                "workers": services.workers,
                "cpu": {"supported": cpu.supported, "reason": cpu.reason},
                "license": {
                    "standing": standing.standing,
                    "reason": standing.reason,
                    "license_id": standing.license_id,
                },
                "confinement": None if services.confinement is None else services.confinement.to_wire(),
            }
        )

    def languages(self, _: Environ) -> bytes:
        """Every language that may be asked for, what reads it, and what is missing where nothing does."""
        services = self._services
        return msgspec.json.encode(
            {
                "tessdata": str(services.tessdata),
                "models": sorted(self._installed),
                "default_models": services.default_languages,
                "detects": services.detects,
                "languages": languages.described(self._installed),
            }
        )

    def inspect(self, environ: Environ) -> bytes:
        """What a document is, and how many pages it has."""
        request, file = self._admitted(environ, InspectRequest)
        with file:
            if (language := languages.requested(request.language)) is not None:
                languages.models_for(language, self._installed)
            self._require_survivable(request.document, 0)
            return self._inspected(request, file)

    def _inspected(self, request: InspectRequest, file: BinaryIO) -> bytes:
        with self._services.slots.working_on(request.document, 0, Task.INSPECTION, INSPECTION_SECONDS):
            found = self._services.decoder.inspect(
                file,
                documents.Rules(
                    formats=request.formats,
                    min_side=request.min_side,
                    max_side=request.max_side,
                    max_pages=request.max_pages,
                    max_sheet_inches=request.max_sheet_inches,
                ),
                budget=_LOOKS[request.patient],
            )
        return msgspec.json.encode({"format": str(found.format), "pages": found.pages})

    def page(self, environ: Environ) -> bytes:
        """The text of one page."""
        request, file = self._admitted(environ, PageRequest)
        with file:
            language = languages.requested(request.language)
            models = self._models(language, request.languages)
            self._require_survivable(request.document, request.page)
            return self._read(request, file, language, models)

    def _read(self, request: PageRequest, file: BinaryIO, language: str | None, models: tuple[str, ...]) -> bytes:
        slots, allowed = self._services.slots, self._services.page_timeout_seconds
        # With patience, the page is not yet at work on a core: its decoder stands back for whoever reads.
        decoding = Task.SLOW_DECODING if request.patient else Task.DECODING
        with slots.working_on(request.document, request.page, decoding, DECODING_SECONDS):
            started = time.monotonic()
            with file:
                image = self._services.decoder.load_page(
                    file,
                    request.page,
                    max_pixels=self._services.max_pixels,
                    budget=_LOADS[request.patient],
                )
            remaining = max(1.0, allowed - (time.monotonic() - started))
            slots.then(Task.READING, remaining + HARD_DEADLINE_AFTER_SECONDS)
            page = self._reader.read(
                image,
                models,
                order=request.reading_order,
                language=language,
                choices=self._installed if self._services.detects and not request.languages else (),
                timeout_seconds=remaining,
            )
        return page.to_wire()

    def _admitted(self, environ: Environ, kind: type[_Request]) -> tuple[_Request, BinaryIO]:
        """What is asked, and the document that it is about; the wall is asked once, and comes before all else.

        Raises:
            CoreError: The wall's refusal; else what is wrong with the request.
        """
        lease = _lease(environ)
        try:
            request = _request(environ, kind)
        except BadArgumentError:
            self._services.gate.admit(lease)
            raise
        return request, self._services.gate.open_document(lease, request.document)

    def _require_survivable(self, document: str, page: int) -> None:
        """Refuse what a worker has died of, where another would only die of it, too.

        Raises:
            InvalidImageError: It could not be decoded in time.
            EngineTimeoutError: It could not be read in time.
            FailedToProcessError: Two workers died of it.
        """
        death = self._services.slots.death_at(document, page)
        if death is None or not death.is_final:
            return
        if not death.overdue:
            raise FailedToProcessError("The process that worked on it was lost, twice.")
        if death.task == Task.READING:
            raise EngineTimeoutError("The page was not read in time.")
        raise InvalidImageError("The document could not be decoded in time.")

    def _models(self, language: str | None, models: tuple[str, ...]) -> tuple[str, ...]:
        if language is not None:
            return languages.models_for(language, self._installed)
        return languages.known_models(models or self._services.default_languages, self._installed)


def _lease(environ: Environ) -> str | None:
    header = environ.get("HTTP_" + LEASE_HEADER.upper().replace("-", "_"))
    return header if isinstance(header, str) else None


def _request(environ: Environ, kind: type[_Request]) -> _Request:
    """The body, bounded, as a request.

    Raises:
        BadArgumentError: It is too long or malformed.
    """
    body = environ["wsgi.input"].read(MAX_BODY_BYTES + 1)  # type: ignore[attr-defined]
    if len(body) > MAX_BODY_BYTES:
        raise BadArgumentError(f"The request is longer than {MAX_BODY_BYTES} bytes.")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadArgumentError(f"The request is malformed: {exc}") from exc


def _error(code: str, message: str) -> bytes:
    return msgspec.json.encode({"error": {"code": code, "message": message}})


def _answer(
    start_response: StartResponse, status: HTTPStatus, body: bytes, *headers: tuple[str, str]
) -> Iterable[bytes]:
    start_response(
        f"{status.value} {status.phrase}",
        [("Content-Type", "application/json; charset=utf-8"), ("Content-Length", str(len(body))), *headers],
    )
    return [body]
