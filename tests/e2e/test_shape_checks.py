"""The twelve shape checks of contract E.10, by number."""

from __future__ import annotations

import io
import re
import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from azure.ai.vision.imageanalysis import ImageAnalysisClient
from azure.ai.vision.imageanalysis.models import VisualFeatures
from azure.cognitiveservices.vision.computervision import ComputerVisionClient
from azure.core.credentials import AzureKeyCredential
from msrest.authentication import CognitiveServicesCredentials

from tests.e2e.site import Site, a_site, text_of, wait_until
from tests.fakes.web_server import a_folder_served
from tests.pages import as_bmp, as_pdf, as_png, as_tiff, character_error_rate, empty_page, printed_page

PAGE = printed_page(["Gate 7 opens at noon", "Invoices were paid on Monday"], size=(900, 300))
PICTURE = as_png(PAGE)
GONE = {
    "error": {
        "code": "BadArgument",
        "message": "Operation ID is invalid, expired or the results matching this operationId have been deleted.",
    }
}
READ = "/vision/v3.2/read"
ANALYZE = "/computervision/imageanalysis:analyze?api-version=2024-02-01&features=read"


def post(service: Site, path: str, body: Any = PICTURE, **headers: str) -> requests.Response:
    return requests.post(
        service.url + path, data=body, headers={"Content-Type": "application/octet-stream"} | headers, timeout=60
    )


def words(value: Any, key: str = "words") -> list[str]:
    """All words of an answer, in its order, whatever its envelope."""
    if isinstance(value, dict):
        if key in value:
            return [word["text"] for word in value[key]]
        return [word for one in value.values() for word in words(one)]
    return [word for one in value for word in words(one)] if isinstance(value, list) else []


def test_check_01_submit(service: Site) -> None:
    answer = post(service, f"{READ}/analyze")
    assert (answer.status_code, answer.content, answer.headers["Content-Length"]) == (202, b"", "0")
    location = answer.headers["Operation-Location"]
    assert re.fullmatch(r"https?://[^/]+/vision/v3\.2/read/analyzeResults/[0-9a-f-]{36}", location)
    assert urlsplit(location).netloc == urlsplit(service.url).netloc  # what the client named as its host
    uuid.UUID(location[-36:])


def test_check_02_chunked_upload(service: Site) -> None:
    document = as_bmp(printed_page(size=(3000, 3508), dpi=300))
    assert len(document) > 10_000_000
    for one in (document, PICTURE):
        answer = post(service, f"{READ}/syncAnalyze", (one[at : at + 65536] for at in range(0, len(one), 65536)))
        assert answer.request.headers["Transfer-Encoding"] == "chunked"
        assert "Content-Length" not in answer.request.headers
        assert answer.status_code == 200
    assert character_error_rate(PAGE.text, text_of(answer.json())) < 0.05


def test_check_03_poll_before_completion(service: Site) -> None:
    location = service.submit(as_pdf([printed_page()] * 3))
    seen = []
    while "succeeded" not in seen:
        answer = requests.get(location, timeout=10)
        assert answer.status_code == 200  # a 404 for an operation that lives ends it for several clients (E.9)
        if answer.json()["status"] != "succeeded":
            assert list(answer.json()) == ["status", "createdDateTime", "lastUpdatedDateTime"]
        seen.append(answer.json()["status"])
        assert seen[-1] in {"notStarted", "running", "succeeded"}
    assert len(seen) > 1


def test_check_04_succeeded_poll(service: Site) -> None:
    document = as_tiff([PAGE, empty_page((600, 400))])
    result = service.result(service.submit(document))
    assert list(result) == ["status", "createdDateTime", "lastUpdatedDateTime", "analyzeResult"]
    assert list(result["analyzeResult"]) == ["version", "modelVersion", "readResults"]
    read, empty = result["analyzeResult"]["readResults"]
    assert empty["lines"] == []
    for number, page in enumerate((read, empty), start=1):
        assert [key for key in page if key != "language"] == ["page", "angle", "width", "height", "unit", "lines"]
        assert (page["page"], page["unit"]) == (number, "pixel")
        assert -180 <= page["angle"] < 180
        for line in page["lines"]:
            assert {"boundingBox", "text", "words"} <= line.keys() <= {
                "language", "boundingBox", "text", "appearance", "words",
            }  # fmt: skip
            assert line["words"]
            assert line["appearance"]["style"]["name"] in {"handwriting", "other"}
            assert 0 <= line["appearance"]["style"]["confidence"] <= 1
            for piece in (line, *line["words"]):
                assert len(piece["boundingBox"]) == 8
                assert all(isinstance(one, int) for one in piece["boundingBox"])
            for word in line["words"]:
                assert list(word) == ["boundingBox", "text", "confidence"]
                assert 0 <= word["confidence"] <= 1


def test_check_05_page_filter(service: Site) -> None:
    before = service.settled_pages()
    document = as_tiff([printed_page([f"Page {n} of six"], size=(600, 200)) for n in range(1, 7)])
    result = service.result(service.submit(document, query="?pages=2,4-5"))
    assert [page["page"] for page in result["analyzeResult"]["readResults"]] == [2, 4, 5]
    assert service.pages() - before == 3


