"""Read 3.2 through real processes: the official client, every kind of body, exact shapes (contract E.1, E.10)."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.cognitiveservices.vision.computervision import ComputerVisionClient
from azure.cognitiveservices.vision.computervision.models import OperationStatusCodes
from msrest.authentication import CognitiveServicesCredentials

from tests.e2e.site import Site, text_of
from tests.pages import (
    LINES,
    as_bmp,
    as_jpeg,
    as_pdf,
    as_png,
    as_tiff,
    bad_files,
    character_error_rate,
    digital_pdf,
    empty_page,
    printed_page,
)

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
PAGE = printed_page()
LOCATION = re.compile(r"http://127\.0\.0\.1:\d+/vision/v3\.2/read/analyzeResults/[0-9a-f-]{36}")
GONE = "Operation ID is invalid, expired or the results matching this operationId have been deleted."


def read_with_official_client(service: Site, document: bytes, **options: Any) -> Any:
    """The steps of the vendor's own sample program."""
    client = ComputerVisionClient(service.url, CognitiveServicesCredentials("any key"))
    started = client.read_in_stream(io.BytesIO(document), raw=True, **options)
    operation_id = started.headers["Operation-Location"].split("/")[-1]
    until = time.monotonic() + 60
    while True:
        result = client.get_read_result(operation_id)
        if result.status not in {OperationStatusCodes.running, OperationStatusCodes.not_started}:
            return result
        assert time.monotonic() < until
        time.sleep(0.1)


def test_official_client_reads_a_printed_page(service: Site) -> None:
    result = read_with_official_client(service, as_png(PAGE))
    assert result.status == OperationStatusCodes.succeeded
    (page,) = result.analyze_result.read_results
    text = "\n".join(line.text for line in page.lines)
    assert character_error_rate(PAGE.text, text) < 0.02
    assert (page.width, page.height, page.unit) == (*PAGE.image.size, "pixel")


def test_official_client_reads_pages_of_a_document(service: Site) -> None:
    document = as_tiff([printed_page([f"Page number {n} of six"], size=(900, 300)) for n in range(1, 7)])
    result = read_with_official_client(service, document, pages=["2", "4-5"], reading_order="natural", language="en")
    assert [page.page for page in result.analyze_result.read_results] == [2, 4, 5]


@pytest.mark.parametrize("name", ["test-phototest.tif", "docling-ocr_test.pdf"])
def test_official_client_reads_the_corpus(service: Site, name: str) -> None:
    path = CORPUS / name
    if not path.exists():
        pytest.skip("the corpus is not here")
    result = read_with_official_client(service, path.read_bytes())
    text = "\n".join(line.text for page in result.analyze_result.read_results for line in page.lines)
    assert character_error_rate(path.with_name(name + ".gt.txt").read_text(), text) < 0.02


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("image/png", as_png(PAGE)),
        ("image/jpeg", as_jpeg(PAGE)),
        ("image/bmp", as_bmp(PAGE)),
        ("image/tiff", as_tiff([PAGE])),
        ("application/pdf", as_pdf([PAGE])),
        ("application/pdf", digital_pdf([LINES])),
        ("application/octet-stream", as_png(PAGE)),
    ],
    ids=["png", "jpeg", "bmp", "tiff", "scanned-pdf", "digital-pdf", "octets"],
)
def test_every_format(service: Site, kind: str, document: bytes) -> None:
    answer = service.post(document, kind=kind)
    assert answer.status_code == 202
    assert character_error_rate(PAGE.text, text_of(service.result(answer.headers["Operation-Location"]))) < 0.02


def test_submit_answers_202_with_nothing_but_the_location(service: Site) -> None:
    answer = service.post(as_png(PAGE))
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["Content-Length"] == "0"
    assert LOCATION.fullmatch(answer.headers["Operation-Location"])
    assert answer.headers["Operation-Location"].startswith(service.url)
    assert "Retry-After" not in answer.headers
    assert "Location" not in answer.headers


def test_location_follows_the_host_that_the_client_named(service: Site) -> None:
    answer = requests.post(
        f"{service.url}/vision/v3.2/read/analyze",
        data=as_png(PAGE),
        headers={"Content-Type": "image/png", "Host": "vision.example:8080"},
        timeout=10,
    )
    assert answer.headers["Operation-Location"].startswith(
        "http://vision.example:8080/vision/v3.2/read/analyzeResults/"
    )


def test_chunked_upload_without_length(service: Site) -> None:
    document = as_bmp(printed_page(size=(2480, 3508), dpi=300))
    assert len(document) > 8_000_000

    def chunks() -> Iterator[bytes]:
        for at in range(0, len(document), 65536):
            yield document[at : at + 65536]

    answer = requests.post(
        f"{service.url}/vision/v3.2/read/analyze",
        data=chunks(),
        headers={"Content-Type": "application/octet-stream"},
        timeout=60,
    )
    assert answer.status_code == 202
    assert character_error_rate(PAGE.text, text_of(service.result(answer.headers["Operation-Location"]))) < 0.02


