"""The second engine behind the port: PP-OCRv6 on ONNX Runtime, for handwriting and text in photos.

Invariants:

* The only file that imports rapidocr, onnxruntime, cv2, numpy and omegaconf. That costs most of a second and 100 MB, so
  only the second engine's own process imports this.
* The models are those inside the package, named by path: nothing is ever downloaded, nothing is written.
* Only pixels go in. No picture makes the detector or the recogniser work on more than a bounded number of pixels, and
  one that holds more text than two pages of typescript is left to the first engine.
* Nothing of the libraries' own errors and log lines gets out.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import rapidocr
from omegaconf import flag_override
from rapidocr.main import RapidOCRError

from ocr_core.engine import FoundLine, FoundOrientation, FoundWord, Picture
from ocr_core.errors import EngineTimeoutError, FailedToProcessError
from ocr_core.limits import usable_cpus
from ocr_core.pages.ideographs import ONE_CHARACTER_WORD, UNSPACED
from ocr_core.second_engine.readable_scripts import READABLE_MODELS

MODELS = Path(rapidocr.__file__).parent / "models"
DETECTOR = MODELS / "PP-OCRv6_det_small.onnx"
RECOGNISER = MODELS / "PP-OCRv6_rec_small.onnx"

_THREADS = 2
_LEAST_SCORE = 0.5
_LEAST_SCORE_UNFOUND = 0.85
_WORD_HEIGHT = 250
_WORD_RATIO = 12.0
_MOST_PIXELS = 3_000_000
_LONGEST_SIDE = 6_000
_SHORTEST_SIDE = 30
_DETECTED_SIDE = 1280
_DETECTED_PIXELS = 1280 * 800
_BATCH = 6
_BATCH_RATIOS = 100
_MOST_RATIOS = 2000
_TALL = 1.5
_TALL_LETTER = 2.5
_AHEAD = 0.05

# What the recogniser writes for punctuation even amid Latin letters.
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}

_Array = npt.NDArray[Any]
_Quad = npt.NDArray[np.float64]
"""Top left, top right, bottom right, bottom left of a line, as its text stands."""


class RapidEngine:
    """PP-OCRv6 small through rapidocr.

    It finds quadrangles of text and reads each; it knows no columns, so all lines are of one block, from top to bottom.

    Args:
        threads: Threads of one reading, 1 or more; no more than there are CPUs to use.
    """

    name = "rapidocr"

    def __init__(self, *, threads: int = _THREADS) -> None:
        self._threads = max(1, min(threads, usable_cpus()))
        self._loaded: Any = None

    @property
    def version(self) -> str:
        """See `OcrEngine.version`."""
        return metadata.version("rapidocr")

    def languages(self) -> tuple[str, ...]:
        """See `OcrEngine.languages`."""
        return READABLE_MODELS

    def preload(self, languages: tuple[str, ...] = ()) -> None:  # noqa: ARG002 - it has one model for all
        """See `OcrEngine.preload`."""
        self._engine()

    def read(self, picture: Picture, languages: tuple[str, ...], *, timeout_seconds: float) -> tuple[FoundLine, ...]:  # noqa: ARG002
        """See `OcrEngine.read`. The time is looked at between batches of lines: about half a second apart."""
        until = time.monotonic() + timeout_seconds
        if len(picture.pixels) != picture.width * picture.height:
            raise FailedToProcessError("The picture has not as many pixels as it says.")
        engine = self._engine()
        try:
            return tuple(_read(engine, picture, until))
        except FailedToProcessError:
            raise
        except Exception as exc:
            raise FailedToProcessError("The second engine could not read the page.") from exc

    def orientation(self, picture: Picture) -> FoundOrientation | None:  # noqa: ARG002
        """See `OcrEngine.orientation`; it has no model for it."""
        return None

    def characters(self) -> frozenset[str]:
        """Every character that the recogniser knows."""
        return frozenset(self._engine().text_rec.postprocess_op.dict) - {"blank"}

    def _engine(self) -> Any:
        if self._loaded is None:
            try:
                self._loaded = _load(self._threads)
            except Exception as exc:
                raise FailedToProcessError("The second engine's models could not be loaded.") from exc
        return self._loaded


def _load(threads: int) -> Any:
    cv2.setNumThreads(threads)
    logging.getLogger("RapidOCR").propagate = False
    engine = rapidocr.RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,
            "Global.use_preprocess_img": False,  # done here, with a bound in pixels
            "Global.return_word_box": True,
            "Det.limit_type": "max",
            "Det.limit_side_len": _DETECTED_SIDE,
            "Rec.rec_batch_num": _BATCH,
        }
    )
    for part, model in ((engine.cfg.Det, DETECTOR), (engine.cfg.Rec, RECOGNISER)):
        with flag_override(part, "allow_objects", True):
            part.session = _session(model, threads)  # so that the library neither looks for a model nor fetches one
    blank = np.full((64, 64, 3), 255, dtype=np.uint8)
    _found(engine, blank)  # the library loads a model when it first needs it
    engine.recognize_txt([blank])
    return engine


def _session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    # A thread that waits by spinning doubles the CPU time while the workers want the CPUs, too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(model), sess_options=options, providers=["CPUExecutionProvider"])


def _read(engine: Any, picture: Picture, until: float) -> Iterator[FoundLine]:
    gray = np.frombuffer(picture.pixels, dtype=np.uint8).reshape(picture.height, picture.width)
    small = _resized(gray)
    if min(small.shape) < _SHORTEST_SIDE / 2:
        return
    scale = np.array([picture.width / small.shape[1], picture.height / small.shape[0]])
    _check_time(until)
    bgr = cv2.cvtColor(small, cv2.COLOR_GRAY2BGR)
    found = _found(engine, bgr)
    if not found and _is_shaped_like_a_word(small):
        # The detector wants some ground around a text; a word that was cut out closely has none.
        height, width = small.shape
        whole = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)
        found = [_Cutting(0, whole, bgr, fewest=2, least=_LEAST_SCORE_UNFOUND)]
    for cutting, (text, confidences, places) in _recognised(engine, found, until):
        yield _line(text, confidences, places, cutting.quad * scale, picture)


def _is_shaped_like_a_word(gray: _Array) -> bool:
    height, width = gray.shape
    return bool(height <= _WORD_HEIGHT and 1.0 <= width / height <= _WORD_RATIO)


def _check_time(until: float) -> None:
    if time.monotonic() >= until:
        raise EngineTimeoutError("The second engine had not enough time.")


def _resized(gray: _Array) -> _Array:
    """The picture in a size that the models can read and that memory can hold."""
    height, width = gray.shape
    scale = min(1.0, math.sqrt(_MOST_PIXELS / (height * width)), _LONGEST_SIDE / max(height, width))
    if min(height, width) * scale < _SHORTEST_SIDE:
        scale = min(_SHORTEST_SIDE / min(height, width), _LONGEST_SIDE / max(height, width))
    if scale == 1.0:
        return gray
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))


@dataclass(frozen=True, slots=True)
class _Cutting:
    """A line cut out of the picture and laid level, in one of the ways that it may be read.

    Attributes:
        line: Number of the line, from top to bottom.
        quad: Where it is, as its text stands if this is the way.
        crop: Its pixels.
        likely: What this way has ahead of others.
        fewest: How many letters and digits must be found for it to be believed.
        least: How sure they must be.
    """

    line: int
    quad: _Quad
    crop: _Array
    likely: float = 0.0
    fewest: int = 0
    least: float = _LEAST_SCORE

    def is_believable(self, text: str, score: float) -> bool:
        """Whether what was read this way is kept."""
        return bool(text.strip()) and score >= self.least and sum(map(str.isalnum, text)) >= self.fewest


def _found(engine: Any, bgr: _Array) -> list[_Cutting]:
    """The lines of the picture."""
    height, width = bgr.shape[:2]
    longer, shorter = max(height, width), min(height, width)
    # A long receipt is shrunk to as many pixels as a page, not to as many rows.
    side = max(_DETECTED_SIDE, math.sqrt(_DETECTED_PIXELS * longer / shorter))
    if engine.text_det is not None:
        engine.text_det.limit_side_len = min(side, _LONGEST_SIDE)
    record: dict[str, Any] = {}
    try:
        crops, found = engine.detect_and_crop(bgr, record)
    except RapidOCRError:  # the library's word for a picture without text
        return []
    margin = np.array([record["padding_1"]["left"], record["padding_1"]["top"]])
    quads = [np.asarray(box, dtype=np.float64) - margin for box in found.boxes]
    return [
        cutting
        for line, (quad, crop) in enumerate(zip(quads, crops, strict=True))
        for cutting in _ways(line, quad, crop)
    ]


def _ways(line: int, quad: _Quad, crop: _Array) -> Iterator[_Cutting]:
    """The ways in which a line may be read: one, unless it is tall."""
    width = int(max(np.linalg.norm(quad[0] - quad[1]), np.linalg.norm(quad[2] - quad[3])))
    height = int(max(np.linalg.norm(quad[0] - quad[3]), np.linalg.norm(quad[1] - quad[2])))
    ratio = height / max(1, width)
    if ratio < _TALL:
        yield _Cutting(line, quad, crop)
        return
    # The library laid it on its left side, as if it ran downwards. It may run upwards, or be a single letter.
    fewest = 2 if ratio < _TALL_LETTER else 0
    yield _Cutting(line, np.roll(quad, -1, axis=0), crop, fewest=fewest)
    yield _Cutting(line, np.roll(quad, 1, axis=0), np.ascontiguousarray(np.rot90(crop, 2)), fewest=fewest)
    if ratio < _TALL_LETTER:
        yield _Cutting(line, quad, np.ascontiguousarray(np.rot90(crop, -1)), likely=_AHEAD)


_Recognised = tuple[str, Sequence[float], Sequence[float]]
"""Text; the confidence of each character; where the middle of each is in the line, as a part of its width."""


def _recognised(engine: Any, cuttings: Sequence[_Cutting], until: float) -> Iterator[tuple[_Cutting, _Recognised]]:
    """Each line that can be believed, in order, in the way that reads best."""
    if sum(min(_ratio(cutting.crop), _BATCH_RATIOS) for cutting in cuttings) > _MOST_RATIOS:
        raise FailedToProcessError("There is more text on the page than the second engine may read.")
    best: dict[int, tuple[float, _Cutting, _Recognised]] = {}
    for batch in _batches(sorted(cuttings, key=lambda cutting: _ratio(cutting.crop))):
        _check_time(until)
        found = engine.recognize_txt([_shortened(cutting.crop) for cutting in batch])
        for cutting, text, score, info in zip(batch, found.txts, found.scores, found.word_results, strict=True):
            rank = score + cutting.likely
            if cutting.is_believable(text, score) and (cutting.line not in best or rank > best[cutting.line][0]):
                best[cutting.line] = rank, cutting, _placed(text, info)
    for line in sorted(best):
        yield best[line][1:]


def _ratio(crop: _Array) -> float:
    height, width = crop.shape[:2]
    return float(width / height)


def _batches(cuttings: Sequence[_Cutting]) -> Iterator[list[_Cutting]]:
    """Lines of like proportions together, as many as memory holds at the width of the widest."""
    batch: list[_Cutting] = []
    for cutting in cuttings:
        if batch and (len(batch) == _BATCH or (len(batch) + 1) * _ratio(cutting.crop) > _BATCH_RATIOS):
            yield batch
            batch = []
        batch.append(cutting)
    if batch:
        yield batch


def _shortened(crop: _Array) -> _Array:
    """The line, squeezed if it is longer than a line can be."""
    height, width = crop.shape[:2]
    return crop if width <= _BATCH_RATIOS * height else cv2.resize(crop, (_BATCH_RATIOS * height, height))


def _placed(text: str, info: Any) -> _Recognised:
    columns = [column for word in info.word_cols for column in word]
    places: list[float] = []
    for character in text:  # the library tells a column for each character but the spaces
        if character.isspace():
            places.append(places[-1] if places else 0.0)
        else:
            places.append(min(1.0, (columns.pop(0) + 0.5) / max(info.line_txt_len, 1.0)))
    return text, [min(1.0, max(0.0, float(one))) for one in info.confs], places


def _line(text: str, confidences: Sequence[float], places: Sequence[float], quad: _Quad, picture: Picture) -> FoundLine:
    if not ONE_CHARACTER_WORD.search(text):
        text = text.translate(_NARROW)
    spans = list(_words(text))
    half = _half_width([places[at] for at, character in enumerate(text) if not character.isspace()])
    edges = [(places[start] - half, places[end - 1] + half) for start, end, _ in spans]
    for number in range(len(edges) - 1):
        (left, right), (next_left, next_right) = edges[number], edges[number + 1]
        if right > next_left:
            edges[number], edges[number + 1] = (left, (right + next_left) / 2), ((right + next_left) / 2, next_right)
    words = tuple(
        FoundWord(
            text=text[start:end],
            box=_box(quad, max(0.0, left), min(1.0, right), picture),
            confidence=float(np.mean(confidences[start:end])),
            glued=glued,
        )
        for (start, end, glued), (left, right) in zip(spans, edges, strict=True)
    )
    (x1, y1), (x2, y2) = quad[3], quad[2]
    return FoundLine(words=words, baseline=(float(x1), float(y1), float(x2), float(y2)), block=0)


def _half_width(places: Sequence[float]) -> float:
    """Half of how wide a character is, as a part of the line."""
    if len(places) < 2:
        return 0.5
    return float(np.median(np.diff(places))) / 2


def _words(text: str) -> Iterator[tuple[int, int, bool]]:
    """Where each word starts and ends, and whether it is glued to the one before."""
    start: int | None = None
    last: str | None = None
    glued = False
    for at, character in enumerate(f"{text} "):
        is_end = character.isspace() or (
            start is not None and bool(ONE_CHARACTER_WORD.match(character) or ONE_CHARACTER_WORD.match(text[at - 1]))
        )
        if start is not None and is_end:
            yield start, at, glued
            last, start = text[at - 1], None
            glued = not character.isspace()
        if character.isspace():
            continue
        if start is None:
            if at and text[at - 1].isspace():
                glued = last is not None and bool(UNSPACED.match(last) and UNSPACED.match(character))
            start = at


def _box(quad: _Quad, left: float, right: float, picture: Picture) -> tuple[int, int, int, int]:
    """The upright box around a part of a line, within the picture and never empty."""
    top, bottom = quad[1] - quad[0], quad[2] - quad[3]
    corners = np.array([quad[0] + left * top, quad[0] + right * top, quad[3] + left * bottom, quad[3] + right * bottom])
    (x1, y1), (x2, y2) = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    x1, y1 = min(max(x1, 0), picture.width - 1), min(max(y1, 0), picture.height - 1)
    x2, y2 = min(max(x2, x1 + 1), picture.width), min(max(y2, y1 + 1), picture.height)
    return int(x1), int(y1), int(x2), int(y2)
