"""The steps of the vendor's four sample programs: a page in a browser, Python with requests, .NET, a shell with curl.

Each does what the sample does, in the sample's order, and knows of this service only its address.
"""

from __future__ import annotations

import math
import subprocess
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
import requests
from PIL import Image, ImageDraw

from tests.e2e.browser import Browser
from tests.e2e.site import Site, a_site
from tests.fakes.web_server import a_folder_served
from tests.pages import LINES, PrintedPage, as_png, character_error_rate, overlap, printed_page, turned

PAGE = printed_page(LINES[:4], size=(1240, 560))

# ---- a page in a browser --------------------------------------------------------------------------------------------

SAMPLE_PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>Analyse</title><link rel="icon" href="data:,"></head><body>
<input type="file" id="file"><button id="go">Read image</button>
<p id="location"></p><pre id="text"></pre><p id="error"></p>
<script>
const show = (id, text) => document.getElementById(id).textContent = text;
const service = new URLSearchParams(location.search).get("service");
const failed = (xhr) => {
  const body = xhr.responseText ? JSON.parse(xhr.responseText) : {};
  show("error", `${xhr.status} ${xhr.statusText}: ${body.message || (body.error || {}).message || "no answer"}`);
};
document.getElementById("go").onclick = () => {
  const submit = new XMLHttpRequest();
  submit.open("POST", `${service}/vision/v3.2/read/analyze`);
  submit.setRequestHeader("Content-Type", "application/octet-stream");
  submit.setRequestHeader("Ocp-Apim-Subscription-Key", "0123456789abcdef0123456789abcdef");
  submit.onerror = () => failed(submit);
  submit.onload = () => {
    if (submit.status !== 202) return failed(submit);
    const address = submit.getResponseHeader("Operation-Location");
    show("location", address);
    setTimeout(() => {  // "wait ten seconds, then ask once"
      const poll = new XMLHttpRequest();
      poll.open("GET", address);
      poll.setRequestHeader("Ocp-Apim-Subscription-Key", "0123456789abcdef0123456789abcdef");
      poll.onerror = () => failed(poll);
      poll.onload = () => {
        if (poll.status !== 200) return failed(poll);
        const lines = JSON.parse(poll.responseText).analyzeResult.readResults.flatMap(page => page.lines);
        show("text", lines.map(line => line.text).join("\\n"));
      };
      poll.send();
    }, 10000);
  };
  submit.send(document.getElementById("file").files[0]);
};
</script></body></html>
"""


@pytest.fixture
def web_page(tmp_path: Path) -> Iterator[str]:
    """The sample's page, on an origin of its own; its address."""
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text(SAMPLE_PAGE)
    with a_folder_served(folder) as address:
        yield address


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "page.png"
    path.write_bytes(as_png(PAGE))
    return path


def send_from_page(browser: Browser, page: str, site: Site, picture: Path) -> None:
    browser.open(f"{page}/?service={site.url}")
    browser.find("#file").send_keys(str(picture))
    browser.click("#go")


def test_browser_page_reads_after_ten_seconds(browser: Browser, web_page: str, picture: Path) -> None:
    with a_site(f"Sidecar:CorsAllowedOrigins={web_page}") as site:
        send_from_page(browser, web_page, site, picture)
        shown = browser.wait(lambda: browser.find("#text").text or browser.find("#error").text, "no text is shown")
        assert browser.find("#error").text == ""
        assert browser.find("#location").text.startswith(f"{site.url}/vision/v3.2/read/analyzeResults/")
        assert character_error_rate(PAGE.text, shown) < 0.02
        assert browser.complaints() == []


def test_browser_page_of_an_origin_that_is_not_listed_is_told_nothing(
    service: Site, browser: Browser, web_page: str, picture: Path
) -> None:
    send_from_page(browser, web_page, service, picture)
    assert browser.wait(lambda: browser.find("#error").text, "no error is shown").startswith("0 ")
    assert browser.find("#location").text == ""


# ---- Python with requests: the boxes of /ocr, drawn back on the picture ---------------------------------------------


class Box(tuple[int, int, int, int]):
    """Left, top, width, height."""

    @classmethod
    def from_text(cls, text: str) -> Box:
        left, top, width, height = (int(number) for number in text.split(","))
        return cls((left, top, width, height))

    @property
    def polygon(self) -> tuple[float, ...]:
        left, top, width, height = self
        right, bottom = left + width, top + height
        return (left, top, right, top, right, bottom, left, bottom)


