"""The table of settings in docs/running.md, made from the settings themselves.

`python -m tests.settings_table` writes it anew; a test fails when the document says anything else.
"""

from __future__ import annotations

from pathlib import Path

from sidecar.settings import NOT_USED, described

DOCUMENT = Path(__file__).parents[1] / "docs" / "running.md"
BEGIN = "<!-- settings: written by python -m tests.settings_table -->\n"
END = "<!-- /settings -->\n"


def table() -> str:
    """What stands between the marks."""
    lines = ["| Setting | Default | Takes | Meaning |", "|---|---|---|---|"]
    for name, default, wants, meaning in described():
        lines.append(f"| `{name}` | {f'`{default}`' if default else ''} | {wants} | {meaning.replace('<', '&lt;')} |")
    lines += ["", "These are accepted with any value and have no effect; the log says so once at the start:", ""]
    lines += ["| Setting | Why it is not used here |", "|---|---|"]
    lines += [f"| `{one.name}` | {one.reason} |" for one in NOT_USED]
    return "\n".join(lines) + "\n"


def written() -> str:
    """What stands between them now."""
    return DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
