"""Runs the commands that a document shows, and compares what they print with what the document says they print.

A block marked ```console is run from top to bottom:

* `$ COMMAND` is run with bash in one folder shared by all blocks; a backslash at the end of a line continues it. It
  must end with exit code 0; to show another, write `COMMAND; echo "exit code $?"`.
* `box# COMMAND` and `client$ COMMAND` are run on the machine of that name, where the test has one.
* Lines below are what it prints, on both channels together, in order. `…` stands for any text within a line; a line of
  `…` alone stands for any number of lines, also none. Without such lines the output is not compared.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[1]

Run = Callable[[str], "subprocess.CompletedProcess[str]"]
"""Runs a command with bash; both channels together are its standard output."""

_PROMPT = re.compile(r"(?:\$|([a-z]+)[$#]) ")
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """One command of a document.

    Attributes:
        line: Where it stands, from 1.
        command: What to run.
        expected: What it prints; empty when the document does not say.
        place: The machine that it is run on; empty for this one.
    """

    line: int
    command: str
    expected: tuple[str, ...]
    place: str = ""


def steps(text: str) -> list[Step]:
    """The commands of a document, in order."""
    found: list[Step] = []
    for block in _BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1)) + 1
        lines = block[1].splitlines()
        number = 0
        while number < len(lines):
            line = first + number
            prompt = _PROMPT.match(lines[number])
            assert prompt, f"line {line}: a block begins with a command"
            command = lines[number][prompt.end() :]
            while command.endswith("\\"):
                number += 1
                command += "\n" + lines[number]
            number += 1
            start = number
            while number < len(lines) and not _PROMPT.match(lines[number]):
                number += 1
            found.append(Step(line, command, tuple(filter(None, lines[start:number])), prompt[1] or ""))
    return found


def prints(expected: Sequence[str], printed: str) -> bool:
    """Whether a command printed what the document says."""
    pattern = ""
    for line in expected:
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part) for part in line.rstrip().split("…")) + r"[ \t]*\n"
    lines = [line for line in printed.splitlines() if line.strip()]
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None


def run_document(
    path: Path,
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    elsewhere: Mapping[str, Run] | None = None,
) -> int:
    """Run every command of a document in `folder`, with the installed commands first on the path.

    Args:
        path: The document.
        folder: An empty folder, the working directory of all commands.
        environment: Further variables.
        elsewhere: The machines that the document names.

    Returns:
        How many commands were run.
    """
    found = steps(path.read_text(encoding="utf-8"))
    variables = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "LC_ALL": "C.UTF-8",
        **(environment or {}),
    }

    def here(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )

    places: Mapping[str, Run] = {"": here, **(elsewhere or {})}
    for step in found:
        done = places[step.place](step.command)
        where = f"{path.name}, line {step.line}: {step.command}"
        assert done.returncode == 0, f"{where}\nended with {done.returncode}:\n{done.stdout}"
        if step.expected:
            said = "\n".join(step.expected)
            assert prints(step.expected, done.stdout), f"{where}\nsaid:\n{said}\nprinted:\n{done.stdout}"
    return len(found)
