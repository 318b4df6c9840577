"""`/ocr` and Image Analysis through real processes: official clients, boxes on the picture, every format (E.5, E.6)."""

from __future__ import annotations

import io
import math
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.ai.vision.imageanalysis import ImageAnalysisClient
from azure.ai.vision.imageanalysis.models import VisualFeatures
from azure.cognitiveservices.vision.computervision import ComputerVisionClient
from azure.cognitiveservices.vision.computervision.models import ComputerVisionErrorResponseException
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError
from msrest.authentication import CognitiveServicesCredentials
from PIL import Image, ImageDraw, ImageStat

from tests.e2e.site import Site
from tests.pages import (
    LINES,
    PrintedPage,
    as_bmp,
    as_gif,
    as_ico,
    as_jpeg,
    as_mpo,
    as_pdf,
    as_png,
    as_tiff,
    as_webp,
    character_error_rate,
    empty_page,
    encoded,
    overlap,
    printed_page,
    turned,
    two_columns,
)

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
PAGE = printed_page(LINES[:4], size=(900, 400))
OTHER = empty_page((300, 200))
LEFT, RIGHT = [line[:34].strip() for line in LINES], [line[:34].strip() for line in reversed(LINES)]
COLUMNS = two_columns(LEFT, RIGHT)
ANALYZE = "/computervision/imageanalysis:analyze?api-version=2023-10-01&features=read"
OCR_VERSIONS = ("v2.0", "v2.1", "v3.0", "v3.1", "v3.2")


def post(service: Site, path: str, document: bytes, kind: str = "application/octet-stream") -> requests.Response:
    return requests.post(service.url + path, data=document, headers={"Content-Type": kind}, timeout=60)


