"""The image that a service is to run: found in the engine, or loaded from a bundle that was verified.

Invariants:

* Nothing is ever fetched from a registry.
* Where a key is trusted, by a person or by the service there is, no archive without its signature is taken.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sidecar.deploy.archive import open_archive
from sidecar.deploy.console import Console
from sidecar.deploy.engine import Engine
from sidecar.deploy.plan import EXIT_DATA, EXIT_USAGE, Image, Plan
from sidecar.errors import DeployError


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the image comes from; nothing given means the one that runs.

    Attributes:
        archive: A bundle, its folder, or an archive of images.
        reference: An image that the engine has.
        trusted: Fingerprints of release keys to believe; None takes the one of the bundle before, or at first any.
    """

    archive: Path | None = None
    reference: str | None = None
    trusted: Collection[str] | None = None


class Images:
    """The images of one engine.

    Args:
        engine: The engine.
        console: The person at the command.
    """

    def __init__(self, engine: Engine, console: Console) -> None:
        self._engine = engine
        self._console = console

    def take(self, source: Source, before: Plan | None) -> tuple[Image, str]:
        """The image to run, loaded where it has to be, and the key that signed its bundle.

        Args:
            source: Where it comes from.
            before: The service there is.

        Raises:
            DeployError: There is none, or it is not to be believed.
        """
        if source.archive is not None:
            return self._loaded(source.archive, source, before)
        reference = source.reference or (before.image_id if before else "")
        if not reference:
            step = "add --bundle PATH, or --image NAME for an image that the engine has already"
            raise DeployError("usage", "no image was given", next_step=step, exit_code=EXIT_USAGE)
        image = self._engine.image(reference)
        if image is None:
            step = "load it with --bundle PATH; nothing is ever fetched from a registry"
            raise DeployError("image_missing", f"the engine has no image {reference}", next_step=step)
        if source.reference is None and before is not None:
            return Image(
                id=image.id, reference=before.reference, architecture=image.architecture, version=image.version
            ), ""
        return image, ""

    def _loaded(self, path: Path, source: Source, before: Plan | None) -> tuple[Image, str]:
        trusted = source.trusted
        if trusted is None and before is not None and before.release_key:
            trusted = {before.release_key}
        with open_archive(
            path, trusted, lambda done, whole: self._console.progress(f"checking {path.name}", done, whole)
        ) as one:
            if one.release_key:
                first = trusted is None
                self._console.tell(
                    f"{path.name}: release {one.version}, all as it was signed by the key {one.release_key[:16]}…"
                    + (" (believed from now on; compare it with what the vendor published)" if first else "")
                )
            elif trusted is not None:
                raise DeployError(
                    "release_unsigned",
                    f"{path} is signed by nobody, and {' or '.join(sorted(trusted))} is trusted here",
                    next_step="give the vendor's signed bundle; to take an image on your own word, load it into the "
                    "engine and name it with --image",
                    exit_code=EXIT_DATA,
                )
            else:
                self._console.tell(f"{path.name}: an image without a signature; it is taken as it is.")
            image = self._engine.image(one.image_id) if one.image_id else None
            if image is None:
                self._console.wait("loading the image into the engine")
                images = self._engine.load(one.stream)
                if len(images) != 1:
                    step = "give an archive of one image, as the bundle's"
                    cause = f"{path} holds {len(images)} images"
                    raise DeployError("image_ambiguous", cause, next_step=step, exit_code=EXIT_DATA)
                (image,) = images
            release_key, reference = one.release_key, one.reference
        if reference and self._named(reference) == image.id:
            image = Image(id=image.id, reference=reference, architecture=image.architecture, version=image.version)
        return image, release_key

    def _named(self, reference: str) -> str:
        image = self._engine.image(reference)
        return "" if image is None else image.id