def overlaid(image: Image.Image, radians: float, boxes: list[Box]) -> Image.Image:
    """The picture, turned clockwise about its centre by `textAngle`, with what was found drawn on it."""
    picture = image.convert("RGB").rotate(-math.degrees(radians), Image.Resampling.BICUBIC, fillcolor="white")
    pen = ImageDraw.Draw(picture)
    for left, top, width, height in boxes:
        pen.rectangle((left, top, left + width, top + height), outline=(220, 30, 30), width=2)
    return picture


def in_the_frame_of(angle: float, page: PrintedPage) -> list[tuple[float, ...]]:
    """Where the words of a page are once it has been turned clockwise about its centre."""
    cosine, sine = math.cos(angle), math.sin(angle)
    cx, cy = (side / 2 for side in page.image.size)
    return [
        tuple(
            number
            for x, y in zip(word.polygon[::2], word.polygon[1::2], strict=True)
            for number in (cx + cosine * (x - cx) - sine * (y - cy), cy + sine * (x - cx) + cosine * (y - cy))
        )
        for word in page.words
    ]


@pytest.mark.parametrize("version", ["v3.2", "v2.1"])
@pytest.mark.parametrize("degrees", [0.0, 4.0, -7.0])
def test_requests_boxes_sit_on_the_words(service: Site, tmp_path: Path, version: str, degrees: float) -> None:
    page = turned(PAGE, degrees)
    answer = requests.post(
        f"{service.url}/vision/{version}/ocr",
        headers={"Ocp-Apim-Subscription-Key": "any", "Content-Type": "application/octet-stream"},
        params={"language": "unk", "detectOrientation": "true"},
        data=as_png(page),
        timeout=60,
    )
    answer.raise_for_status()
    analysis = answer.json()
    line_infos = [line for region in analysis["regions"] for line in region["lines"]]
    word_infos = [word for line in line_infos for word in line["words"]]
    assert [word["text"] for word in word_infos] == page.text.split()
    assert analysis["orientation"] == "Up"
    assert math.degrees(analysis["textAngle"]) == pytest.approx(-degrees, abs=0.5)

    boxes = [Box.from_text(word["boundingBox"]) for word in word_infos]
    picture = overlaid(page.image, analysis["textAngle"], boxes)
    picture.save(tmp_path / "overlay.png")
    for box, truth in zip(boxes, in_the_frame_of(analysis["textAngle"], page), strict=True):
        assert overlap(box.polygon, truth) > 0.5
    # No ink is left once everything inside the boxes is wiped off.
    pen = ImageDraw.Draw(picture)
    for left, top, width, height in boxes:
        pen.rectangle((left - 2, top - 2, left + width + 2, top + height + 2), fill="white")
    ink = sum(picture.convert("L").histogram()[:100])
    assert ink < 0.01 * sum(page.image.convert("L").histogram()[:100])


# ---- .NET: an id cut off by its length, and an answer that fits its types exactly -----------------------------------

