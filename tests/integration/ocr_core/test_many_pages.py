"""Documents of many pages: what is held in memory does not grow from page to page, nor does the work for one."""

import io
import os
import tempfile
from pathlib import Path

import psutil
import pytest
from PIL import Image

from ocr_core.decoder_process import DecoderProcess
from tests import pages

COUNT = 300
GROWN_BYTES = 8 * 2**20


def a_fax() -> bytes:
    sheet = pages.printed_page().image.convert("1")
    buffer = io.BytesIO()
    others: list[Image.Image] = [sheet.copy() for _ in range(COUNT - 1)]
    sheet.save(buffer, "TIFF", save_all=True, append_images=others, compression="group4", dpi=(150, 150))
    return buffer.getvalue()


def a_scan() -> bytes:
    small = pages.printed_page(pages.LINES[:3], size=(620, 877), dpi=75)
    return pages.as_pdf([small] * COUNT)


@pytest.mark.parametrize(
    "make", [a_fax, a_scan, lambda: pages.digital_pdf([pages.LINES] * COUNT)], ids=["fax", "scan", "pdf"]
)
def test_neither_memory_nor_work_grows_with_the_pages(make: object) -> None:
    decoder = DecoderProcess()
    with tempfile.TemporaryFile() as file:
        file.write(make())  # type: ignore[operator]
        file.flush()
        assert decoder.inspect(file).pages == COUNT
        held: list[int] = []
        worked: list[float] = []
        for page in range(1, COUNT + 1, 12):
            before = cpu_seconds(decoder)
            assert decoder.load_page(file, page, max_pixels=3_000_000).page == page
            worked.append(cpu_seconds(decoder) - before)
            held.append(resident_bytes(decoder))
    decoder.close()
    third = len(held) // 3
    assert max(held[-third:]) - max(held[:third]) < GROWN_BYTES
    # The clock of the processors has steps of a hundredth of a second: sums over a third of the pages are compared.
    assert sum(worked[-third:]) < 2 * sum(worked[:third]) + 0.1


def resident_bytes(decoder: DecoderProcess) -> int:
    assert decoder.pid is not None
    return int(Path(f"/proc/{decoder.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def cpu_seconds(decoder: DecoderProcess) -> float:
    assert decoder.pid is not None
    used = psutil.Process(decoder.pid).cpu_times()
    return used.user + used.system
