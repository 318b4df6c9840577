"""The errors of the installer.

Invariant: every failure that a bundle or a machine can cause is an `InstallError`; `code` is its stable name, `str` of
it the cause, `next_step` what a person can do, and `exit_code` what the command ends with (contract H16).
"""

from __future__ import annotations

from typing import ClassVar

EXIT_USAGE = 64
EXIT_REFUSED = 65
EXIT_UNAVAILABLE = 69
EXIT_SOFTWARE = 70
EXIT_ALREADY_RUNNING = 73
EXIT_PERMISSION = 77
EXIT_LICENSE = 78


class InstallError(Exception):
    """The root of the family.

    Attributes:
        code: Stable name of the kind of failure, for machines.
        exit_code: What the command ends with.
        next_step: What a person can do, as one or two sentences.
    """

    code: ClassVar[str] = "install"
    exit_code: ClassVar[int] = EXIT_UNAVAILABLE
    usual_step: ClassVar[str] = "Report this to the vendor together with the message."

    def __init__(self, cause: str, *, next_step: str | None = None) -> None:
        super().__init__(cause)
        self.next_step = self.usual_step if next_step is None else next_step


class UsageError(InstallError):
    """The words do not fit together."""

    code = "usage"
    exit_code = EXIT_USAGE
    usual_step = "'--help' lists what there is."


class BundleError(InstallError):
    """The bundle is refused; nothing was changed."""

    code = "bundle"
    exit_code = EXIT_REFUSED
    usual_step = "Nothing was changed. Fetch the bundle again from the vendor and compare its SHA-256."


class BundleFormatError(BundleError):
    """It is not a bundle, or not spelled as `make bundle` spells one."""

    code = "bundle_format"


class BundleTruncatedError(BundleError):
    """It ends too early."""

    code = "bundle_truncated"


class BundleChangedError(BundleError):
    """A file of it is not what was signed: bytes, length or permissions."""

    code = "bundle_changed"


class BundleMissingFileError(BundleError):
    """A file that was signed is not there."""

    code = "bundle_missing_file"


class BundleForeignFileError(BundleError):
    """Something is there that nobody signed."""

    code = "bundle_foreign_file"


class ReleaseSignatureError(BundleError):
    """The signature of the manifest does not fit it."""

    code = "release_signature"


class UntrustedReleaseKeyError(BundleError):
    """The manifest is signed, but by another key than the one that is trusted here."""

    code = "release_untrusted_key"
    usual_step = (
        "Nothing was changed. Ask the vendor, by another way than the one the bundle came, whether the release key was "
        "changed; if it was, give the new one's file or fingerprint with --release-key."
    )


class DowngradeError(BundleError):
    """The bundle is older than what is installed."""

    code = "downgrade"
    usual_step = "Nothing was changed. If the older version is really wanted, add --allow-downgrade."


class HostError(InstallError):
    """The machine lacks something."""

    code = "host"
    usual_step = "Nothing was changed. Mend what is marked 'fail' above, and run this again."


class NotRootError(InstallError):
    """Only root may do this."""

    code = "not_root"
    exit_code = EXIT_PERMISSION
    usual_step = "Run it as root: sudo ./install.sh. '--check' works for any user."


class AlreadyRunningError(InstallError):
    """Another run of the installer is at work."""

    code = "already_running"
    exit_code = EXIT_ALREADY_RUNNING
    usual_step = "Wait for the other run to end, and run this again."


class LicenseFileError(InstallError):
    """The licence file that was given cannot be taken."""

    code = "license_file"
    exit_code = EXIT_LICENSE
    usual_step = "Nothing that was in force was changed. Give the file that the vendor issued for this machine."


class StepError(InstallError):
    """A command of the system's, or a step of the installation, failed."""

    code = "step_failed"
    exit_code = EXIT_SOFTWARE
    usual_step = "Mend the cause and run the same command again; it goes on where it was."


class RolledBackError(InstallError):
    """The new version did not come up; the old one serves again."""

    code = "rolled_back"
    exit_code = EXIT_SOFTWARE


class NotReadyError(InstallError):
    """What was installed does not come up, and there is nothing to go back to."""

    code = "not_ready"
    exit_code = EXIT_UNAVAILABLE
    usual_step = "Read what 'sidecar diagnose' and 'journalctl -u \"ocr-*\"' say."
