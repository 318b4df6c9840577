"""Whatever is done to sealed records without the device's key is caught.

The short form takes seconds. `FAULTS=full` tries a million mutations; what was tried, and by which finding it was
caught, is printed per class (`pytest -s`).
"""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

import pytest

from licenses.usage_log.note import sign_checkpoint
from licenses.usage_log.report import Coverage, ExitCode, Report, Severity, Verdict
from tests.fakes.licences import FakeVendor, a_vendor
from tests.fakes.mutations import MUTATIONS, RECALL, Defence, Seals, Specimen, rebuild

FULL = os.environ.get("FAULTS") == "full"
MUTATIONS_WANTED = 1_000_000 if FULL else 2_500
PER_CLASS = -(-MUTATIONS_WANTED // len(MUTATIONS))
PER_SPECIMEN = 200
SEED = 3
FORGED_ACKS = 20_000 if FULL else 200
PROCESSES = 2
MEMORY = Path("/dev/shm")
CAUGHT = {ExitCode.TAMPERED, ExitCode.GAPS, ExitCode.UNREADABLE}


@dataclass
class Outcome:
    """What became of some mutations of one class."""

    tried: int = 0
    caught: Counter[str] = field(default_factory=Counter)
    survivors: list[str] = field(default_factory=list)


@cache
def _vendor() -> FakeVendor:
    return a_vendor()


@pytest.fixture
def specimen(tmp_path) -> Specimen:
    """Records that are good whatever the auditor has in hand."""
    specimen = Specimen(tmp_path / "output", Random(SEED), _vendor())
    assert len(specimen.records) == 3
    return specimen


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor | None]:
    """Two processes for the full form."""
    if not FULL:
        yield None
        return
    with ProcessPoolExecutor(PROCESSES) as pool:
        yield pool


def _run(name: str, number: int, count: int) -> Outcome:
    """Make a specimen and try up to `count` mutations of a class on it."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        specimen = Specimen(Path(folder) / "output", Random(f"{name}/{number}"), _vendor())
        _require_good(specimen)
        for index in range(2 * count):
            if outcome.tried == count:
                break
            mutation = MUTATIONS[name](specimen, Random(f"{name}/{number}/{index}"))
            if mutation is None:
                continue
            outcome.tried += 1
            try:
                with specimen.mutated(mutation):
                    report = specimen.verify(mutation.defence)
            except Exception as exc:  # noqa: BLE001 - what is wrong with the records is never raised
                outcome.survivors.append(f"{name}/{number}/{index}: {exc!r} for {mutation.text}")
                continue
            if report.exit_code() in CAUGHT:
                outcome.caught[_first_code(report)] += 1
            elif mutation.defence is Defence.STRICT and report.exit_code(strict=True) == ExitCode.UNANCHORED:
                outcome.caught[f"{report.verdict}, by --strict"] += 1
            else:
                told = f"{report.verdict} in spite of {mutation.text} (defence: {mutation.defence})"
                outcome.survivors.append(f"{name}/{number}/{index}: {told}")
        assert specimen.is_undone()
    return outcome


def _require_good(specimen: Specimen) -> None:
    for defence in Defence:
        assert specimen.verify(defence).verdict is Verdict.GOOD


def _first_code(report: Report) -> str:
    findings = [*(finding for one in report.instances for finding in one.findings), *report.findings]
    return next(finding.code for finding in findings if finding.severity is not Severity.NOTE)


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_is_caught(name, pool):
    numbers = range(-(-PER_CLASS // PER_SPECIMEN) * 2)
    total = Outcome()
    for start in range(0, len(numbers), PROCESSES):
        if total.tried >= PER_CLASS:
            break
        some = numbers[start : start + PROCESSES] if pool is not None else numbers[start : start + 1]
        count = min(PER_SPECIMEN, PER_CLASS)
        arguments = [name] * len(some), some, [count] * len(some)
        for outcome in map(_run, *arguments) if pool is None else pool.map(_run, *arguments):
            total.tried += outcome.tried
            total.caught += outcome.caught
            total.survivors += outcome.survivors
    codes = ", ".join(f"{code} {count}" for code, count in total.caught.most_common())
    print(f"{name}: {total.caught.total()} of {total.tried} caught, by {codes}")  # noqa: T201
    assert not total.survivors, f"{len(total.survivors)} of {total.tried} survived: " + "; ".join(total.survivors[:5])
    assert total.tried >= PER_CLASS / 2, "the class finds too little to do"


# ---- the generator is what it says ----------------------------------------------------------------------------------


def test_rebuilding_what_was_not_changed_changes_nothing(specimen):
    files = rebuild(specimen.windows()).files
    assert {f"{specimen.prefix}usage/{name}": blob for name, blob in files.items()} == {
        name: specimen.pristine[name] for name in specimen.records
    }


def test_specimen_of_a_seed_is_always_the_same(specimen, tmp_path):
    again = Specimen(tmp_path / "again", Random(SEED), _vendor())
    assert (again.pristine, again.fork, again.other) == (specimen.pristine, specimen.fork, specimen.other)


def test_change_that_leaves_every_byte_is_none(specimen):
    assert specimen.mutation(dict(specimen.pristine), "nothing") is None


# ---- which defence catches what -------------------------------------------------------------------------------------


def test_records_cut_off_with_every_trace_are_caught_by_what_the_auditor_kept(specimen):
    """Within the folder nothing is missing: it is what it was some windows ago, and the device's key signed that."""
    changes = {specimen.records[-1]: None, specimen.checkpoint(specimen.sizes[-1]): None}
    changes[f"{specimen.prefix}checkpoint"] = specimen.pristine[specimen.checkpoint(specimen.sizes[-2])]
    with specimen.mutated(specimen.mutation(changes, "cut off")):
        assert specimen.verify(Defence.KEY).verdict is Verdict.GOOD
        for defence in RECALL:
            assert specimen.verify(defence).exit_code() == ExitCode.TAMPERED