def ocr_words(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [word for region in answer["regions"] for line in region["lines"] for word in line["words"]]


def ocr_text(answer: dict[str, Any]) -> str:
    return " ".join(word["text"] for word in ocr_words(answer))


def analysed_words(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [word for block in answer["readResult"]["blocks"] for line in block["lines"] for word in line["words"]]


def read_words(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [word for page in answer["analyzeResult"]["readResults"] for line in page["lines"] for word in line["words"]]


# ---- boxes drawn back on the picture


def corners(box: str) -> tuple[float, ...]:
    left, top, width, height = map(int, box.split(","))
    return (left, top, left + width, top, left + width, top + height, left, top + height)


@pytest.mark.parametrize("degrees", [0, 3, -7, 90, 180, 270, 87])
def test_boxes_drawn_on_the_picture_sit_on_its_words(service: Site, degrees: float) -> None:
    page = turned(PAGE, degrees)
    answer = post(service, "/vision/v3.2/ocr", as_png(page)).json()
    quarters = round(degrees / 90)
    assert answer["orientation"] == ("Up", "Right", "Down", "Left")[quarters % 4]
    assert math.degrees(answer["textAngle"]) == pytest.approx(90 * quarters - degrees, abs=0.3)

    picture = Image.eval(page.image, lambda value: 255 - value)
    picture = picture.rotate(-math.degrees(answer["textAngle"]), Image.Resampling.BICUBIC)  # clockwise, edges stay
    mask = Image.new("L", picture.size, 0)
    pen = ImageDraw.Draw(mask)
    for word in ocr_words(answer):
        left, top, width, height = map(int, word["boundingBox"].split(","))
        pen.rectangle((left - 1, top - 1, left + width, top + height), fill=255)
    inside = ImageStat.Stat(picture, mask)
    assert inside.sum[0] > 0.97 * ImageStat.Stat(picture).sum[0], "ink lies outside of the boxes"
    assert inside.mean[0] > 40, "the boxes hold little ink"

    framed = turned_about_its_centre(page, answer["textAngle"])
    assert [word["text"] for word in ocr_words(answer)] == [text for text, _ in framed]
    for word, (_, truth) in zip(ocr_words(answer), framed, strict=True):
        assert overlap(corners(word["boundingBox"]), upright(truth)) > 0.5, word


def turned_about_its_centre(page: PrintedPage, radians: float) -> list[tuple[str, tuple[float, ...]]]:
    """What is printed, and where it is once the picture is turned clockwise without growing."""
    cosine, sine = math.cos(radians), math.sin(radians)
    cx, cy = (side / 2 for side in page.image.size)
    return [
        (
            word.text,
            tuple(
                value
                for x, y in zip(word.polygon[::2], word.polygon[1::2], strict=True)
                for value in (
                    cx + cosine * (x - cx) - sine * (y - cy),
                    cy + sine * (x - cx) + cosine * (y - cy),
                )
            ),
        )
        for word in page.words
    ]


def upright(polygon: tuple[float, ...]) -> tuple[float, ...]:
    left, top, right, bottom = min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2])
    return (left, top, right, top, right, bottom, left, bottom)


def test_boxes_hold_the_boxes_of_what_they_hold(service: Site) -> None:
    answer = post(service, "/vision/v3.2/ocr", as_png(turned(PAGE, -7))).json()
    for region in answer["regions"]:
        for line in region["lines"]:
            assert is_inside(line["boundingBox"], region["boundingBox"])
            assert line["words"]
            assert all(is_inside(word["boundingBox"], line["boundingBox"]) for word in line["words"])


def is_inside(inner: str, outer: str) -> bool:
    (x, y, w, h), (left, top, width, height) = (map(int, box.split(",")) for box in (inner, outer))
    return left <= x and top <= y and x + w <= left + width and y + h <= top + height


# ---- one page in three words


@pytest.mark.parametrize(
    "document",
    [
        as_png(PAGE),
        as_png(turned(PAGE, 93)),
        as_jpeg(turned(PAGE, 180)),
        encoded(COLUMNS.image, "PNG"),
    ],
    ids=["level", "on its side", "upside down", "columns"],
)
def test_the_same_words_in_the_same_order_whoever_asks(service: Site, document: bytes) -> None:
    read = [word["text"] for word in read_words(service.sync(document).json())]
    older = [word["text"] for word in ocr_words(post(service, "/vision/v2.0/ocr", document).json())]
    newer = [word["text"] for word in analysed_words(post(service, ANALYZE, document).json())]
    assert read
    assert read == older == newer


def test_columns_told_row_by_row_make_regions_that_keep_the_order(service: Site) -> None:
    answer = post(service, "/vision/v3.2/ocr", encoded(COLUMNS.image, "PNG")).json()
    across = " ".join(line for pair in zip(LEFT, RIGHT, strict=True) for line in pair)
    assert character_error_rate(across, ocr_text(answer)) < 0.02
    assert [len(region["lines"]) for region in answer["regions"]] == [1] * 20


# ---- /ocr


@pytest.mark.parametrize("version", OCR_VERSIONS)
def test_every_version_has_ocr(service: Site, version: str) -> None:
    answer = post(service, f"/vision/{version}/ocr?language=en&detectOrientation=true", as_png(PAGE))
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    told = answer.json()
    keys = ["language", "textAngle", "orientation", "regions"]
    assert list(told) == ([*keys, "modelVersion"] if version == "v3.2" else keys)
    assert (told["language"], told["orientation"]) == ("en", "Up")
    assert character_error_rate(" ".join(LINES[:4]), ocr_text(told)) < 0.02


@pytest.mark.parametrize(("query", "language"), [("", "unk"), ("?language=unk", "unk"), ("?language=en", "en")])
def test_a_picture_without_text_is_no_error(service: Site, query: str, language: str) -> None:
    answer = post(service, f"/vision/v2.0/ocr{query}", as_png(OTHER))
    assert answer.status_code == 200
    assert answer.json() == {"language": language, "textAngle": 0, "orientation": "NotDetected", "regions": []}


def test_orientation_is_told_only_to_who_asks(service: Site) -> None:
    told = post(service, "/vision/v3.2/ocr?detectOrientation=false", as_png(turned(PAGE, 3))).json()
    assert told["orientation"] == "NotDetected"
    assert told["textAngle"] < -0.04
    assert told["regions"]


def test_ocr_counts_one_page(service: Site) -> None:
    before = service.settled_pages()
    assert post(service, "/vision/v3.2/ocr", as_png(PAGE)).status_code == 200
    assert post(service, ANALYZE, as_tiff([PAGE, OTHER])).status_code == 200
    assert service.settled_pages() == before + 2


def test_multipart_is_taken_by_both(service: Site) -> None:
    for path, words in (("/vision/v3.1/ocr", ocr_words), (ANALYZE, analysed_words)):
        answer = requests.post(service.url + path, files={"file": ("page.png", as_png(PAGE))}, timeout=60)
        assert len(words(answer.json())) == len(PAGE.words)


# ---- formats and sizes

OCR_DOCUMENTS = {
    "jpeg": (as_jpeg(PAGE), 200),
    "png": (as_png(PAGE), 200),
    "gif": (as_gif([PAGE, OTHER]), 200),
    "bmp": (as_bmp(PAGE), 200),
    "tiff": (as_tiff([PAGE]), 400),
    "webp": (as_webp(PAGE), 400),
    "pdf": (as_pdf([PAGE]), 400),
}
ANALYSED_DOCUMENTS = {
    "jpeg": as_jpeg(PAGE),
    "png": as_png(PAGE),
    "gif": as_gif([PAGE, OTHER]),
    "bmp": as_bmp(PAGE),
    "webp": as_webp(PAGE),
    "ico": as_ico([OTHER.image, PAGE.image]),
    "tiff": as_tiff([PAGE, OTHER]),
    "mpo": as_mpo([PAGE, OTHER]),
}


@pytest.mark.parametrize("name", OCR_DOCUMENTS)
def test_formats_of_ocr(service: Site, name: str) -> None:
    document, status = OCR_DOCUMENTS[name]
    answer = post(service, "/vision/v2.1/ocr", document)
    assert answer.status_code == status, answer.text
    if status == 200:
        assert character_error_rate(" ".join(LINES[:4]), ocr_text(answer.json())) < 0.02
    else:
        assert answer.json()["code"] == "NotSupportedImage"


@pytest.mark.parametrize("name", ANALYSED_DOCUMENTS)
def test_formats_of_image_analysis(service: Site, name: str) -> None:
    answer = post(service, ANALYZE, ANALYSED_DOCUMENTS[name])
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert list(told) == ["modelVersion", "metadata", "readResult"]
    assert told["metadata"] == {"width": 900, "height": 400}
    text = " ".join(word["text"] for word in analysed_words(told))
    assert character_error_rate(" ".join(LINES[:4]), text) < 0.02
    for word in analysed_words(told):
        assert list(word) == ["text", "boundingPolygon", "confidence"]
        assert len(word["boundingPolygon"]) == 4
        assert all(
            isinstance(point[axis], int) and point[axis] >= 0 for point in word["boundingPolygon"] for axis in "xy"
        )


@pytest.mark.parametrize("name", ["gif", "webp", "ico"])
def test_read_still_takes_what_it_took(service: Site, name: str) -> None:
    answer = service.sync(ANALYSED_DOCUMENTS[name])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "UnsupportedImageFormat")


