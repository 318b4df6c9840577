"""What the package promises: it runs where a bare Debian's Python is and nothing else, and tells every failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import appliance
from appliance import errors

FOLDER = Path(appliance.__file__).parent
ASK = """
import sys
sys.path.insert(0, sys.argv[1])
import appliance.command
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_it_needs_the_standard_library_alone() -> None:
    bare = [sys.executable, "-I", "-S", "-B", "-c"]  # without site-packages, as install.sh finds it
    told = subprocess.run([*bare, ASK, str(FOLDER.parent)], capture_output=True, text=True, check=True)
    assert set(told.stdout.split()) <= set(sys.stdlib_module_names) | {"__main__", "appliance"}


def family(error: type[errors.InstallError]) -> list[type[errors.InstallError]]:
    return [error, *(deeper for child in error.__subclasses__() for deeper in family(child))]


def test_every_error_has_a_name_of_its_own_and_a_next_step() -> None:
    everything = family(errors.InstallError)
    names = [error.code for error in everything]
    assert len(set(names)) == len(names)
    assert all(error("cause").next_step.endswith((".", "…")) for error in everything)