@pytest.mark.parametrize("left", ["checkpoint", "checkpoints"])
def test_records_cut_off_are_caught_by_a_seal_left_over(specimen, left):
    size = specimen.sizes[-1]
    name = specimen.checkpoint(size) if left == "checkpoint" else f"{specimen.prefix}checkpoint"
    changes = {specimen.records[-1]: None, name: None}
    with specimen.mutated(specimen.mutation(changes, "cut off, a seal left over")):
        assert specimen.verify(Defence.KEY).exit_code() == ExitCode.TAMPERED


def test_other_history_of_the_same_key_is_caught_by_what_the_auditor_kept(specimen):
    """A restored image that went on: the device's key signed both, so each alone is good."""
    with specimen.mutated(
        specimen.mutation({**dict.fromkeys(specimen.pristine), **specimen.fork}, "the other history")
    ):
        assert specimen.verify(Defence.KEY).verdict is Verdict.GOOD
        for defence in RECALL:
            assert specimen.verify(defence).exit_code() == ExitCode.TAMPERED


def test_newest_window_rewritten_without_its_seal_is_never_good(specimen):
    """Unsealed by the folder alone, as after a crash; tampered by what the auditor kept."""
    windows = specimen.windows()
    entry = windows[-1].closing
    entry["reason"] = "shutdown" if entry["reason"] == "interval" else "interval"
    mutation = specimen.rebuilt(Random(1), windows, "rewritten", since=entry["seq"], seals=Seals.REMOVE_LATER)
    with specimen.mutated(mutation):
        alone = specimen.verify(Defence.KEY)
        assert alone.verdict is Verdict.UNSEALED
        assert alone.exit_code(strict=True) == ExitCode.UNANCHORED
        for defence in RECALL:
            assert specimen.verify(defence).exit_code() == ExitCode.TAMPERED


def test_seals_taken_from_more_than_one_file_are_missed(specimen):
    """A crash leaves at most the newest file without its seal."""
    changes = {specimen.checkpoint(size): None for size in specimen.sizes[1:]}
    changes[f"{specimen.prefix}checkpoint"] = specimen.pristine[specimen.checkpoint(specimen.sizes[0])]
    with specimen.mutated(specimen.mutation(changes, "all but the oldest seal gone")):
        assert specimen.verify(Defence.KEY).exit_code() == ExitCode.GAPS


def test_seal_that_a_newer_one_covers_may_go(specimen):
    """It proves nothing that the newer one does not, and bundles leave it out."""
    before = specimen.verify(Defence.KEY).instances[0]
    with specimen.mutated(specimen.mutation({specimen.checkpoint(specimen.sizes[0]): None}, "an older seal gone")):
        after = specimen.verify(Defence.KEY).instances[0]
    assert (after.verdict, after.ranges, after.meters) == (Verdict.GOOD, before.ranges, before.meters)


def test_records_without_their_beginning_are_good_only_if_somebody_saw_it(specimen):
    changes = {specimen.records[0]: None, specimen.checkpoint(specimen.sizes[0]): None}
    with specimen.mutated(specimen.mutation(changes, "the oldest file gone")):
        assert specimen.verify(Defence.KEY).exit_code(strict=True) == ExitCode.UNANCHORED
        assert {specimen.verify(defence).verdict for defence in RECALL} == {Verdict.GOOD}


def test_older_seal_as_the_newest_hides_nothing_that_is_still_there(specimen):
    """As after a crash between the two copies of a seal: the numbered one tells what the newest should."""
    older = specimen.pristine[specimen.checkpoint(specimen.sizes[0])]
    with specimen.mutated(specimen.mutation({f"{specimen.prefix}checkpoint": older}, "an older seal as the newest")):
        one = specimen.verify(Defence.KEY).instances[0]
    assert (one.verdict, [part.coverage for part in one.ranges]) == (Verdict.GOOD, [Coverage.SEALED])


