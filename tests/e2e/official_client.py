"""The steps of the vendor's sample programs, with whichever release of the official client is on the path.

usage: official_client.py URL PICTURE -- prints what the client got as one line of JSON.

Only methods of the client are called, so that the test sees what an application would see.
"""

import inspect
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from azure.cognitiveservices.vision.computervision import ComputerVisionClient
from msrest.authentication import CognitiveServicesCredentials

SECONDS = 120


def ended(fetch: Callable[[str], Any], started: Any) -> Any:
    """Poll as the samples do: the id is what stands after the last slash, the words of the status are compared."""
    operation_id = started.headers["Operation-Location"].split("/")[-1]
    until = time.monotonic() + SECONDS
    while True:
        result = fetch(operation_id)
        status = getattr(result.status, "value", result.status)
        if status.lower().replace(" ", "") not in {"notstarted", "running"}:
            return result
        if time.monotonic() > until:
            raise TimeoutError(operation_id)
        time.sleep(0.2)


def text_of(lines: Any) -> str:
    return "\n".join(" ".join(word.text for word in line.words) for line in lines)


def read(client: Any, path: str) -> dict[str, Any]:
    """Read from a stream, in the words of 3.x or of 2.x, and the text of a picture where the release has that."""
    told: dict[str, Any] = {}
    with open(path, "rb") as picture:
        if hasattr(client, "read_in_stream"):
            result = ended(client.get_read_result, client.read_in_stream(picture, raw=True))
            (page,) = result.analyze_result.read_results
            told["read"] = text_of(page.lines)
            told["status"] = result.status.value
            told["turn"] = page.angle
            told["confidence"] = page.lines[0].words[0].confidence
            told["version"] = result.analyze_result.version
            told["model_version"] = getattr(result.analyze_result, "model_version", None)
        else:
            # The release that had it first asks for a mode.
            wanted = inspect.signature(client.batch_read_file_in_stream).parameters
            mode = {"mode": "Printed"} if "mode" in wanted else {}
            result = ended(
                client.get_read_operation_result, client.batch_read_file_in_stream(picture, raw=True, **mode)
            )
            (page,) = result.recognition_results
            told["read"] = text_of(page.lines)
            told["status"] = result.status.value
            told["turn"] = page.clockwise_orientation
            told["confidence"] = getattr(page.lines[0].words[0].confidence, "value", None)
        told["size"] = [page.page, page.width, page.height, page.unit.value]
    if hasattr(client, "recognize_text_in_stream"):
        with open(path, "rb") as picture:
            result = ended(
                client.get_text_operation_result, client.recognize_text_in_stream(picture, mode="Printed", raw=True)
            )
            told["text"] = text_of(result.recognition_result.lines)
    return told


def recognize_printed_text(client: Any, path: str) -> str:
    with open(path, "rb") as picture:
        result = client.recognize_printed_text_in_stream(picture)
    return text_of(line for region in result.regions for line in region.lines)


def refusal(client: Any) -> str:
    """What the client says of an operation that is not there."""
    fetch = getattr(client, "get_read_result", None) or client.get_read_operation_result
    try:
        fetch("00000000-0000-4000-8000-000000000000")
    except Exception as exc:  # noqa: BLE001 - each release has its own
        return f"{type(exc).__name__}: {exc}"
    return ""


def main(url: str, path: str) -> None:
    client = ComputerVisionClient(url, CognitiveServicesCredentials("any key"))
    told = read(client, path)
    told["printed"] = recognize_printed_text(client, path)
    told["refusal"] = refusal(client)
    print(json.dumps(told))  # noqa: T201 - the answer to the test


if __name__ == "__main__":
    main(*sys.argv[1:])
