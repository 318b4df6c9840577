"""The second engine whole: the real engine in its own process, and a core that has it."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from PIL import Image

from ocr_core import second_engine
from ocr_core.engine import Picture
from ocr_core.errors import FailedToProcessError
from ocr_core.limits import OwnMemory
from ocr_core.second_engine import NOT_INSTALLED, SecondEngine, SecondEngineHost, SecondEngineMissingError
from ocr_core.second_engine.state import State
from tests import pages
from tests.integration.ocr_core.running_core import RunningCore, running_core

installed = pytest.mark.skipif(
    importlib.util.find_spec("rapidocr") is None, reason="the extra 'handwriting' is not installed"
)
HEAVY = ("rapidocr", "onnxruntime", "cv2", "numpy")


@pytest.fixture(scope="module")
def host() -> Iterator[SecondEngineHost]:
    made = second_engine.host("required")
    assert made is not None
    made.tend()
    yield made
    made.close()


@pytest.fixture
def engine(host: SecondEngineHost) -> SecondEngine:
    return host.engine


def a_picture(*lines: str) -> Picture:
    image = pages.printed_page(lines, size=(1100, 300 + 40 * len(lines))).image.convert("L")
    return Picture(pixels=image.tobytes(), width=image.width, height=image.height, dpi=150)


def blank(width: int, height: int) -> Picture:
    return Picture(pixels=b"\xff" * (width * height), width=width, height=height, dpi=None)


def read(engine: SecondEngine, picture: Picture) -> str:
    lines = engine.read(picture, (), timeout_seconds=40)
    return "\n".join(" ".join(word.text for word in line.words) for line in lines)


def until(seconds: float, happened: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def engine_process(host: SecondEngineHost) -> psutil.Process:
    assert host._keeper is not None
    (process,) = psutil.Process(host._keeper).children()
    return process


@installed
def test_a_drawn_line_is_read(engine: SecondEngine) -> None:
    assert read(engine, a_picture("The quick brown fox")) == "The quick brown fox"
    assert engine.version


@installed
def test_a_page_without_text_is_empty_whatever_its_size(host: SecondEngineHost, engine: SecondEngine) -> None:
    assert read(engine, blank(300, 200)) == ""
    assert read(engine, blank(16_384, 16_384)) == ""
    status = Path(f"/proc/{engine_process(host).pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) * 1024 < 1_100_000_000 + OwnMemory().resident_bytes()  # inherited


@installed
def test_it_is_confined_and_other_processes_stay_light(host: SecondEngineHost, engine: SecondEngine) -> None:
    assert read(engine, a_picture("Gate 7"))
    process = engine_process(host)
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status
    assert heavy_files(process.pid)
    assert host._keeper is not None
    # Forked from this process, it has what other tests loaded here, and nothing more.
    assert set(heavy_files(host._keeper)) <= set(heavy_files(os.getpid()))


@installed
def test_a_process_that_is_killed_in_the_middle_is_replaced(host: SecondEngineHost, engine: SecondEngine) -> None:
    assert read(engine, a_picture("before"))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(read, engine, a_picture(*pages.LINES))
        until(20, lambda: engine.facts().state == State.READING)
        engine_process(host).kill()
        with pytest.raises(FailedToProcessError):
            asked.result()
    assert read(engine, a_picture("afterwards")) == "afterwards"


@installed
def test_four_callers_each_get_their_own_text(engine: SecondEngine) -> None:
    words = ("harbour", "lantern", "orchard", "granite")
    with ThreadPoolExecutor(4) as pool:
        assert tuple(pool.map(lambda word: read(engine, a_picture(word)), words)) == words


def heavy_files(pid: int) -> list[str]:
    """The heavy libraries' files that a process has in memory."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return [name for name in HEAVY if f"/{name}/" in maps or f"/{name}.libs/" in maps]


# ---- the core


@installed
def test_a_core_says_that_it_has_one_and_its_workers_stay_light() -> None:
    with running_core(words=("Core:Workers=1",)) as core:
        told = core.get("/health")[1]["second_engine"]
        assert isinstance(told, dict)
        assert (told["name"], told["pictures"]) == ("rapidocr", 0)
        (keeper,) = core.second_engine()
        assert core.process is not None
        for pid in (core.process.pid, keeper.pid, *(worker.pid for worker in core.workers())):
            assert not heavy_files(pid)
        keeper.kill()
        until(10, lambda: [one.pid for one in core.second_engine()] not in ([], [keeper.pid]))
        assert core.get("/health")[0] == 200
        assert "second engine: rapidocr" in core.log_text()
        core.process.kill()
        core.process.wait()
        until(10, lambda: not [one for one in psutil.process_iter() if is_below(core, one)])


def is_below(core: RunningCore, process: psutil.Process) -> bool:
    try:
        return str(core.socket) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_core_that_is_told_to_do_without_has_none() -> None:
    with running_core(words=("Core:Workers=1", "Core:SecondEngine=off")) as core:
        assert core.get("/health")[1]["second_engine"] is None
        assert core.second_engine() == []
        assert "second engine: none, as Core:SecondEngine is off" in core.log_text()


@installed
@pytest.mark.parametrize(("words", "pictures"), [((), 0), (("Core:SecondEngineForPrint=true",), 1)])
def test_small_print_that_reads_badly_is_read_by_it_only_where_that_is_wished_for(
    words: tuple[str, ...], pictures: int
) -> None:
    page = pages.printed_page(pages.LINES, size=(1240, 700))
    page = replace(page, image=page.image.resize((550, 310), Image.Resampling.LANCZOS))
    with running_core(words=("Core:Workers=1", *words)) as core:
        status, _ = core.page(core.put_document(pages.as_png(page)), 1)
        assert status == 200
        assert core.get("/health")[1]["second_engine"]["pictures"] == pictures  # type: ignore[index]


# ---- where the extra is not installed


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))


@pytest.mark.usefixtures("without_extra")
def test_without_the_extra_there_is_none_and_that_is_said() -> None:
    assert second_engine.host("auto") is None
    standing = second_engine.standing("auto")
    assert (standing.available, standing.reason, standing.version) == (False, NOT_INSTALLED, "")
    assert second_engine.standing("off").reason == "Core:SecondEngine is off"
    with pytest.raises(SecondEngineMissingError, match="required"):
        second_engine.host("required")


def test_a_core_that_requires_it_does_not_start_without(tmp_path: Path) -> None:
    code = (
        "import importlib.util as u, sys\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'rapidocr' else find(name, package)\n"
        "from ocr_core.__main__ import main\n"
        f"sys.exit(main(['Core:SecondEngine=required', 'Sidecar:CoreSocket={tmp_path}/core.sock']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 65
    assert "Core:SecondEngine is required, but the extra 'handwriting' is not installed" in done.stderr


def test_no_heavy_library_is_imported_by_the_core_itself() -> None:
    code = f"import sys, ocr_core.__main__; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_call_without_a_keeper_ends() -> None:
    host = SecondEngineHost(version="0")
    host._inlet.close()
    with pytest.raises(FailedToProcessError, match="cannot be asked"):
        host.engine.read(blank(10, 10), (), timeout_seconds=5)
    host._outlet.close()


def test_a_keeper_that_stands_still_is_not_waited_for_long() -> None:
    host = SecondEngineHost(version="0")
    host.tend()
    assert host._keeper is not None
    os.kill(host._keeper, signal.SIGSTOP)
    with pytest.raises(FailedToProcessError):
        host.engine.read(blank(10, 10), (), timeout_seconds=0.3)
    host.close()
