"""The engine behind the port: Tesseract through tesserocr, and the only file that imports it.

Invariants:

* Pixels go in as bytes; neither Leptonica's decoders nor its encoders ever run.
* One API object for each set of models, kept in a least-recently-used cache that is bounded in sets and in models;
  what was preloaded is never thrown out.
* An API object is used by one thread of one process at a time. Making one before a fork is safe (Tesseract starts no
  threads) and lets the workers share its pages of memory.
"""

import os
import re
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

os.environ["OMP_THREAD_LIMIT"] = "1"  # read once, when the library is loaded; a build with OpenMP is slower with more

import tesserocr
from tesserocr import OEM, PSM, RIL, PyTessBaseAPI

from ocr_core.engine import FoundLine, FoundOrientation, FoundWord, Picture
from ocr_core.errors import EngineTimeoutError, FailedToProcessError

DEFAULT_TESSDATA = Path("/usr/share/tesseract-ocr/5/tessdata")
ORIENTATION_MODEL = "osd"
_SCRIPT = "script/"
_NOT_LANGUAGES = frozenset({ORIENTATION_MODEL, "equ", "snum"})
_MODEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}\Z")

# Characters that are words of their own: Chinese, Japanese, Korean.
_ONE_CHARACTER_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")

# Characters between which Chinese and Japanese write no space; the engine sees one where type is set wide.
_UNSPACED = re.compile(r"[\u3001-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff60]")

# Arabic, Hebrew and their kin. The binding tells a word's letters from left to right, its symbols in reading order.
_RIGHT_TO_LEFT = re.compile(r"[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]")

_Box = tuple[int, int, int, int]


class TesserocrEngine:
    """Tesseract's LSTM engine.

    Args:
        tessdata: Folder of the models.
        cached_sets: How many sets of models stay loaded.
        cached_models: How many models stay loaded in all sets together (10-25 MB each); a set that alone has more
            is loaded all the same.
    """

    name = "tesseract"

    def __init__(self, tessdata: Path = DEFAULT_TESSDATA, *, cached_sets: int = 4, cached_models: int = 3) -> None:
        self._tessdata = tessdata
        self._cached_sets = cached_sets
        self._cached_models = cached_models
        self._preloaded: set[tuple[str, ...]] = set()
        self._apis: OrderedDict[tuple[str, ...], PyTessBaseAPI] = OrderedDict()
        self._orientation_api: PyTessBaseAPI | None = None

    @property
    def version(self) -> str:
        """See `OcrEngine.version`."""
        return str(tesserocr.tesseract_version()).split("\n", 1)[0].removeprefix("tesseract").strip()

    def languages(self) -> tuple[str, ...]:
        """See `OcrEngine.languages`."""
        found = set()
        for folder in (self._tessdata, self._tessdata / "script"):
            try:
                stems = [entry.name.removesuffix(".traineddata") for entry in folder.glob("*.traineddata")]
            except OSError:
                continue
            for stem in stems:
                if stem not in _NOT_LANGUAGES and _MODEL_NAME.match(stem):
                    # Debian puts the models of scripts beside those of languages; their names begin with a capital.
                    found.add(f"{_SCRIPT}{stem}" if folder != self._tessdata or stem[0].isupper() else stem)
        return tuple(sorted(found))

    def preload(self, languages: tuple[str, ...]) -> None:
        """See `OcrEngine.preload`."""
        self._api(languages)
        self._preloaded.add(languages)

    def read(self, picture: Picture, languages: tuple[str, ...], *, timeout_seconds: float) -> tuple[FoundLine, ...]:
        """See `OcrEngine.read`."""
        api = self._api(languages)
        started = time.monotonic()
        try:
            _show(api, picture)
            if not api.Recognize(max(1, int(timeout_seconds * 1000))):
                if time.monotonic() - started >= timeout_seconds * 0.9:
                    raise EngineTimeoutError(f"The page was not read within {timeout_seconds:.0f} seconds.")
                raise FailedToProcessError("The engine could not read the page.")
            return tuple(_lines(api))
        except RuntimeError as exc:
            raise FailedToProcessError("The engine could not read the page.") from exc
        finally:
            api.Clear()

    def orientation(self, picture: Picture) -> FoundOrientation | None:
        """See `OcrEngine.orientation`."""
        if self._orientation_api is None:
            if not (self._tessdata / f"{ORIENTATION_MODEL}.traineddata").is_file():
                return None
            self._orientation_api = self._new_api(ORIENTATION_MODEL, PSM.OSD_ONLY)
        api = self._orientation_api
        try:
            _show(api, picture)
            found = api.DetectOrientationScript()
        except RuntimeError:
            return None
        finally:
            api.Clear()
        if not found:
            return None
        return FoundOrientation(
            quarter_turns=int(found["orient_deg"]) // 90 % 4,
            confidence=float(found["orient_conf"]),
            script=str(found["script_name"]),
        )

    def _api(self, languages: tuple[str, ...]) -> PyTessBaseAPI:
        api = self._apis.get(languages)
        if api is None:
            self._make_room(len(languages))
            api = self._apis[languages] = self._new_api("+".join(map(self._file_of, languages)), PSM.AUTO)
        self._apis.move_to_end(languages)
        return api

    def _make_room(self, models: int) -> None:
        """Throw out sets that were not used for the longest time until one more fits."""
        idle = [languages for languages in self._apis if languages not in self._preloaded]
        while idle and (
            len(self._apis) >= self._cached_sets or sum(map(len, self._apis)) + models > self._cached_models
        ):
            self._apis.pop(idle.pop(0)).End()

    def _file_of(self, model: str) -> str:
        """A model's file within the folder, without its suffix."""
        bare = model.removeprefix(_SCRIPT)
        in_folder = bare != model and not (self._tessdata / f"{bare}.traineddata").is_file()
        return model if in_folder else bare

    def _new_api(self, models: str, mode: int) -> PyTessBaseAPI:
        oem = OEM.DEFAULT if mode == PSM.OSD_ONLY else OEM.LSTM_ONLY
        try:
            api = PyTessBaseAPI(path=str(self._tessdata), lang=models, psm=mode, oem=oem)
        except RuntimeError as exc:
            raise FailedToProcessError(f"The model {models} in {self._tessdata} could not be loaded.") from exc
        api.SetVariable("debug_file", os.devnull)
        # Spares the search for type of fixed pitch, three hundredths of all the work: the LSTM engine does without it.
        api.SetVariable("textord_all_prop", "1")
        # Has the engine say something, so that it opens that file now and for good: in a process that may open no file
        # for writing, its first message would be its end.
        api.ReadConfigFile(str(self._tessdata / "no such file"))
        return api


