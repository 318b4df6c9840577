"""One family of errors for the sidecar.

Invariant: every failure that may leave a use case is a `SidecarError` with a stable `code`, a cause (its text) and a
`next_step` a person can take. Nothing here knows HTTP; `sidecar.web.errors` maps the family in one table, and a test
walks `__subclasses__()` so that none is forgotten.
"""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path
from typing import ClassVar


class SidecarError(Exception):
    """Root of the family.

    Attributes:
        code: Stable word for machines; added, never renamed.
        next_step: What a person can do about it.
    """

    code: ClassVar[str] = "sidecar"

    def __init__(self, cause: str, *, next_step: str = "") -> None:
        super().__init__(cause)
        self.next_step = next_step


class SettingsError(SidecarError):
    """A setting that cannot be used; the process must not start (exit code 65, or 64 for the EULA)."""

    code = "bad_setting"

    def __init__(self, cause: str, *, next_step: str = "", exit_code: int = 65) -> None:
        super().__init__(cause, next_step=next_step)
        self.exit_code = exit_code


class LedgerUnavailableError(SidecarError):
    """The ledger could not be read or written; nothing was recorded."""

    code = "ledger_unavailable"


class LedgerConflictError(SidecarError):
    """The same event id came back with other content; nothing was recorded."""

    code = "event_conflict"


class ClockRefusedError(SidecarError):
    """The clock may not be accepted or set back so."""

    code = "clock_refused"


class NothingToExportError(SidecarError):
    """There is no usage to carry out, or none from the entry asked for."""

    code = "nothing_to_export"


class AckRefusedError(SidecarError):
    """The vendor's acknowledgement does not count here; nothing was changed."""

    code = "ack_refused"


class LedgerForkError(SidecarError):
    """The vendor acknowledged another history than the ledger's: one of the two was rolled back or copied.

    Attributes:
        proof: Where the portable proof lies; None when it could not be made or written.
    """

    code = "ledger_fork"

    def __init__(self, cause: str, *, next_step: str = "", proof: Path | None = None) -> None:
        super().__init__(cause, next_step=next_step)
        self.proof = proof


class BillingError(SidecarError):
    """The billing endpoint cannot be reached, or refuses.

    Attributes:
        status: Word of contract B.3, such as `CouldNotConnect`.
        retry_after: Seconds after which the endpoint wants to be asked again; None where it did not say.
        http_status: What it answered; 0 when there was no answer.
        refusal: Its own name for the refusal, such as `ledger_fork`; empty where it did not say.
        proof: The proof of a fork that it sent along, not verified; None for none.
    """

    code = "billing"

    def __init__(
        self,
        status: str,
        cause: str,
        *,
        next_step: str = "",
        retry_after: int | None = None,
        http_status: int = 0,
        refusal: str = "",
        proof: bytes | None = None,
    ) -> None:
        super().__init__(cause, next_step=next_step)
        self.status = status
        self.retry_after = retry_after
        self.http_status = http_status
        self.refusal = refusal
        self.proof = proof


class LicenseDownloadError(SidecarError):
    """The licence could not be fetched into the licence folder.

    Attributes:
        exit_code: Exit code of contract H16.
    """

    code = "license_download"

    def __init__(self, cause: str, *, next_step: str = "", exit_code: int = 78) -> None:
        super().__init__(cause, next_step=next_step)
        self.exit_code = exit_code


class DeployError(SidecarError):
    """`sidecar deploy` could not do what was asked; what stands is as the text tells.

    Attributes:
        reason: Stable word for machines, such as `engine_unreachable`; added, never renamed.
        exit_code: Exit code of contract H16.
    """

    code = "deploy"

    def __init__(self, reason: str, cause: str, *, next_step: str = "", exit_code: int = 69) -> None:
        super().__init__(cause, next_step=next_step)
        self.reason = reason
        self.exit_code = exit_code


class MeterAlreadyRunningError(SidecarError):
    """Another meter holds the lock of this state directory."""

    code = "meter_already_running"


class OutputUnwritableError(SidecarError):
    """A record file could not be made durable on the output mount; the use stays pending in the ledger."""

    code = "output_unwritable"


class SpoolUnavailableError(SidecarError):
    """The spool (`Mounts:Shared`) could not be read or written."""

    code = "spool_unavailable"


class QueueFullError(SidecarError):
    """More operations wait than the spool may hold; the caller should come back later."""

    code = "queue_full"


class OperationNotFoundError(SidecarError):
    """No operation of that id: never made, expired, or deleted."""

    code = "operation_not_found"


class DocumentRefusedError(SidecarError):
    """The document or a parameter of the request is at fault.

    Attributes:
        reason: Error code of contract E.1.4, such as `InvalidImage`.
    """

    code = "document_refused"

    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(cause)
        self.reason = reason


class CoreUnavailableError(SidecarError):
    """The core did not answer, died in the middle of a page, or answered nonsense."""

    code = "core_unavailable"


class CoreDownError(CoreUnavailableError):
    """The core's socket cannot be reached: nothing was tried, and waiting for its restart loses nothing."""

    code = "core_down"


class CoreTimeoutError(CoreUnavailableError):
    """The core did not finish within the time limit; trying the same bytes again would only cost as much again."""

    code = "core_timeout"


class CoreBusyError(CoreUnavailableError):
    """The core had no processor or no memory left for the document; nothing was found out about it."""

    code = "core_busy"


class SlowDocumentError(SidecarError):
    """The core was not given the time that the document takes to decode; it may be asked again, patiently."""

    code = "slow_document"


class CoreRefusedError(SidecarError):
    """The core will not work: no lease, no licence, or a processor it cannot run on.

    Attributes:
        reason: The core's own code: `LeaseRefused`, `LicenseRefused` or `CpuUnsupported`.
    """

    code = "core_refused"

    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(cause)
        self.reason = reason


class RecognitionError(SidecarError):
    """The engine failed on a page that was well-formed; the page is not counted."""

    code = "recognition_failed"


def unwritable(exc: OSError, path: Path) -> OutputUnwritableError:
    """Say what is wrong with `path` in words that an operator can act on: path, uid wanted, the command to run."""
    uid, gid = os.geteuid(), os.getegid()
    name = errno.errorcode.get(exc.errno or 0, "EIO")
    shown = Path(os.fsdecode(exc.filename)) if exc.filename else path
    quoted = shlex.quote(str(path))
    give = f"run 'chown -R {uid}:{gid} {quoted} && chmod u+rwx {quoted}' on the host; the service runs as {uid}:{gid}"
    steps = {
        "EACCES": give,
        "EPERM": give,
        "ENOENT": f"mount a folder at {path} (setting Mounts:Output) that belongs to {uid}:{gid}",
        "ENOTDIR": f"{path} must be a folder; mount one there (setting Mounts:Output) that belongs to {uid}:{gid}",
        "ENOSPC": f"free space on the file system that holds {path}; nothing has to be deleted from the records",
        "EDQUOT": f"raise the disk quota of uid {uid} on the file system that holds {path}",
        "EROFS": f"mount {path} read-write",
    }
    step = steps.get(name, f"check the disk behind {path} (dmesg), then its owner: wanted {uid}:{gid}")
    return OutputUnwritableError(f"{shown}: {exc.strerror or exc} ({name})", next_step=step)
