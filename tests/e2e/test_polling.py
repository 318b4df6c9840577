"""Polls of a real service: a result that somebody takes away, and what large uploads leave behind."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import psutil
import requests

from tests.e2e.site import Site
from tests.pages import LINES, as_png, printed_page

MEGABYTES = 2**20
ALLOWED_GROWTH = 20_000_000


def test_a_result_taken_away_by_another_process_is_gone_at_the_next_poll(service: Site) -> None:
    location = service.submit(as_png(printed_page(LINES)))
    service.result(location)
    answers = {requests.get(location, timeout=10).content for _ in range(5)}
    assert len(answers) == 1
    operation_id = location.rsplit("/", 1)[1]
    shutil.rmtree(service.folder / "share" / "operations" / operation_id)
    gone = requests.get(location, timeout=10)
    assert gone.status_code == 404
    assert gone.json()["error"]["code"] == "BadArgument"


def test_large_uploads_side_by_side_do_not_grow_the_web_process(service: Site) -> None:
    noise = os.urandom(49 * MEGABYTES)

    def upload(chunked: bool) -> int:
        pieces = (noise[at : at + MEGABYTES] for at in range(0, len(noise), MEGABYTES))
        return service.post(pieces if chunked else noise).status_code  # type: ignore[arg-type]

    upload(chunked=True)
    before = peak_bytes(service)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(upload, [True, False, True, False])) == [400] * 4
    assert peak_bytes(service) - before < ALLOWED_GROWTH


def peak_bytes(site: Site) -> int:
    """The largest that the web's processes have ever been, together."""
    return sum(_peak_bytes(process) for process in site.processes("web"))


def _peak_bytes(process: psutil.Process) -> int:
    with open(f"/proc/{process.pid}/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