EightNumbers = Annotated[list[float], msgspec.Meta(min_length=8, max_length=8)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Model(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What the generated classes are: nothing is missing, nothing is there besides."""


class Style(Model, kw_only=True):
    name: Literal["other", "handwriting"]
    confidence: Share


class Appearance(Model, kw_only=True):
    style: Style


class Word(Model, kw_only=True):
    bounding_box: EightNumbers
    text: str
    confidence: Share


class Line(Model, kw_only=True):
    language: str | None = None
    bounding_box: EightNumbers
    appearance: Appearance | None = None
    text: str
    words: Annotated[list[Word], msgspec.Meta(min_length=1)]


class ReadResult(Model, kw_only=True):
    page: int
    language: str | None = None
    angle: Annotated[float, msgspec.Meta(ge=-180, lt=180)]
    width: float
    height: float
    unit: Literal["pixel", "inch"]
    lines: list[Line]


class AnalyzeResults(Model, kw_only=True):
    version: str
    model_version: str
    read_results: list[ReadResult]


class ReadOperationResult(Model, kw_only=True):
    status: Literal["notStarted", "running", "failed", "succeeded"]
    created_date_time: datetime
    last_updated_date_time: datetime
    analyze_result: AnalyzeResults | None = None


class EarlyWord(Model, kw_only=True):
    bounding_box: EightNumbers
    text: str
    confidence: Literal["High", "Low"] | None = None


class EarlyLine(Model, kw_only=True):
    bounding_box: EightNumbers
    text: str
    words: list[EarlyWord]


class TextRecognitionResult(Model, kw_only=True):
    page: int
    clockwise_orientation: Annotated[float, msgspec.Meta(ge=0, lt=360)]
    width: float
    height: float
    unit: Literal["pixel", "inch"]
    lines: list[EarlyLine]


class EarlyOperationResult(Model, kw_only=True):
    status: Literal["NotStarted", "Running", "Failed", "Succeeded"]
    recognition_results: list[TextRecognitionResult] | None = None


def submitted_as_dotnet(service: Site, route: str) -> uuid.UUID:
    """Submit a stream; the operation's id, as the sample cuts it off."""
    answer = requests.post(
        service.url + route,
        data=as_png(PAGE),
        headers={"Content-Type": "application/octet-stream", "Ocp-Apim-Subscription-Key": "any"},
        timeout=30,
    )
    assert answer.status_code == 202
    characters = answer.headers["Operation-Location"][-36:]
    found = uuid.UUID(characters)
    assert str(found) == characters
    return found


def ended(address: str, model: type[Model], waiting: set[str]) -> Model:
    """Ask until the status says that it is over; every answer fits the model."""
    until = time.monotonic() + 60
    while True:
        answer = requests.get(address, timeout=30)
        assert answer.status_code == 200
        result = msgspec.json.decode(answer.content, type=model, strict=True)
        if vars_of(result)["status"] not in waiting:
            return result
        assert time.monotonic() < until
        time.sleep(0.1)


def vars_of(result: Model) -> dict[str, object]:
    return msgspec.structs.asdict(result)


def test_dotnet_takes_the_last_36_characters(service: Site) -> None:
    operation_id = submitted_as_dotnet(service, "/vision/v3.2/read/analyze")
    address = f"{service.url}/vision/v3.2/read/analyzeResults/{operation_id}"
    result = ended(address, ReadOperationResult, {"running", "notStarted"})
    assert isinstance(result, ReadOperationResult)
    assert result.status == "succeeded"
    assert result.created_date_time.utcoffset() == timedelta(0)
    assert result.analyze_result
    lines = [line.text for page in result.analyze_result.read_results for line in page.lines]
    assert character_error_rate(PAGE.text, "\n".join(lines)) < 0.02


def test_dotnet_of_2_1_compares_statuses_in_pascal_case(service: Site) -> None:
    operation_id = submitted_as_dotnet(service, "/vision/v2.1/read/core/asyncBatchAnalyze")
    address = f"{service.url}/vision/v2.1/read/operations/{operation_id}"
    result = ended(address, EarlyOperationResult, {"Running", "NotStarted"})
    assert isinstance(result, EarlyOperationResult)
    assert result.status == "Succeeded"
    lines = [line.text for page in result.recognition_results or [] for line in page.lines]
    assert character_error_rate(PAGE.text, "\n".join(lines)) < 0.02


# ---- a shell with curl ----------------------------------------------------------------------------------------------

SCRIPT = r"""
set -euo pipefail
location=$(curl -s -i -X POST "$SERVICE/vision/v3.2/read/analyze?language=en&readingOrder=natural" \
  -H "Ocp-Apim-Subscription-Key: $KEY" -H "Content-Type: application/octet-stream" --data-binary @page.png |
  grep -i '^operation-location:' | cut -d ' ' -f 2 | tr -d '\r')
for _ in $(seq 600); do
  curl -s "$location" -H "Ocp-Apim-Subscription-Key: $KEY" > result.json
  status=$(jq -r .status result.json)
  case $status in succeeded|failed) break ;; esac
  sleep 0.1
done
echo "$status"
jq -r '.analyzeResult.readResults[].lines[].text' result.json
"""


def test_shell_with_curl(service: Site, picture: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", SCRIPT],
        cwd=picture.parent,
        env={"PATH": "/usr/bin:/bin", "SERVICE": service.url, "KEY": "anything"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    status, _, text = done.stdout.partition("\n")
    assert status == "succeeded"
    assert character_error_rate(PAGE.text, text) < 0.02
