"""The one family of errors that this package raises to its callers.

Invariants:

* Every failure that outside bytes, files or arguments can cause is a `LicensesError`; nothing else may escape.
* `code` is wire format: it may be added to, never renamed.
* `str(error)` is the cause, `next_step` is what a person can do about it; neither ever holds key material.
"""

import os
import shlex
from pathlib import Path
from typing import ClassVar, Self


class LicensesError(Exception):
    """The root of the family.

    Attributes:
        code: Stable name of the kind of failure, for machines.
        next_step: What a person can do, as one or two sentences.
    """

    code: ClassVar[str] = "licenses"
    usual_step: ClassVar[str] = "Report this to the vendor together with the message."

    def __init__(self, cause: str, *, next_step: str | None = None) -> None:
        super().__init__(cause)
        self.next_step = self.usual_step if next_step is None else next_step


class FormatError(LicensesError):
    """The bytes are not what they should be: truncated, edited, or another kind of file."""

    code = "license_format"
    usual_step = (
        "Copy the file again from where the vendor delivered it, in binary mode and without opening it in an editor."
    )


class UntrustedKeyError(LicensesError):
    """The bytes are signed, but by nobody whom the trust root knows."""

    code = "untrusted_key"
    usual_step = (
        "Check that the file and the trust root come from the same vendor; 'licenses inspect FILE' shows who signed."
    )


class BadSignatureError(LicensesError):
    """A known key's signature does not fit the bytes, or too few keys signed."""

    code = "bad_signature"
    usual_step = (
        "The file was changed after it was signed: fetch the original again, or ask the vendor to issue it anew."
    )


class RevokedKeyError(UntrustedKeyError):
    """The bytes are signed by a key that the vendor has taken back."""

    code = "revoked_key"
    usual_step = "Ask the vendor for the same file, signed anew with a key that is still good."


class UnsupportedKeyError(LicensesError):
    """A key is of an algorithm that this installation cannot use."""

    code = "unsupported_key"
    usual_step = (
        "Install the product's own packages (make run, the image or the bundle): they bring a 'cryptography' with "
        "ML-DSA-65. Nothing is accepted without the signature that the trust root demands."
    )


class SuccessionError(LicensesError):
    """A trust root may not take the place of the one in force."""

    code = "trust_root_succession"
    usual_step = (
        "Install every version that the vendor issued since, as 'trust-root-v2.json' and so on, beside the newest one; "
        "until then the trust root in force stays."
    )


class IssueError(LicensesError):
    """The vendor's side was asked for something that must not be issued."""

    code = "issue_refused"
    usual_step = "Correct the terms and issue again; 'licenses issue --help' explains each of them."


class RecordError(LicensesError):
    """A usage record, checkpoint or proof is malformed or does not hold."""

    code = "usage_record"
    usual_step = (
        "Keep the files as they are and run 'usage-verify' on the folder; it names each file and line that is wrong."
    )


class ExchangeError(LicensesError):
    """A bundle cannot be acknowledged: it is older, or begins later, than what was acknowledged so far."""

    code = "exchange_refused"
    usual_step = "Ask the operator for a bundle with everything: 'sidecar usage export --all'."


class ForkError(LicensesError):
    """A device's log is not the one that was acknowledged: it was copied, or restored from an older copy.

    Attributes:
        proof: The portable proof of it; None where there is no such proof.
        name: The file name of the proof; empty without one.
    """

    code = "ledger_fork"
    usual_step = (
        "Keep both bundles and the proof. Ask the operator which machine was copied or restored, and when; enrol the "
        "one that goes on as a new device."
    )

    def __init__(self, cause: str, *, next_step: str | None = None, proof: bytes | None = None, name: str = "") -> None:
        super().__init__(cause, next_step=next_step)
        self.proof = proof
        self.name = name


