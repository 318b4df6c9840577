"""What is read here: a page, JSON, a command, and that docs/running.md is right about them."""

from __future__ import annotations

import json
from pathlib import Path

import requests

from tests.docs import PROJECT, run_document
from tests.e2e.site import Site, command


def test_the_page_lists_what_is_read_and_how_to_add_more(service: Site) -> None:
    page = service.get("/languages").text
    for told in (
        "German",
        "<code>de</code>",
        "zh-Hans",
        "tesseract-ocr-script-cyrl",
        "apt-get download",
        "Restart the core",
        "stands in",
    ):
        assert told in page
    assert 'href="./languages"' in service.get("/").text


def test_json_lists_every_language_with_its_model(service: Site) -> None:
    told = service.get("/languages.json").json()
    assert told == requests.get(f"{service.url}/languages", headers={"Accept": "application/json"}, timeout=10).json()
    assert told["coreAnswers"] is True
    assert {"eng", "deu"} <= set(told["models"])
    assert (told["defaultModels"], told["detects"]) == (["eng"], True)
    by_code = {one["code"]: one for one in told["languages"]}
    assert len(by_code) == 170
    assert by_code["de"]["servedBy"] == "deu"
    assert by_code["kpy"] == {
        "code": "kpy", "name": "Koryak", "servedBy": None,
        "ownModel": "script/Cyrillic", "debianPackage": "tesseract-ocr-script-cyrl",
    }  # fmt: skip


def test_the_command_says_the_same_and_says_when_it_cannot(service: Site, tmp_path: Path) -> None:
    done = command("sidecar", "languages", "--json", *service.words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == service.get("/languages.json").json()
    nobody = command("sidecar", "languages", f"Sidecar:CoreSocket={tmp_path / 'no.sock'}")
    assert (nobody.returncode, nobody.stdout) == (69, "")
    assert "the core's to say, and it does not answer" in nobody.stderr
    assert "Next step: start the service" in nobody.stderr


def test_running_md_is_right(service: Site, tmp_path: Path) -> None:
    environment = {"Sidecar__CoreSocket": str(service.folder / "core.sock")}
    assert run_document(PROJECT / "docs" / "running.md", tmp_path, environment=environment) >= 2
