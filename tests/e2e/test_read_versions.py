"""Every version of Read through real processes: routes, envelopes, parameters, limits, errors (contract E.1-E.4)."""

import re
import uuid
from typing import Any

import pytest
import requests

from tests.e2e.site import Site
from tests.pages import (
    as_bmp,
    as_gif,
    as_pdf,
    as_png,
    as_tiff,
    character_error_rate,
    digital_pdf,
    empty_page,
    printed_page,
)

PAGE = printed_page(["Gate 7 opens at noon", "Invoices were paid on Monday"], size=(900, 300))
PICTURE = as_png(PAGE)
V3 = ["v3.0-preview", "v3.0", "v3.1-preview.2", "v3.1", "v3.2-preview.1", "v3.2-preview.2", "v3.2"]
V2 = ["v2.0", "v2.1"]
GONE = "Operation ID is invalid, expired or the results matching this operationId have been deleted."


def post(service: Site, path: str, body: bytes = PICTURE, kind: str = "application/octet-stream") -> requests.Response:
    return requests.post(f"{service.url}/vision/{path}", data=body, headers={"Content-Type": kind}, timeout=60)


def poll(service: Site, path: str) -> dict[str, Any]:
    """Ask until it has ended, whatever the case of the version's status words."""
    location = f"{service.url}/vision/{path}"
    answer = dict(requests.get(location, timeout=10).json())
    for _ in range(600):
        if answer["status"].lower() not in {"notstarted", "running"}:
            break
        answer = dict(requests.get(location, timeout=10).json())
    return answer


def words_of(answer: Any) -> list[str]:
    """All words of an answer, in its order, whatever its envelope."""
    if isinstance(answer, dict):
        if "words" in answer:
            return [word["text"] for word in answer["words"]]
        return [word for value in answer.values() for word in words_of(value)]
    if isinstance(answer, list):
        return [word for value in answer for word in words_of(value)]
    return []


# ---- the way of a document ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", V3)
def test_v3_reads_in_its_own_words(service: Site, version: str) -> None:
    accepted = post(service, f"{version}/read/analyze?language=en")
    assert (accepted.status_code, accepted.content) == (202, b"")
    location = accepted.headers["Operation-Location"]
    assert re.fullmatch(re.escape(f"{service.url}/vision/{version}/read/analyzeResults/") + "[0-9a-f-]{36}", location)
    answer = poll(service, f"{version}/read/analyzeResults/{location[-36:]}")
    assert answer["status"] == "succeeded"
    assert ("modelVersion" in answer["analyzeResult"]) == (version == "v3.2")
    (page,) = answer["analyzeResult"]["readResults"]
    assert character_error_rate(PAGE.text.replace("\n", " "), " ".join(words_of(page))) < 0.05
    assert ("language" in page["lines"][0]) == (version == "v3.0-preview")
    assert ("appearance" in page["lines"][0]) == version.startswith("v3.2")
    alias = requests.get(f"{service.url}/vision/{version}/read/operations/{location[-36:]}", timeout=10)
    assert alias.json() == answer


@pytest.mark.parametrize("version", V3)
def test_v3_reads_while_the_sender_waits(service: Site, version: str) -> None:
    answer = post(service, f"{version}/read/syncAnalyze")
    assert answer.status_code == 200
    assert list(answer.json()) == ["status", "createdDateTime", "lastUpdatedDateTime", "analyzeResult"]
    assert character_error_rate(PAGE.text.replace("\n", " "), " ".join(words_of(answer.json()))) < 0.05


@pytest.mark.parametrize("version", V2)
@pytest.mark.parametrize(
    ("submit", "result", "key"),
    [
        ("read/core/asyncBatchAnalyze", "read/operations", "recognitionResults"),
        ("recognizeText?mode=Printed", "textOperations", "recognitionResult"),
    ],
)
def test_v2_reads_in_its_own_words(service: Site, version: str, submit: str, result: str, key: str) -> None:
    accepted = post(service, f"{version}/{submit}")
    assert (accepted.status_code, accepted.content) == (202, b"")
    location = accepted.headers["Operation-Location"]
    assert location == f"{service.url}/vision/{version}/{result}/{location[-36:]}"
    uuid.UUID(location[-36:])
    answer = poll(service, f"{version}/{result}/{location[-36:]}")
    assert list(answer) == ["status", key]
    assert answer["status"] == "Succeeded"
    assert character_error_rate(PAGE.text.replace("\n", " "), " ".join(words_of(answer))) < 0.05


