"""Releases in small: a folder of files, signed, and the tar of it. Real ones are signed anew with it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.bundle import member_of, write_tar
from appliance.release import MANIFEST_NAME, Manifest, ReleaseKey
from licenses.envelope import RELEASE_TYPE, seal
from licenses.keys import SigningKey, key_id_of


def signing_key(seed: int) -> SigningKey:
    """A release key that is the same in every run."""
    private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return SigningKey(key_id_of(private.public_key(), "release", evaluation=True), private)


KEY = signing_key(1)
OTHER_KEY = signing_key(2)


def public(key: SigningKey) -> ReleaseKey:
    return ReleaseKey(key.verifying.raw)


MANIFEST = Manifest(
    version="1.2.3",
    revision="c0ffee",
    machine="x86_64",
    python=(3, 11),
    glibc=(2, 28),
    installed_bytes=1000,
    image="localhost/tollgate:1.2.3",
    evaluation=True,
    key=public(KEY),
    members={},
)
LONG_NAME = f"wheelhouse/a_library-1.0-{'manylinux_2_28_x86_64.' * 4}whl"
FILES = {
    "checksums.txt": b"none here\n",
    "docs/appliance.md": b"# How to\n",
    "empty": b"",
    "install.sh": b"#!/bin/sh\nexit 0\n",
    "installer/appliance/__init__.py": b'"""Installs."""\n',
    LONG_NAME: b"PK" + bytes(700),
    "release-key.pem": b"a key\n",
    "requirements/run.txt": b"a-library==1.0\n",
    "systemd/ocr-sidecar.target": b"[Install]\nWantedBy=multi-user.target\n",
    "systemd/ocr-sidecar-web.service": b"[Service]\n",
    "systemd/sidecar.conf": b"# Accept the terms.\n#Eula = accept\nMounts:License = /etc/tollgate/license\n",
    "systemd/sysusers.conf": b"g nonroot 65532\n",
    "systemd/tmpfiles.conf": b"d /etc/tollgate 0755 root root -\n",
    "tessdata/eng.traineddata": b"a model",
    "trust-root.json": b"{}",
}


def lay_out(root: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a release below a folder."""
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o755 if path.endswith(".sh") else 0o644)


def signed(root: Path, manifest: Manifest = MANIFEST, key: SigningKey = KEY) -> Manifest:
    """Sign what lies in a folder, as it lies there now."""
    (root / MANIFEST_NAME).unlink(missing_ok=True)
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    named = replace(manifest, key=public(key), members={path: member_of(root, path) for path in paths})
    (root / MANIFEST_NAME).write_bytes(seal(named.to_payload(), RELEASE_TYPE, [key]))
    (root / MANIFEST_NAME).chmod(0o644)
    return named


def packed(root: Path, manifest: Manifest, tar: Path) -> Path:
    """The tar of a signed folder."""
    with tar.open("wb") as out:
        write_tar(out, root, manifest, (root / MANIFEST_NAME).read_bytes())
    return tar
