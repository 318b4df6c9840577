"""The sidecar's end of the socket, against a server on a real one that answers as it is told."""

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from sidecar.core_client import CoreClient, Document, DocumentRules
from sidecar.errors import CoreBusyError, CoreUnavailableError, RecognitionError, SlowDocumentError

RULES = DocumentRules(formats=("png",), max_bytes=1)
LOST = (503, {"error": {"code": "FailedToProcess", "message": "The decoder was ended."}})
FAILED = (500, {"error": {"code": "FailedToProcess", "message": "The engine failed."}})
SLOW = (503, {"error": {"code": "SlowDocument", "message": "The document takes long to decode."}})
BUSY = (503, {"error": {"code": "MachineBusy", "message": "The machine was too busy."}})
FOUND = (200, {"format": "png", "pages": 1})


class _Told(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path, answers: list[tuple[int, dict[str, object]]]) -> None:
        self.answers = answers
        super().__init__(str(path), _Answer)


class _Answer(BaseHTTPRequestHandler):
    server: _Told

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, told = self.server.answers.pop(0)
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "a socket"

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def answers() -> list[tuple[int, dict[str, object]]]:
    return []


@pytest.fixture
def client(tmp_path: Path, answers: list[tuple[int, dict[str, object]]]) -> Iterator[CoreClient]:
    with _Told(tmp_path / "core.sock", answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield CoreClient(tmp_path / "core.sock", tmp_path / "lease", page_seconds=5)
        server.shutdown()


def test_a_page_whose_decoder_was_lost_is_tried_once_more(
    client: CoreClient, answers: list[tuple[int, dict[str, object]]]
) -> None:
    answers += [LOST, FOUND]
    assert client.inspect("guid", RULES, None) == Document(format="png", pages=1)
    answers += [LOST, LOST, FOUND]
    with pytest.raises(CoreUnavailableError):
        client.inspect("guid", RULES, None)
    assert answers == [FOUND]


def test_a_page_that_the_engine_failed_on_is_not(
    client: CoreClient, answers: list[tuple[int, dict[str, object]]]
) -> None:
    answers += [FAILED, FOUND]
    with pytest.raises(RecognitionError):
        client.inspect("guid", RULES, None)
    assert answers == [FOUND]


def test_a_slow_document_is_for_the_caller_to_try_again(
    client: CoreClient, answers: list[tuple[int, dict[str, object]]]
) -> None:
    answers += [SLOW, FOUND]
    with pytest.raises(SlowDocumentError):
        client.inspect("guid", RULES, None, patient=False)
    assert answers == [FOUND]


def test_a_machine_that_is_busy_is_not_asked_again_at_once(
    client: CoreClient, answers: list[tuple[int, dict[str, object]]]
) -> None:
    answers += [BUSY, FOUND]
    with pytest.raises(CoreBusyError):
        client.inspect("guid", RULES, None)
    assert answers == [FOUND]
