"""Other releases than the one that was built: the same wheels under another version, signed anew; some do not work."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from appliance.bundle import IMAGE, open_bundle
from licenses.keys import SigningKey, load_signing_key
from tests.appliance.engine import STORAGE
from tests.fakes.releases import packed, signed

BROKEN = "sidecar/web/server.py"
"""What the process of the API needs, and no command that only tells of itself."""


def release_key() -> SigningKey:
    """The key that signed the bundle of the session."""
    return load_signing_key(STORAGE / "vendor" / "release" / "evaluation-release.pem", "release")


class Releases:
    """Makes them of one bundle, without the image, which no installation reads.

    Args:
        bundle: The tar.
        folder: Where to work.
    """

    def __init__(self, bundle: Path, folder: Path) -> None:
        self._folder = folder
        self._manifest = open_bundle(bundle, None).manifest
        subprocess.run(["tar", "xf", bundle, "-C", folder, f"--exclude={IMAGE}"], check=True)
        self._root = folder / self._manifest.folder
        self._key = release_key()

    @property
    def version(self) -> str:
        """That of the product itself."""
        return self._manifest.version

    def make(self, version: str, *, works: bool = True, key: SigningKey | None = None) -> Path:
        """The tar of a release of this version."""
        root = self._folder / "next" / f"tollgate-{version}"
        shutil.copytree(self._root, root)
        (wheel,) = (root / "wheelhouse").glob("tollgate-*.whl")
        additions = {} if works else {BROKEN: b'\nraise RuntimeError("this release does not work")\n'}
        self._write_wheel(wheel, wheel.with_name(wheel.name.replace(self.version, version)), version, additions)
        manifest = signed(root, replace(self._manifest, version=version), key or self._key)
        tar = packed(root, manifest, self._folder / f"{manifest.folder}-x86_64.tar")
        shutil.rmtree(root)
        return tar

    def _write_wheel(self, source: Path, target: Path, version: str, additions: Mapping[str, bytes]) -> None:
        """The same wheel under another version."""
        old, new = self.version, version
        with zipfile.ZipFile(source) as wheel:
            contents = {name: wheel.read(name) for name in wheel.namelist()}
        source.unlink()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
            for name, content in contents.items():
                text = content + additions.get(name, b"")
                if name.endswith(("/METADATA", "/RECORD", "licenses/__init__.py", "sidecar/__init__.py")):
                    text = text.replace(old.encode(), new.encode())
                wheel.writestr(name.replace(f"tollgate-{old}", f"tollgate-{new}"), text)
