"""Connected mode and the vendor's service, both as real processes: neither loses or repeats a page over an outage.

The endpoint is killed, the appliance is killed, and in the end both sides have counted the same pages.
"""

from __future__ import annotations

import random
import time

from tests.e2e.connected import PAGE, WINDOW_SECONDS, ConnectedSite, RealCounterpart, agreed
from tests.e2e.site import command, wait_until
from tests.pages import as_pdf, printed_page


def acknowledged_whole(site: ConnectedSite, counterpart: RealCounterpart, pages: int) -> None:
    """Stop the site; all that it sealed is then told and acknowledged there, and here once it was started again."""
    assert site.stop() == 0
    sealed = site.ledger()["sealed"]
    assert (counterpart.pages(), counterpart.entries(), counterpart.acknowledged()) == (pages, sealed, sealed)
    site.start()
    wait_until(lambda: site.ledger()["acknowledged"] >= sealed, 30, "the acknowledgement has not come back")


def test_the_authority_is_down_for_nine_cycles_for_ten_and_back_with_kills_of_either_side() -> None:
    counterpart = RealCounterpart()
    site = ConnectedSite(counterpart)
    read = 0
    try:
        site.start()
        assert site.sync(as_pdf([printed_page(size=(600, 200))] * 3)).status_code == 200
        read += 3
        agreed(site, counterpart, read)
        assert site.status()["apiStatus"] == "Valid"

        counterpart.leave()
        served_at: set[int] = set()
        kills = {3: "meter", 5: "all", 7: "web"}
        seen = 0
        while (count := site.failed_cycles()) < 10:
            assert count >= seen, f"{count} failures after {seen}"
            seen = count
            if count in kills and count not in served_at:
                what = kills.pop(count)
                if what == "all":
                    site.crash()
                    site.start()
                else:
                    for process in site.processes(what):
                        process.kill()
                    wait_until(lambda: site.ready() == 200, 30, "not back")
                continue
            answer = site.sync(PAGE)
            if answer.status_code == 200:
                read += 1
                served_at |= {count} if site.failed_cycles() in {count, count + 1} else set()
            else:
                assert site.failed_cycles() >= 10, answer.text
            time.sleep(0.2)
        assert 9 in served_at
        assert not kills

        refused = site.sync(PAGE)
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "NoCredit"
        assert "failed with status 'CouldNotConnect'" in refused.json()["error"]["message"]
        assert site.ready() == 503
        told = site.status()
        assert (told["state"], told["apiStatus"]) == ("METERING_CUTOFF", "CouldNotConnect")
        assert told["endpoint"]["status"] == "CouldNotConnect"
        assert told["endpoint"]["pendingReports"] >= 10
        metrics = site.get("/metrics").text
        assert 'tollgate_endpoint_status{status="CouldNotConnect"} 1.0' in metrics
        assert site.get("/").status_code == 200
        site.crash()
        site.start(ready=False)
        wait_until(lambda: site.ready() == 503, 30, "does not answer")
        wait_until(lambda: site.status()["state"] == "METERING_CUTOFF", 30, "a restart has let it serve")
        assert site.failed_cycles() >= 10

        counterpart.come()
        site.wait_ready()
        agreed(site, counterpart, read)
        assert set(site.refused_reports()) == {"CouldNotConnect"}
        assert len(site.refused_reports()) >= 10

        lot = random.Random(8)
        for _ in range(6):
            assert site.sync(PAGE).status_code == 200
            read += 1
            time.sleep(lot.uniform(0, WINDOW_SECONDS))
            if lot.random() < 0.6:
                counterpart.leave()
                counterpart.come()
            else:
                site.processes("meter")[0].kill()
                site.wait_ready()
        agreed(site, counterpart, read)
        acknowledged_whole(site, counterpart, read)
        assert site.stop() == 0
        audit(site)
    finally:
        site.remove()
        counterpart.remove()


def audit(site: ConnectedSite) -> None:
    done = command(
        "usage-verify", site.folder / "output", "--trust-root", site.trust_root,
        "--device-key", site.folder / "state" / "device.pub", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
