"""What is in the tree is in the wheel, and so in the image and in every installation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
ROOMS = ("appliance", "licenses", "ocr_core", "sidecar")
ASK = """
import os
from setuptools import Distribution
project = Distribution({"script_name": "setup.py"})
project.parse_config_files(["pyproject.toml"])
wheel = project.get_command_obj("build_py")
wheel.ensure_finalized()
for path in wheel.get_outputs(include_bytecode=False):
    print(os.path.relpath(path, wheel.build_lib))
"""


def test_every_file_is_in_the_wheel() -> None:
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    in_tree = {
        str(path.relative_to(PROJECT))
        for room in ROOMS
        for path in (PROJECT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert in_tree == set(told.stdout.splitlines())
