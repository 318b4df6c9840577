"""No false alarm: whatever an honest meter lives through, its records verify, and every sum is the history's own.

The short form takes seconds. `FAULTS=full` runs more than ten thousand histories, a thousand of them lived by the real
meter on a real ledger; what it ran is printed (`pytest -s`).
"""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

import pytest
from structlog.testing import capture_logs

from licenses.usage_log.verify import verify_records
from tests.fakes.bundles import a_bundle
from tests.fakes.histories import History, differences, instance_of
from tests.fakes.real_histories import RealHistory, the_vendor

FULL = os.environ.get("FAULTS") == "full"
FAKE_HISTORIES = 10_000 if FULL else 40
REAL_HISTORIES = 1_000 if FULL else 10
OUTPUTS = 500 if FULL else 8
PROCESSES = 2 if FULL else 1
MEMORY = Path("/dev/shm")
CHUNK = 50


def _one_fake(seed: int, folder: Path) -> tuple[list[str], str]:
    rng = Random(seed)
    history = History(folder, rng, with_gaps=rng.random() < 0.2)
    history.live(rng.randrange(14))
    if not history.files:
        history.window()
    elif rng.random() < 0.1:
        history.leave_unsealed()
    kept, acked = (rng.choice([*history.roots]) if rng.random() < 0.3 else None for _ in range(2))
    if rng.random() < 0.2:
        history.prune(rng.randrange(1, len(history.files) + 1), checkpoints=rng.random() < 0.5)
    acks = [] if acked is None else [history.acknowledgement(acked, the_vendor())]
    if acks and rng.random() < 0.5:
        place = history.folder / "acks" / f"{acked}.dsse.json"
        place.parent.mkdir()
        place.write_bytes(acks.pop())
    report = verify_records(
        history.folder,
        the_vendor().trust_root,
        device_keys=[history.device.verifying],
        previous=None if kept is None else history.kept_checkpoint(kept),
        acks=acks,
    )
    expected = history.expected(kept=kept, acked=acked)
    return differences(report.instances[0], expected), expected.verdict


def _one_real(seed: int, folder: Path) -> tuple[list[str], str]:
    rng = Random(seed)
    with RealHistory(folder, rng, with_gaps=rng.random() < 0.2) as history:
        history.live(rng.randrange(1, 8))
        report = verify_records(history.folder, the_vendor().trust_root, device_keys=[history.device.verifying_key])
        expected = history.expected()
        wrong = differences(report.instances[0], expected)
        if history.has_news:
            report = verify_records(
                history.export(), the_vendor().trust_root, device_keys=[history.device.verifying_key]
            )
            told = history.expected(of_bundle=True)
            found = differences(report.instances[0], told, passing_over={"licenses", "evaluation"})
            wrong += [f"of the bundle: {text}" for text in found]
        return wrong, expected.verdict


def _one_bundle(seed: int, folder: Path) -> tuple[list[str], str]:
    """All, or what came after some window, in a bundle."""
    rng = Random(seed)
    history = History(folder, rng, with_gaps=rng.random() < 0.1, with_older_versions=False)
    history.live(rng.randrange(1, 8))
    left_out = rng.randrange(len(history.files)) if rng.random() < 0.7 else 0
    kept, acked = (rng.choice([*history.roots]) if rng.random() < 0.4 else None for _ in range(2))
    acks = {} if acked is None else {acked: history.acknowledgement(acked, the_vendor())}
    is_inside = rng.random() < 0.5
    bundle = a_bundle(history, folder, [0, *history.roots][left_out], acks if is_inside else None)
    history.prune(left_out)
    report = verify_records(
        bundle,
        the_vendor().trust_root,
        device_keys=[history.device.verifying],
        previous=None if kept is None else history.kept_checkpoint(kept),
        acks=[] if is_inside else [*acks.values()],
    )
    expected = history.expected(kept=kept, acked=acked)
    wrong = differences(report.instances[0], expected) if report.instances else []
    return [*wrong, *(str(finding) for finding in report.findings)], expected.verdict


def _one_output(seed: int, folder: Path) -> tuple[list[str], str]:
    """Several instances in one output, as after a move to another host."""
    rng = Random(seed)
    histories = [History(folder, rng, with_gaps=rng.random() < 0.1) for _ in range(rng.randrange(2, 5))]
    for history in histories:
        history.live(rng.randrange(1, 5))
    keys = [history.device.verifying for history in histories]
    report = verify_records(
        rng.choice((folder, folder / "computervisionread")), the_vendor().trust_root, device_keys=keys
    )
    wrong = [
        difference
        for history in histories
        for difference in differences(instance_of(report, history.instance), history.expected())
    ]
    return [*wrong, *(str(finding) for finding in report.findings)], str(report.verdict)


def _run(one: Callable[[int, Path], tuple[list[str], str]], seeds: Sequence[int]) -> tuple[list[str], Counter[str]]:
    """Live through histories, on a file system in memory if there is one; what differs, and the verdicts due."""
    wrong, verdicts = [], Counter[str]()
    for seed in seeds:
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder, capture_logs():
            found, verdict = one(seed, Path(folder))
        wrong += [f"{one.__name__} of seed {seed}: {text}" for text in found]
        verdicts[verdict] += 1
    return wrong, verdicts


@pytest.mark.parametrize(
    ("one", "count", "wanted"),
    [
        (_one_fake, FAKE_HISTORIES, {"good", "gaps", "unsealed", "unanchored"}),
        (_one_real, REAL_HISTORIES, {"good"}),
        (_one_output, OUTPUTS, {"good"}),
        (_one_bundle, OUTPUTS, {"good", "unanchored"}),
    ],
    ids=["fast", "real", "several instances", "bundles"],
)
def test_honest_histories_raise_no_alarm(one, count, wanted):
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    wrong: list[str] = []
    verdicts: Counter[str] = Counter()
    if PROCESSES == 1:
        outcomes = [_run(one, chunk) for chunk in chunks]
    else:
        with ProcessPoolExecutor(PROCESSES) as pool:
            outcomes = list(pool.map(_run, [one] * len(chunks), chunks))
    for found, due in outcomes:
        wrong += found
        verdicts += due
    print(f"{count} histories ({one.__name__}), verdicts that were due and found: {dict(verdicts)}")  # noqa: T201
    assert not wrong, f"{len(wrong)} differences, the first: " + "; ".join(wrong[:5])
    assert verdicts.total() == count
    assert wanted <= verdicts.keys()
