import io
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from ocr_core.app import MAX_BODY_BYTES, Environ, Services, WsgiApp, create_app
from ocr_core.cpu import Cpu
from ocr_core.engine import OcrEngine
from ocr_core.errors import CoreError, LeaseRefusedError
from ocr_core.page_text import PageText
from ocr_core.spool import open_document
from ocr_core.wall import LicenseStanding
from tests import pages
from tests.fakes.engines import BrokenEngine, FakeEngine, HungEngine

LEASE = "a lease"
PAGE = pages.printed_page(pages.LINES[:3], size=(900, 400))


class FakeGate:
    """Lets everything with a lease through."""

    cpu = Cpu(True, "AVX2 works")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = 0

    def admit(self, lease_header: str | None) -> None:
        self.asked += 1
        if lease_header != LEASE:
            raise LeaseRefusedError("no lease")

    def license_standing(self) -> LicenseStanding:
        return LicenseStanding(standing="valid", reason="good", license_id="an id")

    def open_document(self, lease_header: str | None, document: str) -> BinaryIO:
        self.admit(lease_header)
        return open_document(self.folder, document)


class Client:
    def __init__(self, folder: Path, engine: OcrEngine) -> None:
        self.folder = folder
        self.gate = FakeGate(folder)
        self.app: WsgiApp = create_app(
            Services(
                engine=engine,
                gate=self.gate,
                version="1.2.3",
                tessdata=Path("/models"),
                default_languages=("eng",),
                detects=True,
                workers=2,
                page_timeout_seconds=60,
                max_pixels=3_000_000,
            )
        )

    def put(self, blob: bytes, name: str | None = None) -> str:
        name = name or str(uuid.uuid4())
        (self.folder / "operations" / name).mkdir(parents=True)
        (self.folder / "operations" / name / "document").write_bytes(blob)
        return name

    def __call__(self, method: str, path: str, body: object = None, *, lease: str | None = LEASE) -> tuple[int, bytes]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        environ: Environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "wsgi.input": io.BytesIO(data)}
        if lease is not None:
            environ["HTTP_TOLLGATE_LEASE"] = lease
        told: list[tuple[int, dict[str, str]]] = []
        answer = b"".join(
            self.app(environ, lambda status, headers: told.append((int(status.split()[0]), dict(headers))))
        )
        ((status, headers),) = told
        assert headers["Content-Type"] == "application/json; charset=utf-8"
        assert headers["Content-Length"] == str(len(answer))
        return status, answer

    def refused(self, method: str, path: str, body: object = None, *, lease: str | None = LEASE) -> tuple[int, str]:
        status, answer = self(method, path, body, lease=lease)
        error = json.loads(answer)["error"]
        assert set(error) == {"code", "message"}
        assert error["message"]
        assert "Traceback" not in error["message"]
        return status, error["code"]


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path, FakeEngine())


def test_health_needs_no_lease(client: Client) -> None:
    status, answer = client("GET", "/health", lease=None)
    told = json.loads(answer)
    assert status == 200
    assert told["service"] == "ocr-core"
    assert told["version"] == "1.2.3"
    assert told["engine"] == {"name": "fake", "version": "1"}
    assert told["languages"] == ["deu", "eng"]
    assert {"de", "en"} <= set(told["supported_languages"])
    assert told["workers"] == 2
    assert told["cpu"] == {"supported": True, "reason": "AVX2 works"}
    assert told["license"] == {"standing": "valid", "reason": "good", "license_id": "an id"}


def test_a_document_is_inspected(client: Client) -> None:
    name = client.put(pages.as_tiff([PAGE, PAGE]))
    status, answer = client("POST", "/inspect", {"document": name})
    assert (status, json.loads(answer)) == (200, {"format": "tiff", "pages": 2})


def test_a_page_is_read(client: Client) -> None:
    name = client.put(pages.as_png(PAGE))
    status, answer = client("POST", "/page", {"document": name.upper(), "page": 1, "reading_order": "natural"})
    assert status == 200
    found = PageText.from_bytes(answer)
    assert found.lines[0].text == "one two three"
    assert found.language is None


def test_a_language_is_a_code_and_is_told_back(tmp_path: Path) -> None:
    engine = FakeEngine()
    client = Client(tmp_path, engine)
    name = client.put(pages.as_png(PAGE))
    _, answer = client("POST", "/page", {"document": name, "page": 1, "language": "de"})
    assert PageText.from_bytes(answer).language == "de"
    assert engine.languages_asked == [("deu",)]
    client("POST", "/page", {"document": name, "page": 1, "languages": ["eng", "deu"]})
    assert engine.languages_asked[-1] == ("eng", "deu")
    for unnamed in (None, "unk"):
        client("POST", "/page", {"document": name, "page": 1, "language": unnamed})
        assert engine.languages_asked[-1] == ("eng",)


def test_a_code_is_told_back_as_the_contract_spells_it(client: Client) -> None:
    name = client.put(pages.as_png(PAGE))
    _, answer = client("POST", "/page", {"document": name, "page": 1, "language": "DE"})
    assert PageText.from_bytes(answer).language == "de"
    assert client("POST", "/inspect", {"document": name, "language": "unk"})[0] == 200