@pytest.mark.parametrize("version", V2)
def test_v2_reads_while_the_sender_waits(service: Site, version: str) -> None:
    read = post(service, f"{version}/read/core/Analyze")
    direct = post(service, f"{version}/recognizeTextDirect?mode=Handwritten")
    assert (read.status_code, list(read.json())) == (200, ["status", "recognitionResults"])
    assert (direct.status_code, list(direct.json())) == (200, ["status", "lines"])
    assert read.json()["status"] == direct.json()["status"] == "Succeeded"
    assert words_of(read.json()) == words_of(direct.json())


def test_v2_takes_a_file_of_a_form(service: Site) -> None:
    answer = requests.post(
        f"{service.url}/vision/v2.0/recognizeTextDirect", files={"form": ("page.png", PICTURE)}, timeout=60
    )
    assert words_of(answer.json())[:2] == ["Gate", "7"]


def test_one_operation_is_told_in_the_words_of_every_version(service: Site) -> None:
    document = as_tiff([printed_page([f"Page number {n} of three"], size=(900, 200)) for n in (1, 2, 3)])
    before = service.settled_pages()
    operation_id = post(service, "v3.2/read/analyze?pages=2-3", document).headers["Operation-Location"][-36:]
    first = poll(service, f"v3.2/read/analyzeResults/{operation_id}")
    answers = {version: poll(service, f"{version}/read/analyzeResults/{operation_id}") for version in V3}
    answers |= {version: poll(service, f"{version}/read/operations/{operation_id}") for version in V2}
    answers |= {f"{version} text": poll(service, f"{version}/textOperations/{operation_id}") for version in V2}
    assert words_of(first)
    for name, answer in answers.items():
        assert words_of(answer) == words_of(first), name
    for version in V3:
        assert [page["page"] for page in answers[version]["analyzeResult"]["readResults"]] == [2, 3]
    for version in V2:
        assert [page["page"] for page in answers[version]["recognitionResults"]] == [2, 3]
    assert service.pages() - before == 2


# ---- parameters -----------------------------------------------------------------------------------------------------

KNOWN = {
    "v3.0-preview": set(),
    "v3.0": set(),
    "v3.1-preview.2": {"pages"},
    "v3.1": set(),
    "v3.2-preview.1": {"pages"},
    "v3.2-preview.2": {"pages", "readingOrder"},
    "v3.2": {"pages", "readingOrder", "model-version"},
}
NONSENSE = {"pages": "0", "readingOrder": "upwards", "model-version": "yesterday"}


@pytest.mark.parametrize("version", V3)
@pytest.mark.parametrize("parameter", list(NONSENSE))
def test_a_parameter_that_a_version_does_not_know_is_ignored(service: Site, version: str, parameter: str) -> None:
    answer = post(service, f"{version}/read/analyze?{parameter}={NONSENSE[parameter]}", as_png(TINY))
    assert answer.status_code == (400 if parameter in KNOWN[version] else 202)


TINY = printed_page(["Gate"], size=(200, 60), points=8)


@pytest.mark.parametrize("version", V2)
def test_v2_knows_no_parameter_at_all(service: Site, version: str) -> None:
    query = "?mode=Nonsense&language=xx-nonsense&pages=0&readingOrder=upwards&model-version=yesterday"
    assert post(service, f"{version}/recognizeText{query}", as_png(TINY)).status_code == 202
    assert post(service, f"{version}/read/core/asyncBatchAnalyze{query}", as_png(TINY)).status_code == 202


@pytest.mark.parametrize(
    ("version", "language", "accepted"),
    [
        ("v3.0-preview", "en", True),
        ("v3.0-preview", "de", False),
        ("v3.0", "EN", True),
        ("v3.0", "ja", False),
        ("v3.1", "en", True),
        ("v3.1", "pl", False),
        ("v3.1-preview.2", "zh-Hans", False),
        ("v3.1", "xx-nonsense", False),
        ("v3.2-preview.1", "xx-nonsense", False),
        ("v3.2", "", True),
        ("v3.1", "", True),
    ],
)
def test_languages(service: Site, version: str, language: str, accepted: bool) -> None:
    answer = post(service, f"{version}/read/analyze?language={language}", as_png(TINY))
    assert answer.status_code == (202 if accepted else 400)
    if not accepted:
        assert answer.json()["code"] == "NotSupportedLanguage"