def test_multipart_takes_the_first_file(service: Site) -> None:
    answer = requests.post(
        f"{service.url}/vision/v3.2/read/syncAnalyze", files={"file": ("page.png", as_png(PAGE))}, timeout=60
    )
    assert character_error_rate(PAGE.text, text_of(answer.json())) < 0.02


def test_poll_before_completion_has_exactly_three_keys(service: Site) -> None:
    location = service.submit(as_pdf([PAGE] * 4))
    seen = set()
    for _ in range(3000):
        answer = requests.get(location, timeout=10).json()
        seen.add(answer["status"])
        if answer["status"] in {"succeeded", "failed"}:
            break
        assert list(answer) == ["status", "createdDateTime", "lastUpdatedDateTime"]
        time.sleep(0.01)
    assert seen - {"succeeded"} <= {"notStarted", "running"}
    assert "running" in seen
    assert answer["status"] == "succeeded"


def test_result_has_the_shape_of_the_contract(service: Site) -> None:
    result = service.result(service.submit(as_png(PAGE)))
    assert list(result) == ["status", "createdDateTime", "lastUpdatedDateTime", "analyzeResult"]
    for name in ("createdDateTime", "lastUpdatedDateTime"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}\+00:00", result[name])
    assert result["createdDateTime"] <= result["lastUpdatedDateTime"]
    analysed = result["analyzeResult"]
    assert list(analysed) == ["version", "modelVersion", "readResults"]
    assert analysed["version"] == "3.2.0"
    (page,) = analysed["readResults"]
    assert [key for key in page if key != "language"] == ["page", "angle", "width", "height", "unit", "lines"]
    assert -180 <= page["angle"] < 180
    assert abs(page["angle"]) < 1
    for line in page["lines"]:
        assert [key for key in line if key != "language"] in (
            ["boundingBox", "text", "appearance", "words"],
            ["boundingBox", "text", "words"],
        )
        assert line["text"] == " ".join(word["text"] for word in line["words"])
        for piece in (line, *line["words"]):
            box = piece["boundingBox"]
            assert len(box) == 8
            assert all(isinstance(number, int) and number >= 0 for number in box)
        for word in line["words"]:
            assert list(word) == ["boundingBox", "text", "confidence"]
            assert 0 <= word["confidence"] <= 1
            assert round(word["confidence"], 3) == word["confidence"]


def test_pdf_is_told_in_inches(service: Site) -> None:
    (page,) = service.result(service.submit(digital_pdf([LINES])))["analyzeResult"]["readResults"]
    assert page["unit"] == "inch"
    assert 8 <= page["width"] <= 8.6
    assert 10.9 <= page["height"] <= 11.8
    corner = page["lines"][0]["boundingBox"]
    assert all(0 <= number <= page["height"] for number in corner)


def test_empty_page_has_empty_lines(service: Site) -> None:
    answer = service.sync(as_png(empty_page((600, 400)))).json()
    assert answer["analyzeResult"]["readResults"][0]["lines"] == []


def test_sync_answers_the_finished_operation(service: Site) -> None:
    answer = service.sync(as_png(PAGE))
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.json()["status"] == "succeeded"
    assert character_error_rate(PAGE.text, text_of(answer.json())) < 0.02


def test_operations_is_an_alias(service: Site) -> None:
    location = service.submit(as_png(PAGE))
    result = service.result(location)
    assert requests.get(location.replace("analyzeResults", "operations"), timeout=10).json() == result


def test_page_filter_reads_and_meters_three(service: Site) -> None:
    before = service.settled_pages()
    document = as_tiff([printed_page([f"Page {n} of six"], size=(900, 300)) for n in range(1, 7)])
    result = service.result(service.submit(document, query="?pages=2,4-5"))
    assert [page["page"] for page in result["analyzeResult"]["readResults"]] == [2, 4, 5]
    assert service.pages() - before == 3


def test_polls_are_free_and_each_operation_counts_once(service: Site) -> None:
    before = service.settled_pages()
    location = service.submit(as_pdf([PAGE, PAGE]))
    service.result(location)
    for _ in range(20):
        assert requests.get(location, timeout=10).json()["status"] == "succeeded"
    assert service.pages() - before == 2


@pytest.mark.parametrize("key", [None, "0" * 32, "anything at all"])
def test_any_caller_key_is_accepted(service: Site, key: str | None) -> None:
    headers = {"Content-Type": "image/png"} | ({"Ocp-Apim-Subscription-Key": key} if key else {})
    answer = requests.post(
        f"{service.url}/vision/v3.2/read/analyze", data=as_png(empty_page((60, 60))), headers=headers, timeout=10
    )
    assert answer.status_code == 202


# ---- bad input: its code, no count, no traceback --------------------------------------------------------------------

_BAD_FILES = {name: (document, code) for name, (document, code) in bad_files().items() if document}