def test_read_still_reads_a_jpeg_with_more_behind_it(service: Site) -> None:
    assert len(read_words(service.sync(as_mpo([PAGE, OTHER])).json())) == len(PAGE.words)


def test_a_real_gif_is_read(service: Site) -> None:
    path = CORPUS / "tesseract.js-simple.gif"
    if not path.exists():
        pytest.skip("the corpus is not here")
    told = post(service, "/vision/v3.2/ocr", path.read_bytes()).json()
    truth = " ".join(path.with_name(path.name + ".gt.txt").read_text(encoding="utf-8").split())
    assert character_error_rate(truth, ocr_text(told)) < 0.1


def plain(width: int, height: int) -> bytes:
    return encoded(Image.new("L", (width, height), 255), "PNG")


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/vision/v2.0/ocr", (50, 50), 200),
        ("/vision/v2.0/ocr", (49, 50), 400),
        ("/vision/v2.0/ocr", (4200, 50), 200),
        ("/vision/v2.0/ocr", (4201, 50), 400),
        (ANALYZE, (51, 51), 200),
        (ANALYZE, (50, 51), 400),
        (ANALYZE, (15_999, 51), 200),
        (ANALYZE, (16_000, 51), 400),
    ],
)
def test_sides(service: Site, path: str, size: tuple[int, int], status: int) -> None:
    answer = post(service, path, plain(*size))
    assert answer.status_code == status, answer.text
    if status == 400:
        told = answer.json()
        assert told.get("code", told.get("error", {}).get("innererror", {}).get("code")) == "InvalidImageSize"