# ---- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "code"), [((4199, 50), None), ((4200, 60), "InvalidImageSize"), ((60, 49), "InvalidImageSize")]
)
def test_v2_limits_of_a_picture(service: Site, size: tuple[int, int], code: str | None) -> None:
    picture = as_png(empty_page(size))
    answer = post(service, "v2.1/read/core/asyncBatchAnalyze", picture)
    assert (answer.status_code, answer.json()["code"] if code else None) == (400 if code else 202, code)


def test_v2_limit_of_bytes(service: Site) -> None:
    answer = post(service, "v2.0/recognizeText", bytes(20 * 2**20 + 1))
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidImageSize")


def test_v2_limit_of_pages(service: Site) -> None:
    document = as_tiff([TINY] * 201)
    assert post(service, "v2.0/read/core/asyncBatchAnalyze", document).json()["code"] == "BadArgument"


def test_limit_of_a_sheet_before_3_2(service: Site) -> None:
    document = digital_pdf([["Gate 7"]]).replace(b"[0 0 612 792]", b"[0 0 1230 99]")
    for path in ("v2.0/recognizeText", "v3.0/read/analyze", "v3.1/read/syncAnalyze"):
        answer = post(service, path, document)
        assert (answer.status_code, answer.json()["code"]) == (400, "InvalidImageSize")
    assert post(service, "v3.2-preview.1/read/analyze", document).status_code == 202
    assert post(service, "v3.2/read/analyze", document).status_code == 202


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [*V3, *V2])
def test_unknown_operation(service: Site, version: str) -> None:
    for path in ("read/analyzeResults", "read/operations") if version in V3 else ("read/operations", "textOperations"):
        for operation_id in (str(uuid.uuid4()), "nonsense"):
            answer = service.get(f"/vision/{version}/{path}/{operation_id}")
            assert answer.status_code == 404
            assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
            error = answer.json()["error"] if version == "v3.2" else answer.json()
            assert sorted(error) == ["code", "message", *([] if version == "v3.2" else ["requestId"])]
            assert (error["code"], error["message"]) == ("BadArgument", GONE)


FLAT = [
    "v3.2-preview.2/read/analyze",
    "v3.1/read/syncAnalyze",
    "v3.0/read/analyze",
    "v3.0-preview/read/analyze",
    "v2.1/read/core/Analyze",
    "v2.0/recognizeTextDirect",
]


@pytest.mark.parametrize("path", FLAT)
@pytest.mark.parametrize(
    ("kind", "body", "refusal"),
    [
        ("image/png", b"this is no picture at all, however it is called", (400, "InvalidImageFormat")),
        ("application/octet-stream", b"", (400, "BadArgument")),
        ("application/json", b"{}", (400, "BadArgument")),
        ("application/json", b'{"url":"ftp://host/a.png"}', (400, "InvalidImageUrl")),
        ("application/json", b'{"url":"https://host.example/a.png"}', (400, "InvalidImageUrl")),
        ("text/plain", b"hello", (415, "UnsupportedMediaType")),
    ],
)
def test_flat_errors(service: Site, path: str, kind: str, body: bytes, refusal: tuple[int, str]) -> None:
    answer = post(service, path, body, kind)
    assert (answer.status_code, answer.json()["code"]) == refusal
    assert list(answer.json()) == ["code", "message", "requestId"]
    assert "Retry-After" not in answer.headers


def test_a_picture_of_a_kind_that_is_not_taken(service: Site) -> None:
    gif = as_gif([TINY])
    assert post(service, "v3.2/read/analyze", gif).json()["error"]["code"] == "UnsupportedImageFormat"
    assert post(service, "v3.1/read/analyze", gif).json()["code"] == "InvalidImageFormat"
    assert post(service, "v2.0/recognizeText", gif).json()["code"] == "InvalidImageFormat"


def test_pages_beyond_the_document(service: Site) -> None:
    document = as_pdf([TINY])
    for version in ("v3.2-preview.1", "v3.2-preview.2", "v3.1-preview.2"):
        assert post(service, f"{version}/read/analyze?pages=2", document).json()["code"] == "InvalidPageRange"
    assert post(service, "v3.1/read/analyze?pages=2", document).status_code == 202


def test_bmp_is_read_in_every_generation(service: Site) -> None:
    for path in ("v2.0/read/core/Analyze", "v3.0/read/syncAnalyze"):
        assert words_of(post(service, path, as_bmp(PAGE)).json())[:2] == ["Gate", "7"]
