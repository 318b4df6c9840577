"""A signed bundle that holds a real image and little else."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import replace
from pathlib import Path

from appliance.bundle import IMAGE
from tests.appliance.engine import Engine
from tests.fakes.releases import MANIFEST, SigningKey, lay_out, packed, signed


def an_image_bundle(engine: Engine, image: str, key: SigningKey, path: Path) -> Path:
    """Save an image, pack it, sign it, and write the bundle's tar."""
    root = path.parent / MANIFEST.folder
    saved = path.parent / "saved.tar"
    saved.unlink(missing_ok=True)
    engine("save", "--format", "docker-archive", "--output", saved, image)
    lay_out(root, {"install.sh": b"#!/bin/sh\nexit 0\n"})
    with saved.open("rb") as source, gzip.open(root / IMAGE, "wb", compresslevel=1) as target:
        shutil.copyfileobj(source, target, 2**20)
    (root / IMAGE).chmod(0o644)
    saved.unlink()
    manifest = signed(root, replace(MANIFEST, image=image), key)
    packed(root, manifest, path)
    shutil.rmtree(root)
    return path
