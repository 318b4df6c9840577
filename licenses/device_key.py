"""The meter's own key: made at the first start, held by the meter alone, known to others by its public half.

Invariants:

* `device.key` is readable by the service user only and is never replaced; `device.pub` is for everyone.
* Two processes that start at once end up with the same key.
* A lost private key is not silently made anew: the identity of the meter would change under its records.
"""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from licenses import durable
from licenses.errors import FormatError, KeyFileError
from licenses.keys import (
    KeyId,
    SigningKey,
    VerifyingKey,
    load_handed_over_key,
    load_public_key,
    load_signing_key,
    public_pem,
    read_small_file,
)

PRIVATE_NAME = "device.key"
PUBLIC_NAME = "device.pub"
CREDENTIAL_NAME = "tollgate.device-key"
ROLE = "device"


def device_id_of(public_raw: bytes) -> str:
    """The 16 hexadecimal digits that name a device in record origins."""
    return hashlib.sha256(public_raw).hexdigest()[:16]


def instance_id_of(public_raw: bytes) -> str:
    """The 12 hexadecimal digits that name an instance in output folders."""
    return hashlib.sha256(public_raw).hexdigest()[:12]


def handed_over_key(environ: Mapping[str, str]) -> Path | None:
    """Where the service manager put the device key, when it hands over credentials.

    Args:
        environ: This process's environment.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) / CREDENTIAL_NAME if folder else None


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """The key of one appliance.

    Attributes:
        signing_key: Signs leases and checkpoints.
    """

    signing_key: SigningKey

    @classmethod
    def load_or_create(
        cls, state_directory: Path, *, private_directory: Path | None = None, handed_over: Path | None = None
    ) -> "DeviceKey":
        """Read the key of this state directory, or make it when there never was one.

        Args:
            state_directory: Where the two files lie.
            private_directory: Where the private one lies instead.
            handed_over: Where the service manager put the private key, when the state directory does not hold it.

        Raises:
            KeyFileError: The directory or a key file cannot be used; the next step names the commands to run.
            FormatError: A key file holds something else.
        """
        private_path = (private_directory or state_directory) / PRIVATE_NAME
        public_path = state_directory / PUBLIC_NAME
        try:
            # Where nothing is handed over, the service manager may leave an empty folder that only root can look into.
            if handed_over is not None and os.path.exists(handed_over):
                key = cls(load_handed_over_key(handed_over, ROLE))
                key._publish(public_path)
                return key
            # In this order: whoever makes a key names the private file before the public one.
            if public_path.exists() and not private_path.exists():
                raise KeyFileError(
                    f"{private_path} is gone, but {public_path} is still there",
                    path=private_path,
                    next_step=f"Restore {PRIVATE_NAME} from the backup. Only to begin anew as another device, move "
                    f"{PUBLIC_NAME} to a safe place first: the auditor needs it for the records made so far.",
                )
            if not private_path.exists():
                with contextlib.suppress(FileExistsError):
                    pem = SigningKey.generate(ROLE).to_pem()
                    durable.write_file(private_path, [pem], mode=0o400, overwrite=False)
            key = cls(load_signing_key(private_path, ROLE))
            key._publish(public_path)
        except OSError as exc:
            raise KeyFileError.from_os_error(
                exc, private_path.parent, doing="keep the device key in the state directory", mode="u+rwx"
            ) from exc
        return key

    @classmethod
    def load(cls, private_directory: Path, *, handed_over: Path | None = None) -> "DeviceKey":
        """Read the key of this folder; none is made.

        Args:
            private_directory: Where the private half lies.
            handed_over: Where the service manager put it, when it is not there.

        Raises:
            KeyFileError: It is not there (the meter makes it at its first start), cannot be read, or is open to others.
            FormatError: The file holds something else.
        """
        if handed_over is not None and handed_over.exists():
            return cls(load_handed_over_key(handed_over, ROLE))
        return cls(load_signing_key(private_directory / PRIVATE_NAME, ROLE))

    @property
    def key_id(self) -> KeyId:
        """The id under which the key signs."""
        return self.signing_key.key_id

    @property
    def verifying_key(self) -> VerifyingKey:
        """The public half."""
        return self.signing_key.verifying

    @property
    def public_raw(self) -> bytes:
        """The 32 public bytes."""
        return self.verifying_key.raw

    @property
    def device_id(self) -> str:
        """16 hexadecimal digits: the last part of the record origin."""
        return device_id_of(self.public_raw)

    @property
    def instance_id(self) -> str:
        """12 hexadecimal digits: the folder name on the output mount."""
        return instance_id_of(self.public_raw)

    def publish(self, folder: Path) -> None:
        """Put the public half into another folder too, for those who may not look into the state directory.

        Raises:
            KeyFileError: The folder cannot be used; the next step names the commands to run.
        """
        pem, path = public_pem(self.verifying_key.public), folder / PUBLIC_NAME
        try:
            if not path.exists() or path.read_bytes() != pem:
                durable.write_file(path, [pem], mode=0o444, overwrite=True)
        except OSError as exc:
            raise KeyFileError.from_os_error(
                exc, folder, doing="publish the device's public key", mode="u+rwx"
            ) from exc

    def _publish(self, public_path: Path) -> None:
        pem = public_pem(self.verifying_key.public)
        if public_path.exists():
            if read_small_file(public_path, doing="read the device's public key", mode="0444") == pem:
                return
            raise FormatError(
                f"{public_path} is not the public half of {PRIVATE_NAME} beside it",
                next_step=f"One of them was exchanged. Restore both from one backup, or move {PUBLIC_NAME} aside.",
            )
        with contextlib.suppress(FileExistsError):
            durable.write_file(public_path, [pem], mode=0o444, overwrite=False)


def load_device_public(state_directory: Path) -> VerifyingKey:
    """The public half, for processes that may never open the private one.

    Raises:
        KeyFileError: It is not there (the meter makes it at its first start) or cannot be read.
        FormatError: It is not a public key.
    """
    return load_public_key(state_directory / PUBLIC_NAME, ROLE)
