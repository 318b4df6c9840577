"""docs/compatibility.md: its programs run, its tables are what the application says, and the tests it names exist."""

from __future__ import annotations

import ast
import base64
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.core_client import DocumentRules
from sidecar.web.openapi import operations
from tests.docs import PROJECT
from tests.e2e.browser import Browser
from tests.e2e.site import Site
from tests.integration.sidecar.test_openapi import APP, routed
from tests.pages import LINES, as_png, character_error_rate, printed_page

TEXT = (PROJECT / "docs" / "compatibility.md").read_text(encoding="utf-8")
PAGE = printed_page(LINES[:3], size=(1240, 500))
BODIES = {"ErrorBody": "wrapped", "FlatError": "flat", "NestedError": "nested"}


def section(title: str) -> str:
    return re.split(r"^## ", TEXT, flags=re.MULTILINE)[[part.splitlines()[0] for part in sections()].index(title) + 1]


def sections() -> list[str]:
    return re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]


def table(title: str) -> list[list[str]]:
    """The cells of the table of a section, its head first."""
    rows = [line for line in section(title).splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


# ---- the programs ---------------------------------------------------------------------------------------------------


def blocks(language: str, service: Site) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    return [block.replace("http://ocr.example:5000", service.url) for block in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "page.png").write_bytes(as_png(PAGE))
    return tmp_path


@pytest.mark.parametrize("number", [0, 1])
def test_python(service: Site, folder: Path, number: int) -> None:
    program = blocks("python", service)[number]
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert character_error_rate(PAGE.text, done.stdout) < 0.02


def test_shell(service: Site, folder: Path) -> None:
    (script,) = blocks("sh", service)
    done = subprocess.run(["bash", "-euc", script], cwd=folder, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert character_error_rate(PAGE.text, done.stdout) < 0.02


def test_javascript(service: Site, browser: Browser) -> None:
    (program,) = blocks("js", service)
    browser.open(f"{service.url}/status")
    read = browser.driver.execute_async_script(
        program
        + """
        const [data, done] = arguments;
        const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
        read(new File([bytes], "page.png")).then(done, error => done(String(error)));
        """,
        base64.b64encode(as_png(PAGE)).decode(),
    )
    assert character_error_rate(PAGE.text, read) < 0.02


# ---- the tables -----------------------------------------------------------------------------------------------------


def test_every_route_is_in_the_table_and_nothing_else_is() -> None:
    told = set()
    for route, versions, *_ in table("Routes")[1:]:
        method, path = route.strip("`").split()
        for version in re.findall(r"`([^`]+)`", versions) or [""]:
            told.add((method, path.replace("VERSION", version).rstrip("/")))
    assert told == routed()


def test_tests_that_are_named_exist() -> None:
    here = {
        node.name
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 30
    assert named <= here, named - here
    files = set(re.findall(r"\b(test_\w+\.py)\b", TEXT))
    assert files <= {path.name for path in Path(__file__).parent.iterdir()}


def test_twelve_checks_have_a_test_each() -> None:
    rows = table("Twelve shape checks")[1:]
    assert [re.search(r"test_check_(\d\d)", row[1])[1] for row in rows] == [f"{n:02}" for n in range(1, 13)]  # type: ignore[index]


def limits(rules: DocumentRules) -> list[str]:
    paged = {"pdf", "tiff"} & set(rules.formats)
    return [
        " ".join(one.upper() for one in rules.formats),
        f"{rules.max_bytes:,}",
        f"{rules.min_side} to {rules.max_side:,}",
        f"{rules.max_pages:,}" if paged else "1",
        f"{rules.max_sheet_inches:g}" if rules.max_sheet_inches else "any",
    ]


def test_limits_are_those_of_the_routes() -> None:
    ours = {tuple(limits(one.description.takes)) for one in operations(APP) if one.description.takes}
    told = {tuple(row[1:]) for row in table("Limits")[1:]}
    assert {row[:3] for row in told} == {row[:3] for row in ours}
    assert told == {
        (*row[:3], "1, the first", row[4]) if "WEBP" in row[0] else row for row in ours
    }  # Image Analysis looks at the first picture of a TIFF document


def test_error_codes_are_those_of_the_dialects() -> None:
    head, *rows = table("Errors")
    of_column = {
        "Read 3.2": ["read_v3_2"],
        "Read 3.2-preview.1, 3.2-preview.2, 3.1-preview.2": [
            "read_v3_2-preview_1",
            "read_v3_2-preview_2",
            "read_v3_1-preview_2",
        ],
        "Read 3.1, 3.0, 3.0-preview, 2.1, 2.0": [
            "read_v3_1",
            "read_v3_0",
            "read_v3_0-preview",
            "read_v2_1",
            "read_v2_0",
        ],
        "`/ocr` 3.2": ["ocr_v3_2"],
        "`/ocr` 3.1 and earlier": ["ocr_v3_1", "ocr_v3_0", "ocr_v2_1", "ocr_v2_0"],
        "Image Analysis 4.0": ["image_analysis"],
    }
    assert head[1:] == list(of_column)
    dialects = APP.extensions["sidecar.dialects"]
    assert sorted(name for names in of_column.values() for name in names) == sorted(dialects)
    models = {one.description.document.name: one.error.__name__ for one in operations(APP)}
    for number, names in enumerate(of_column.values(), start=1):
        for name in names:
            for cause, *codes in rows[1:]:
                neutral = codes[0].strip("`")
                if (cause, name) == ("an empty body", "image_analysis"):
                    neutral = "InvalidImageSize"  # that route looks at the length itself
                assert codes[number - 1] in {f"`{dialects[name].codes.get(neutral, neutral)}`", "\N{EN DASH}"}
            kind, _, version = name.partition("_")
            where = f"vision-{version.replace('_', '.')}-{kind}" if kind != "image" else "imageanalysis-2024-02-01"
            assert BODIES[models[where]] == rows[0][number]
