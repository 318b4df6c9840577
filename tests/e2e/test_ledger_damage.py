"""The ledger is damaged under a running service: it refuses, mends itself without anybody's hand, and goes on."""

from __future__ import annotations

import os

from tests.e2e.site import a_site, wait_until
from tests.pages import LINES, as_png, printed_page

SMALL = as_png(printed_page(LINES[:2], size=(900, 300)))


def test_damage_at_work_is_mended_by_the_launcher() -> None:
    with a_site() as site:
        for _ in range(3):
            assert site.sync(SMALL).status_code == 200
        location = site.submit(SMALL)
        assert site.result(location)["status"] == "succeeded"
        path = site.folder / "state" / "ledger.db"
        for name in ("ledger.db-wal", "ledger.db"):
            with (site.folder / "state" / name).open("r+b") as file:
                file.write(os.urandom(max(4096, path.stat().st_size)))
        wait_until(lambda: list((site.folder / "state" / "aside").glob("*-ledger/ledger.db")), 30, "nothing is moved")
        site.wait_ready()
        assert site.sync(SMALL).status_code == 200
        assert site.stop() == 0
        uses = site.recorded_uses()
        # What was answered on the connection alone and not sealed lay in the destroyed file only; a result that can
        # still be fetched is counted again, and everything after the repair is counted as ever.
        assert (location[-36:], 1) in uses
        assert len(uses) == len(set(uses)) >= 2