def test_languages_are_listed_with_what_reads_them(client: Client) -> None:
    status, answer = client("GET", "/languages")
    told = json.loads(answer)
    assert status == 200
    assert (told["models"], told["default_models"], told["detects"]) == (["deu", "eng"], ["eng"], True)
    by_code = {one["code"]: one for one in told["languages"]}
    assert by_code["de"]["served_by"] == "deu"
    assert by_code["ru"] == {
        "code": "ru", "name": "Russian", "served_by": None, "own_model": "rus", "debian_package": "tesseract-ocr-rus",
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/inspect", "/page"])
def test_the_wall_stands_before_everything_else(client: Client, path: str) -> None:
    assert client.refused("POST", path, b"not even json", lease=None) == (403, "LeaseRefused")


ABSENT = str(uuid.UUID(int=7))
PRESENT = "00000000-0000-4000-8000-00000000000a"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/page", b"", 400, "BadArgument"),
        ("/page", b"{", 400, "BadArgument"),
        ("/page", b"[" * 60_000, 400, "BadArgument"),
        ("/page", b" " * (MAX_BODY_BYTES + 1), 400, "BadArgument"),
        ("/page", {"document": ABSENT}, 400, "BadArgument"),
        ("/page", {"document": "../../etc/passwd", "page": 1}, 400, "BadArgument"),
        ("/page", {"document": ABSENT + "\n", "page": 1}, 400, "BadArgument"),
        ("/page", {"document": ABSENT, "page": 0}, 400, "BadArgument"),
        ("/page", {"document": ABSENT, "page": 2**40}, 400, "BadArgument"),
        ("/page", {"document": ABSENT, "page": 1, "reading_order": "sideways"}, 400, "BadArgument"),
        ("/page", {"document": ABSENT, "page": 1}, 404, "DocumentNotFound"),
        ("/page", {"document": PRESENT, "page": 1, "language": "xx"}, 400, "NotSupportedLanguage"),
        ("/page", {"document": PRESENT, "page": 1, "language": "ru"}, 400, "NotSupportedLanguage"),
        ("/page", {"document": PRESENT, "page": 1, "languages": ["../eng"]}, 400, "NotSupportedLanguage"),
        ("/inspect", {"document": ABSENT}, 404, "DocumentNotFound"),
        ("/inspect", {"document": PRESENT, "language": "xx"}, 400, "NotSupportedLanguage"),
        ("/inspect", {"document": 5}, 400, "BadArgument"),
        ("/nowhere", {}, 404, "BadArgument"),
        ("/health", {}, 405, "BadArgument"),
    ],
)
def test_a_bad_request_gets_its_code(client: Client, path: str, body: object, status: int, code: str) -> None:
    client.put(pages.as_png(PAGE), PRESENT)
    assert client.refused("POST", path, body) == (status, code)


def test_the_wall_is_asked_once_for_a_request_and_before_anything_else_is_said(client: Client) -> None:
    name = client.put(pages.as_png(PAGE))
    bodies = [{"document": name, "page": 1}, {"document": name, "page": 1, "language": "xx"}, {"document": ABSENT}, 5]
    for number, body in enumerate(bodies, 1):
        assert client.refused("POST", "/page", body, lease="forged") == (403, "LeaseRefused")
        assert client.gate.asked == 2 * number - 1
        client("POST", "/page", body)
        assert client.gate.asked == 2 * number


def test_a_page_beyond_the_document_is_refused(client: Client) -> None:
    name = client.put(pages.as_tiff([PAGE, PAGE]))
    assert client.refused("POST", "/page", {"document": name, "page": 3}) == (400, "InvalidPageRange")


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to("/etc/hostname"),
        lambda path: path.mkdir(),
        os.mkfifo,
    ],
    ids=["link", "folder", "pipe"],
)
def test_a_document_is_a_file_and_nothing_else(client: Client, make: Callable[[Path], None]) -> None:
    name = str(uuid.uuid4())
    (client.folder / "operations" / name).mkdir(parents=True)
    make(client.folder / "operations" / name / "document")
    assert client.refused("POST", "/inspect", {"document": name}) == (404, "DocumentNotFound")


def test_a_page_out_of_time_says_so(tmp_path: Path) -> None:
    client = Client(tmp_path, HungEngine())
    body = {"document": client.put(pages.as_png(PAGE)), "page": 1}
    assert client.refused("POST", "/page", body) == (504, "FailedToProcess")


def test_a_bug_becomes_a_code_and_its_words_go_to_the_log_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(tmp_path, BrokenEngine())
    name = client.put(pages.as_png(PAGE))
    status, answer = client("POST", "/page", {"document": name, "page": 1})
    assert status == 500
    assert b"ZeroDivision" not in answer
    assert b"words of the page" not in answer
    assert "ZeroDivisionError" in caplog.text


def test_every_refusal_has_a_code_and_a_status() -> None:
    kinds, seen = [CoreError], set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        assert kind.code
        assert 400 <= kind.status < 600
        seen.add(kind.code)
    assert {"InvalidImage", "LeaseRefused", "LicenseRefused", "CpuUnsupported", "FailedToProcess"} <= seen