def _show(api: PyTessBaseAPI, picture: Picture) -> None:
    api.SetImageBytes(picture.pixels, picture.width, picture.height, 1, picture.width)
    if picture.dpi is not None:
        api.SetSourceResolution(picture.dpi)


def _lines(api: PyTessBaseAPI) -> Iterator[FoundLine]:
    results = api.GetIterator()
    if results is None:
        return
    block = -1
    words: list[FoundWord] = []
    baseline: tuple[float, float, float, float] | None = None
    more = True
    while more:
        new_block = results.IsAtBeginningOf(RIL.BLOCK)
        if new_block or results.IsAtBeginningOf(RIL.TEXTLINE):
            if words and baseline is not None:
                yield FoundLine(words=tuple(words), baseline=baseline, block=block)
            words, baseline = [], None
            block += new_block
        found = _words(results)
        if found:
            if words and _UNSPACED.match(words[-1].text[-1]) and _UNSPACED.match(found[0].text):
                found[0] = replace(found[0], glued=True)
            words += found
            baseline = baseline or _baseline(results, found)
        more = results.Next(RIL.WORD)
    if words and baseline is not None:
        yield FoundLine(words=tuple(words), baseline=baseline, block=block)


def _words(results: tesserocr.PyResultIterator) -> list[FoundWord]:
    """The word under the iterator; several where each character is a word."""
    text, box = _text(results, RIL.WORD), results.BoundingBox(RIL.WORD)
    if not text or box is None:
        return []
    if len(text) > 1 and _ONE_CHARACTER_WORDS.search(text):
        return list(_characters(results))
    confidence = _confidence(results, RIL.WORD)
    if _RIGHT_TO_LEFT.search(text):
        text = "".join(symbol for symbol, _, _ in _symbols(results)) or text
    return [FoundWord(text=text, box=box, confidence=confidence)]


def _characters(results: tesserocr.PyResultIterator) -> Iterator[FoundWord]:
    """The symbols of the word under the iterator; letters and digits between ideographs stay together."""
    pending: list[tuple[str, _Box, float]] = []
    glued = False
    for symbol in _symbols(results):
        if pending and (_ONE_CHARACTER_WORDS.match(symbol[0]) or _ONE_CHARACTER_WORDS.match(pending[-1][0])):
            yield _joined(pending, glued=glued)
            pending, glued = [], True
        pending.append(symbol)
    if pending:
        yield _joined(pending, glued=glued)


def _symbols(results: tesserocr.PyResultIterator) -> Iterator[tuple[str, _Box, float]]:
    """Text, box and confidence of each symbol of the word under the iterator, in reading order."""
    more = True
    while more:
        text, box = _text(results, RIL.SYMBOL), results.BoundingBox(RIL.SYMBOL)
        if text and box is not None:
            yield text, box, _confidence(results, RIL.SYMBOL)
        more = not results.IsAtFinalElement(RIL.WORD, RIL.SYMBOL) and results.Next(RIL.SYMBOL)


def _joined(symbols: list[tuple[str, _Box, float]], *, glued: bool) -> FoundWord:
    boxes = [box for _, box, _ in symbols]
    return FoundWord(
        text="".join(text for text, _, _ in symbols),
        box=(min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)),
        confidence=sum(confidence for _, _, confidence in symbols) / len(symbols),
        glued=glued,
    )


def _text(results: tesserocr.PyResultIterator, level: int) -> str:
    """The text without white space; the binding raises where there is none."""
    try:
        return "".join(str(results.GetUTF8Text(level)).split())
    except RuntimeError:
        return ""


def _confidence(results: tesserocr.PyResultIterator, level: int) -> float:
    return min(1.0, max(0.0, float(results.Confidence(level)) / 100))


def _baseline(results: tesserocr.PyResultIterator, words: list[FoundWord]) -> tuple[float, float, float, float]:
    points = results.Baseline(RIL.TEXTLINE)
    if points is None:
        left, _, right, bottom = words[0].box
        return (left, bottom, right, bottom)
    (x1, y1), (x2, y2) = points
    return (x1, y1, x2, y2)
