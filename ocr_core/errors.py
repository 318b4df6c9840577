"""Every refusal of the core, each with its code and HTTP status.

Invariants:

* The codes are wire format: they may be added to, never renamed.
* The document codes are those of the Read contract; a caller may pass them on as they are.
* The message says what is wrong and what a person can do; it never holds text of the document.
"""

from typing import ClassVar


class CoreError(Exception):
    """The one family: whatever leaves the core as a refusal is one of these.

    Attributes:
        code: Stable, wire format.
        status: HTTP status of the answer.
    """

    code: ClassVar[str] = "FailedToProcess"
    status: ClassVar[int] = 500


class CpuUnsupportedError(CoreError):
    """This machine cannot run the engine."""

    code = "CpuUnsupported"
    status = 503


class LicenseRefusedError(CoreError):
    """No licence in the folder lets the core read."""

    code = "LicenseRefused"
    status = 403


class LeaseRefusedError(CoreError):
    """The request has no lease that is in force."""

    code = "LeaseRefused"
    status = 403


class BadArgumentError(CoreError):
    """The request itself is malformed."""

    code = "BadArgument"
    status = 400


class DocumentNotFoundError(CoreError):
    """The named document is not in the shared folder."""

    code = "DocumentNotFound"
    status = 404


class InvalidImageError(CoreError):
    """Not an image, damaged, cut off, or password protected."""

    code = "InvalidImage"
    status = 400


class UnsupportedImageFormatError(CoreError):
    """A picture, but of a kind that is not read."""

    code = "UnsupportedImageFormat"
    status = 400


class InvalidImageDimensionError(CoreError):
    """Too few or too many pixels along a side for whoever asks, or more than fit into memory."""

    code = "InvalidImageDimension"
    status = 400


class InvalidImageSizeError(CoreError):
    """Too few bytes to be a document."""

    code = "InvalidImageSize"
    status = 400


class InvalidPageRangeError(CoreError):
    """The document has no such page, or more pages than are read."""

    code = "InvalidPageRange"
    status = 400


class NotSupportedLanguageError(CoreError):
    """An unknown language, or one whose model is not installed."""

    code = "NotSupportedLanguage"
    status = 400


class FailedToProcessError(CoreError):
    """The engine failed; the page may be tried again."""


class EngineTimeoutError(FailedToProcessError):
    """The page took longer than the deadline allows; trying it again would take as long."""

    status = 504


class SlowDocumentError(CoreError):
    """It takes longer to decode than is given to a caller who has others waiting; the document may be good."""

    code = "SlowDocument"
    status = 503


class MachineBusyError(CoreError):
    """There was no processor or no memory for it in all the waiting time; nothing was found out about the document."""

    code = "MachineBusy"
    status = 503


class DecoderLostError(FailedToProcessError):
    """The decoder was ended from outside, as for want of memory; not the document's doing, so another may try."""

    status = 503