class AuthorityError(LicensesError):
    """The vendor's service refuses, or cannot answer now.

    Attributes:
        word: The status word that a caller is told, of the vocabulary that clients know from the billing endpoint.
        retry_after: Whole seconds after which to try again; None where trying again changes nothing by itself.
    """

    code = "authority_refused"
    word: ClassVar[str] = "Unknown"

    def __init__(self, cause: str, *, next_step: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(cause, next_step=next_step)
        self.retry_after = retry_after


class InvalidKeyError(AuthorityError):
    """No subscription has this API key: it is wrong, was regenerated, or was revoked."""

    code = "authority_invalid_key"
    word = "Invalid"
    usual_step = "Set ApiKey to a key of this subscription; the vendor can regenerate either of its two keys."


class MismatchError(AuthorityError):
    """What was sent belongs to another container type, subscription or device."""

    code = "authority_mismatch"
    word = "Mismatch"
    usual_step = "Use the key of the subscription that this container type and this device belong to."


class ConflictError(MismatchError):
    """What was sent contradicts, under the same name, what was received before."""

    code = "authority_conflict"
    usual_step = "Keep both, and let the vendor compare them: 'licenses authority reconcile' lists them."


class AccountError(MismatchError):
    """The vendor's books have no such customer, tier or subscription, or already another of that name."""

    code = "authority_account"
    usual_step = "List what there is: 'licenses authority customer list', 'tier list', 'subscription list'."


class OutOfQuotaError(AuthorityError):
    """The commitment is used up, and the tier allows no overage."""

    code = "authority_out_of_quota"
    word = "OutOfQuota"
    usual_step = "Move the subscription to a larger tier, or wait for the next period."


class BusyError(AuthorityError):
    """The service has more to do than it can; the same request succeeds later."""

    code = "authority_busy"
    word = "BillingEndpointBusy"
    usual_step = "Try again after the time that Retry-After names."


class TooManyTriesError(BusyError):
    """So many logins failed from one place, or for one name, that no further one is looked at now."""

    code = "clerk_too_many_tries"
    usual_step = "Wait for the time that is named; who has lost the password sets it: licenses authority password."


class UnauthorizedUseError(AuthorityError):
    """The subscription is not approved for this container type."""

    code = "authority_use_unauthorized"
    word = "ContainerUseUnauthorized"
    usual_step = "Apply to the vendor; 'licenses authority subscription approve' grants the use of the container."


class UnknownStateError(AuthorityError):
    """The service cannot say now: its disk is full, or its database is damaged or cannot be reached."""

    code = "authority_unknown"
    usual_step = "Nothing of the request was kept; mend what the message names, then send the same again."


class ClerkAccessError(LicensesError):
    """Who may use the clerk's page is not settled so, or this is not one of them."""

    code = "clerk_access"
    usual_step = "Set a password with 'licenses authority password', or name a proxy and the header that it sends."


class FileAccessError(LicensesError):
    """The operating system refused a file or folder.

    Attributes:
        path: The file or folder.
        uid: The user id that needs the access.
    """

    code = "file_access"

    def __init__(self, cause: str, *, path: Path, next_step: str | None = None, uid: int | None = None) -> None:
        super().__init__(cause, next_step=next_step)
        self.path = path
        self.uid = os.geteuid() if uid is None else uid

    @classmethod
    def from_os_error(cls, exc: OSError, path: Path, *, doing: str, mode: str, uid: int | None = None) -> Self:
        """Say what failed, who needs what, and the commands that would grant it.

        Args:
            exc: What the operating system said.
            path: The file or folder that was asked for.
            doing: The attempt in words, such as "read the trust root".
            mode: The permission bits wanted, as for chmod.
            uid: The user id that needs the access; by default that of this process.
        """
        wanted = os.geteuid() if uid is None else uid
        step = remedy(exc, path, mode=mode, uid=wanted)
        return cls(f"cannot {doing}: {path}: {exc.strerror or exc}", path=path, next_step=step, uid=wanted)


class KeyFileError(FileAccessError):
    """A key or trust root file is missing, not readable, or open to too many."""

    code = "key_file"


class FolderError(FileAccessError):
    """The folder of licences is missing or not readable."""

    code = "license_folder"


def remedy(exc: OSError, path: Path, *, mode: str, uid: int) -> str:
    """The next step for an operating system's refusal, with the commands to run."""
    quoted = shlex.quote(str(path))
    match exc:
        case FileNotFoundError():
            return f"Make sure that {path} exists and can be reached by user id {uid}."
        case PermissionError():
            return f"Give it to user id {uid}: sudo chown {uid}:{uid} {quoted} && sudo chmod {mode} {quoted}"
        case FileExistsError():
            return f"Choose another name, or move {path} aside first."
        case IsADirectoryError() | NotADirectoryError():
            return f"Check the path: {path} is not of the kind that is wanted here."
        case _:
            return f"Check the disk and the mount: free space with 'df {quoted}', read-only with 'findmnt -T {quoted}'."