def test_signature_of_a_key_that_nobody_knows_is_passed_over(specimen):
    """The standard for signed notes wants it so: others may cosign what the device signed."""
    name = f"{specimen.prefix}checkpoint"
    foreign = sign_checkpoint("other.example/log", 1, bytes(32), specimen.attacker).encode().rpartition(b"\n\n")[2]
    with specimen.mutated(specimen.mutation({name: specimen.pristine[name] + foreign}, "another signature")):
        assert specimen.verify(Defence.KEY).verdict is Verdict.GOOD


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
@pytest.mark.parametrize("which", ["record file", "newest checkpoint", "checkpoint", "acknowledgement"])
def test_special_file_in_the_place_of_another_is_told_and_blocks_nothing(specimen, make, which):
    names = {
        "record file": specimen.records[1],
        "newest checkpoint": f"{specimen.prefix}checkpoint",
        "checkpoint": specimen.checkpoint(specimen.sizes[0]),
        "acknowledgement": f"{specimen.prefix}acks/1.dsse.json",
    }
    path = specimen.output / names[which]
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    assert specimen.verify(Defence.KEY).exit_code() in CAUGHT


@pytest.mark.parametrize("folder", ["checkpoints", "acks"])
def test_pipe_in_the_place_of_a_folder_is_told_and_blocks_nothing(specimen, folder):
    path = specimen.folder / folder
    shutil.rmtree(path, ignore_errors=True)
    os.mkfifo(path)
    assert specimen.verify(Defence.KEY).exit_code() in CAUGHT


# ---- acknowledgements that the vendor never made --------------------------------------------------------------------


def _forged_acks(specimen: Specimen, rng: Random) -> Iterator[bytes]:
    """Edits of the genuine one, and whole ones by others; none of them may count."""
    genuine = specimen.ack
    for _ in range(FORGED_ACKS):
        at = rng.randrange(len(genuine))
        yield rng.choice(
            (
                genuine[:at] + bytes([genuine[at] ^ 1 << rng.randrange(8)]) + genuine[at + 1 :],
                genuine[:at] + rng.randbytes(1) + genuine[at + 1 :],
                genuine[:at] + genuine[at + 1 :],
                genuine[:at] + b" " + genuine[at:],
                genuine[:at],
                genuine + b"x",
            )
        )
    sums = specimen.history.book.sums()
    yield specimen.acknowledged(specimen.kept, sums, a_vendor())
    yield specimen.acknowledged(specimen.kept, sums, a_vendor(domain="other.example"))


def test_forged_acknowledgements_are_never_believed(specimen):
    """What no ack key of the trust root signed says nothing; what one of them seems to have signed is tampered."""
    told: Counter[str] = Counter()
    with specimen.mutated(specimen.mutation({f"{specimen.prefix}acks/1.dsse.json": specimen.ack}, "acknowledged")):
        one = specimen.verify(Defence.KEY).instances[0]
        assert (one.acked, one.ranges[0].coverage) == (specimen.sizes[-1], Coverage.ACKED)
    for blob in _forged_acks(specimen, Random(1)):
        if blob == specimen.ack:
            continue
        with specimen.mutated(specimen.mutation({f"{specimen.prefix}acks/1.dsse.json": blob}, "forged")):
            one = specimen.verify(Defence.KEY).instances[0]
        assert one.acked == 0
        codes = {finding.code for finding in one.findings} & {"ack_format", "ack_untrusted", "ack_checkpoint"}
        assert codes, blob
        assert one.verdict is Verdict.TAMPERED or codes == {"ack_untrusted"}
        told.update(codes)
    print(f"forged acknowledgements: {dict(told)}")  # noqa: T201
    assert told["ack_format"] > told["ack_untrusted"] > 0


def test_genuine_acknowledgement_of_the_other_history_tells_of_the_fork(specimen):
    """The vendor has seen the one history, the auditor is shown the other."""
    fork = specimen.fork[f"{specimen.prefix}checkpoint"].decode()
    acknowledged = specimen.acknowledged(fork, {})
    changes = {f"{specimen.prefix}acks/1.dsse.json": acknowledged}
    with specimen.mutated(specimen.mutation(changes, "the other history, acknowledged")):
        assert specimen.verify(Defence.KEY).exit_code() == ExitCode.TAMPERED


def test_acknowledged_totals_that_are_not_those_of_the_records_are_told(specimen):
    sums = specimen.history.book.sums()
    for totals in ({**sums, "A.Meter": 1}, {name: quantity + 1 for name, quantity in sums.items()}, {"A.Meter": 1}):
        changes = {f"{specimen.prefix}acks/1.dsse.json": specimen.acknowledged(specimen.kept, totals)}
        with specimen.mutated(specimen.mutation(changes, "other totals acknowledged")):
            assert specimen.verify(Defence.KEY).exit_code() == ExitCode.TAMPERED