@pytest.mark.parametrize(("path", "most"), [("/vision/v2.0/ocr", 4 * 2**20 - 1), (ANALYZE, 20_971_520)])
def test_bytes(service: Site, path: str, most: int) -> None:
    document = plain(60, 60)
    assert post(service, path, document.ljust(most, b"\0")).status_code == 200
    answer = post(service, path, document.ljust(most + 1, b"\0"))
    assert answer.status_code == 400
    assert "InvalidImageSize" in answer.text


# ---- errors

NESTED = {"/vision/v3.2/ocr": 0, ANALYZE: 1}


@pytest.mark.parametrize("path", NESTED)
@pytest.mark.parametrize(
    ("sent", "status", "inner"),
    [
        (("application/octet-stream", b"This is not a picture." * 10), 400, "InvalidImageFormat"),
        (("application/octet-stream", as_png(PAGE)[:-500]), 400, "InvalidImageFormat"),
        (("application/json", b"{"), 400, "BadArgument"),
        (("application/json", b'{"url":"nonsense"}'), 400, "InvalidImageUrl"),
        (("application/json", b'{"url":"http://no.such.host.example/a.png"}'), 400, "InvalidImageUrl"),
        (("text/plain", b"hello"), 415, "UnsupportedMediaType"),
    ],
)
def test_errors_with_a_particular_code_inside(
    service: Site, path: str, sent: tuple[str, bytes], status: int, inner: str
) -> None:
    kind, body = sent
    answer = post(service, path, body, kind)
    told = answer.json()
    assert answer.status_code == status
    assert list(told) == ["error"]
    assert list(told["error"]) == ["code", "message", "innererror"]
    assert told["error"]["code"] == "InvalidRequest"
    assert told["error"]["innererror"]["code"] == inner
    assert answer.headers.get("x-ms-error-code") == ("InvalidRequest" if path == ANALYZE else None)
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0", "v3.1"])
@pytest.mark.parametrize(
    ("query", "body", "code"),
    [
        ("", b"This is not a picture." * 10, "InvalidImageFormat"),
        ("?language=xx", as_png(OTHER), "NotSupportedLanguage"),
        ("?detectOrientation=perhaps", as_png(OTHER), "BadArgument"),
        ("", plain(40, 40), "InvalidImageSize"),
    ],
)
def test_older_errors_are_flat(service: Site, version: str, query: str, body: bytes, code: str) -> None:
    answer = post(service, f"/vision/{version}/ocr{query}", body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["code", "message", "requestId"]
    assert answer.json()["code"] == code


def test_what_is_refused_is_not_counted(service: Site) -> None:
    before = service.settled_pages()
    post(service, "/vision/v2.0/ocr", b"nothing" * 100)
    post(service, ANALYZE.replace("=read", "=caption"), as_png(PAGE))
    assert service.settled_pages() == before


# ---- official clients


def older_client(service: Site) -> ComputerVisionClient:
    return ComputerVisionClient(service.url, CognitiveServicesCredentials("any key"))


def newer_client(service: Site) -> ImageAnalysisClient:
    return ImageAnalysisClient(service.url, AzureKeyCredential("any key"))


def test_official_client_recognises_printed_text(service: Site) -> None:
    result = older_client(service).recognize_printed_text_in_stream(io.BytesIO(as_png(turned(PAGE, 3))))
    words = [word for region in result.regions for line in region.lines for word in line.words]
    assert [word.text for word in words] == [word.text for word in PAGE.words]
    assert (result.orientation, result.model_version) == ("Up", "2021-04-01")
    assert result.text_angle == pytest.approx(-math.radians(3), abs=0.01)
    assert all(len(word.bounding_box.split(",")) == 4 for word in words)


def test_official_client_shows_what_ocr_refuses(service: Site) -> None:
    with pytest.raises(ComputerVisionErrorResponseException, match="not an image") as refusal:
        older_client(service).recognize_printed_text_in_stream(io.BytesIO(b"nothing" * 100))
    error = refusal.value.error.error
    assert (error.code, error.innererror.code) == ("InvalidRequest", "InvalidImageFormat")
    with pytest.raises(ComputerVisionErrorResponseException) as refusal:
        older_client(service).recognize_printed_text("http://no.such.host.example/page.png")
    assert refusal.value.error.error.innererror.code == "InvalidImageUrl"


def test_official_client_analyses_text(service: Site) -> None:
    result = newer_client(service).analyze(image_data=as_jpeg(PAGE), visual_features=[VisualFeatures.READ])
    assert (result.metadata.width, result.metadata.height) == PAGE.image.size
    assert result.read is not None
    (block,) = result.read.blocks
    assert character_error_rate(PAGE.text, "\n".join(line.text for line in block.lines)) < 0.02
    words = [word for line in block.lines for word in line.words]
    for word, truth in zip(words, PAGE.words, strict=True):
        flat = tuple(value for point in word.bounding_polygon for value in (point.x, point.y))
        assert overlap(flat, truth.polygon) > 0.5
        assert 0 <= word.confidence <= 1


@pytest.mark.parametrize(
    ("document", "features", "said"),
    [
        (b"nothing" * 100, [VisualFeatures.READ], r"\(InvalidRequest\) The bytes are not an image"),
        (as_png(PAGE), [VisualFeatures.READ, VisualFeatures.CAPTION], r"\(InvalidRequest\) .*reads text only"),
        (plain(30, 30), [VisualFeatures.READ], r"\(InvalidRequest\) The image must be from 51 x 51"),
    ],
)
def test_official_client_shows_what_image_analysis_refuses(
    service: Site, document: bytes, features: list[VisualFeatures], said: str
) -> None:
    with pytest.raises(HttpResponseError, match=said) as refusal:
        newer_client(service).analyze(image_data=document, visual_features=features)
    assert refusal.value.status_code == 400


def test_official_client_comes_back_when_the_service_is_busy(service: Site) -> None:
    """Callers who are slow to send take all places; the client is told to come back, and does, once they are gone."""
    slow = []
    try:
        for _ in range(500):
            one = socket.create_connection(("127.0.0.1", service.port), timeout=10)
            one.sendall(f"POST {ANALYZE} HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\nx".encode())
            slow.append(one)
            if len(slow) % 8 == 0:
                answer = post(service, ANALYZE, as_png(OTHER))
                if answer.status_code == 503:
                    break
        assert answer.headers["Retry-After"].isdecimal()
        assert answer.headers["x-ms-error-code"] == "ServiceUnavailable"
        statuses: list[int] = []
        later = threading.Timer(2, lambda: [one.close() for one in slow])
        later.start()
        result = newer_client(service).analyze(
            image_data=as_png(PAGE),
            visual_features=[VisualFeatures.READ],
            raw_response_hook=lambda last: statuses.append(last.http_response.status_code),
        )
        later.join()
        assert len(result.read.blocks[0].lines) == len(LINES[:4])
        assert (statuses[0], statuses[-1]) == (503, 200)
    finally:
        for one in slow:
            one.close()
