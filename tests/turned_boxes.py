"""A box of the upright frame as the corners that it has on a page whose lines slope."""

from ocr_core.pages import geometry


def turned_box(box: geometry.Box, degrees: float) -> geometry.Corners:
    """The box, levelled and turned as the page reader does it with the boxes of a line."""
    (found,) = geometry.turned_boxes(geometry.levelled_boxes((box,), degrees), degrees)
    return found