@pytest.mark.parametrize("name", sorted(_BAD_FILES))
@pytest.mark.parametrize("route", ["analyze", "syncAnalyze"])
def test_bad_documents(service: Site, name: str, route: str) -> None:
    document, code = _BAD_FILES[name]
    before = service.settled_pages()
    answer = requests.post(
        f"{service.url}/vision/v3.2/read/{route}", data=document, headers={"Content-Type": "image/png"}, timeout=30
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code
    assert list(answer.json()) == ["error"]
    assert sorted(answer.json()["error"]) == ["code", "message"]
    assert service.pages() == before


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("?pages=9-3", "InvalidPageRange"),
        ("?pages=2", "InvalidPageRange"),
        ("?pages=x", "InvalidPageRange"),
        ("?language=xx-nonsense", "NotSupportedLanguage"),
        ("?language=%00", "NotSupportedLanguage"),
        ("?language=de%0d%0a", "NotSupportedLanguage"),
        ("?readingOrder=upwards", "InvalidReadingOrder"),
        ("?model-version=yesterday", "BadArgument"),
    ],
)
def test_bad_parameters(service: Site, query: str, code: str) -> None:
    before = service.settled_pages()
    answer = service.post(as_pdf([PAGE]), query=query)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code
    assert service.pages() == before


@pytest.mark.parametrize(
    ("kind", "body", "status", "code"),
    [
        ("application/octet-stream", b"", 400, "BadArgument"),
        ("application/json", b"", 400, "BadArgument"),
        ("application/json", b"{", 400, "BadArgument"),
        ("application/json", b"[" * 50000, 400, "BadArgument"),
        ("application/json", b"[]", 400, "BadArgument"),
        ("application/json", b'{"uri":"http://host/a.png"}', 400, "BadArgument"),
        ("application/json", b'{"url":"ftp://host/a.png"}', 400, "InvalidImageUrl"),
        ("application/json", b'{"url":"http://["}', 400, "InvalidImageUrl"),
        ("application/json; charset=utf-8", b'{"url":"https://host.example/a.png"}', 400, "FailedToDownloadImage"),
        ("text/plain", b"hello", 415, "UnsupportedMediaType"),
        ("application/x-www-form-urlencoded", b"a=b", 415, "UnsupportedMediaType"),
    ],
)
def test_bad_bodies(service: Site, kind: str, body: bytes, status: int, code: str) -> None:
    answer = service.post(body, kind=kind)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_document_over_the_limit_is_a_400(service: Site) -> None:
    answer = service.post(bytes(52428801))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidImageSize")


def test_chunked_document_over_the_limit_is_a_400(service: Site) -> None:
    answer = requests.post(
        f"{service.url}/vision/v3.2/read/analyze",
        data=(bytes(1 << 20) for _ in range(51)),
        headers={"Content-Type": "application/octet-stream"},
        timeout=60,
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidImageSize")
    assert not [
        folder for folder in (service.folder / "share" / "operations").iterdir() if (folder / "document").exists()
    ]


@pytest.mark.parametrize(
    "operation_id", ["nonsense", "818e25ff-22c3-4d51-9bfb-d1092637dba9", "..%2f..%2fetc", "0" * 36, "A" * 3000]
)
def test_unknown_operation(service: Site, operation_id: str) -> None:
    answer = service.get(f"/vision/v3.2/read/analyzeResults/{operation_id}")
    assert answer.status_code == 404
    if "%2f" not in operation_id:
        assert answer.json() == {"error": {"code": "BadArgument", "message": GONE}}


def test_operation_id_in_capitals_is_found(service: Site) -> None:
    location = service.submit(as_png(empty_page((60, 60))))
    head, _, operation_id = location.rpartition("/")
    assert requests.get(f"{head}/{operation_id.upper()}", timeout=10).status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/vision/v3.2/read", "/vision/v9.9/read/analyze"])
def test_unrouted_path_is_an_empty_404(service: Site, path: str) -> None:
    for answer in (service.get(path), requests.post(service.url + path, data=b"x", timeout=10)):
        assert (answer.status_code, answer.content) == (404, b"")


def test_wrong_method_is_an_empty_405(service: Site) -> None:
    answer = service.get("/vision/v3.2/read/analyze")
    assert (answer.status_code, answer.content) == (405, b"")
    assert "POST" in answer.headers["Allow"]


def test_no_document_is_left_in_the_spool_after_reading(service: Site) -> None:
    location = service.submit(as_png(PAGE))
    service.result(location)
    folder = service.folder / "share" / "operations" / location[-36:]
    assert not (folder / "document").exists()


def test_client_that_hangs_up_in_the_middle_disturbs_nobody(service: Site) -> None:
    connection = HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.putrequest("POST", "/vision/v3.2/read/analyze")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders(b"only a little")
    connection.close()
    assert service.sync(as_png(PAGE)).status_code == 200
