"""Reading one picture while its sender waits: what `/ocr` and Image Analysis have in common.

Invariant: whoever calls gets the text of one page, or one of our errors; never an operation to ask for later.
"""

from __future__ import annotations

from collections.abc import Callable

from ocr_core.page_text import PageText
from sidecar.errors import CoreDownError, RecognitionError, SpoolUnavailableError
from sidecar.reading import ReadParameters
from sidecar.web import intake


def picture_text(parameters: Callable[[], ReadParameters]) -> PageText:
    """The text of the picture in the request's body; of a document of several pages, the first that is asked for.

    Args:
        parameters: Reads what is asked from the request; called once the gate has opened.

    Raises:
        SidecarError: Whatever refuses the request, or stops the reading.
    """
    operation = intake.read_now(parameters)
    for page in operation.pages:
        return page
    if operation.status == "failed":
        codes = {code for code, _ in operation.errors}
        if "StorageException" in codes:
            raise SpoolUnavailableError("the result could not be stored")
        raise RecognitionError("the picture could not be read")
    raise CoreDownError("The service stopped before the picture was read; send it again.")