def test_check_06_not_found(service: Site) -> None:
    for name in ("analyzeResults", "operations"):
        answer = service.get(f"{READ}/{name}/{uuid.uuid4()}")
        assert (answer.status_code, answer.json()) == (404, GONE)
    unrouted = service.get("/vision/v3.2/nothing")
    assert (unrouted.status_code, unrouted.content) == (404, b"")


def test_check_07_words_of_the_generations(service: Site) -> None:
    operation_id = service.submit(PICTURE)[-36:]
    late = service.result(f"{service.url}{READ}/analyzeResults/{operation_id}")
    early = service.get(f"/vision/v2.1/read/operations/{operation_id}").json()
    assert (late["status"], early["status"]) == ("succeeded", "Succeeded")
    assert words(late["analyzeResult"]["readResults"]) == words(early["recognitionResults"]) != []


def test_check_08_boxes_of_ocr_and_image_analysis(service: Site) -> None:
    printed = post(service, "/vision/v3.2/ocr").json()
    boxes = [
        piece["boundingBox"]
        for region in printed["regions"]
        for piece in (region, *region["lines"], *(word for line in region["lines"] for word in line["words"]))
    ]
    assert len(boxes) > 2
    assert all(re.fullmatch(r"\d+,\d+,\d+,\d+", box) for box in boxes)
    (block,) = post(service, ANALYZE).json()["readResult"]["blocks"]
    for line in block["lines"]:
        for piece in (line, *line["words"]):
            assert len(piece["boundingPolygon"]) == 4
            for point in piece["boundingPolygon"]:
                assert list(point) == ["x", "y"]
                assert all(isinstance(number, int) for number in point.values())


def test_check_09_refused_query(own: Site) -> None:
    location = own.submit(PICTURE)
    own.result(location)
    own.license_file.rename(own.folder / "kept")
    try:
        wait_until(lambda: own.ready() == 503, 10, "still serving")
        for path in (f"{READ}/analyze", f"{READ}/syncAnalyze"):
            answer = post(own, path)
            assert answer.status_code == 403
            assert list(answer.json()) == ["error"]
            assert answer.json()["error"]["code"] == "NoCredit"
            assert "Retry-After" not in answer.headers
        for path in ("/vision/v2.0/recognizeText", "/vision/v3.1/read/analyze", "/vision/v3.1/ocr", ANALYZE):
            answer = post(own, path)
            assert answer.status_code == 403
            assert "Retry-After" not in answer.headers
        assert own.get("/status").status_code == 200
        assert requests.get(location, timeout=10).json()["status"] == "succeeded"  # it was counted already (C.3)
    finally:
        (own.folder / "kept").rename(own.license_file)
    own.wait_ready()


def test_check_10_same_words_everywhere(service: Site) -> None:
    read = post(service, f"{READ}/syncAnalyze").json()
    printed = post(service, "/vision/v3.2/ocr?language=unk").json()
    analysed = post(service, ANALYZE).json()
    assert words(read["analyzeResult"]["readResults"]) == words(printed["regions"])
    assert words(read["analyzeResult"]["readResults"]) == words(analysed["readResult"])
    assert words(printed)[:2] == ["Gate", "7"]


@pytest.mark.parametrize("key", [None, "0" * 32, "anything at all", ""])
def test_check_11_any_subscription_key(service: Site, key: str | None) -> None:
    headers = {} if key is None else {"Ocp-Apim-Subscription-Key": key}
    tiny = as_png(empty_page((60, 60)))
    for path, status in ((f"{READ}/analyze", 202), ("/vision/v3.2/ocr", 200), (ANALYZE, 200)):
        assert post(service, path, tiny, **headers).status_code == status


def test_check_12_official_clients(own: Site, gallery: str) -> None:
    client = ComputerVisionClient(own.url, CognitiveServicesCredentials("any key"))
    for started in (client.read(gallery, raw=True), client.read_in_stream(io.BytesIO(PICTURE), raw=True)):
        operation_id = started.headers["Operation-Location"].split("/")[-1]
        until = time.monotonic() + 60
        while (result := client.get_read_result(operation_id)).status.value in {"notStarted", "running"}:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert result.status.value == "succeeded"
        assert [word.text for word in result.analyze_result.read_results[0].lines[0].words][:2] == ["Gate", "7"]
    for printed in (
        client.recognize_printed_text(gallery),
        client.recognize_printed_text_in_stream(io.BytesIO(PICTURE)),
    ):
        assert [word.text for word in printed.regions[0].lines[0].words][:2] == ["Gate", "7"]
    analysis = ImageAnalysisClient(own.url, AzureKeyCredential("any key"))
    for analysed in (
        analysis.analyze(PICTURE, visual_features=[VisualFeatures.READ]),
        analysis.analyze_from_url(gallery, visual_features=[VisualFeatures.READ]),
    ):
        assert analysed.read is not None
        assert [word.text for word in analysed.read.blocks[0].lines[0].words][:2] == ["Gate", "7"]


# ---- what some of them need -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A picture on a web server of the test's own."""
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "page.png").write_bytes(PICTURE)
    with a_folder_served(folder) as address:
        yield f"{address}/page.png"


@pytest.fixture(scope="module")
def own(gallery: str) -> Iterator[Site]:
    """A site that may fetch documents from the gallery, and whose licence may be taken away."""
    with a_site(f"Sidecar:AllowedImageSources={gallery.removesuffix('page.png')}") as site:
        yield site
