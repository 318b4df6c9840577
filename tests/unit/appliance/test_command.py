"""The command: who judges a bundle, and who installs it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance import command
from appliance.bundle import open_bundle
from appliance.places import Places
from appliance.system import System
from tests.fakes.releases import FILES, lay_out, signed

INSTALLER = b"""#!/bin/sh
here=$(dirname -- "$(readlink -f -- "$0")")
(cd "$here"; find . -type f; stat -c %a .) | sort > "$1/seen"
exit 7
"""


class NoExecuteSystem(System):
    """A machine of which no file below /run may be executed, as Debian mounts it."""

    def hand_over(self, *words: str | Path) -> int:
        for word in words:
            if isinstance(word, Path):
                word.chmod(0o644)
        return super().hand_over(*words)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places(tmp_path / "root")
    found.guests.mkdir(parents=True)
    return found


def hand_over(tmp_path: Path, places: Places, words: Sequence[str]) -> int:
    root = tmp_path / "bundle"
    lay_out(root, {**FILES, "install.sh": INSTALLER})
    signed(root)
    return command._hand_over(open_bundle(root, None), words, places, NoExecuteSystem())


def test_a_bundle_is_installed_by_its_own_installer_though_nothing_may_be_executed(
    tmp_path: Path, places: Places
) -> None:
    assert hand_over(tmp_path, places, [str(tmp_path)]) == 7
    seen = (tmp_path / "seen").read_text().split()
    assert seen == ["./checksums.txt", "./install.sh", "./installer/appliance/__init__.py", "700"]
    assert list(places.guests.iterdir()) == []


def test_two_at_once_have_a_folder_each(tmp_path: Path, places: Places) -> None:
    other = places.guests / "tollgate-installer-other"
    other.mkdir()
    hand_over(tmp_path, places, [str(tmp_path)])
    assert os.listdir(places.guests) == [other.name]
