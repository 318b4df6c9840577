"""The auditor's check of usage records, and the command `usage-verify`.

Invariants:

* No key found in the folder is ever believed: without a pinned device key the best verdict is UNPINNED.
* Nothing that is wrong with the records is raised: it is a finding, and the exit code follows from the findings.
* What the auditor gives (keys, checkpoint, acknowledgements, licences) is verified before anything is read.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import licenses
from licenses.ack import Ack, open_ack
from licenses.device_key import ROLE, device_id_of
from licenses.errors import LicensesError, RecordError
from licenses.keyring import TrustRoot, load_trust_root
from licenses.keys import VerifyingKey, load_public_key, read_small_file
from licenses.usage_log.audit import InstanceAudit, Progress, unreadable
from licenses.usage_log.claims import Given, key_of
from licenses.usage_log.files import FOLDER
from licenses.usage_log.note import MAX_NOTE_BYTES, Checkpoint, open_checkpoint, unverified_checkpoint
from licenses.usage_log.report import ExitCode, Finding, Report, Severity


def verify_records(
    directory: Path,
    trust_root: TrustRoot,
    *,
    device_keys: Sequence[VerifyingKey] = (),
    previous: str | None = None,
    acks: Sequence[bytes] = (),
    progress: Progress | None = None,
) -> Report:
    """Verify all usage records below a folder.

    Args:
        directory: The output mount, a service's folder in it, or one instance's folder.
        trust_root: The vendor whose records these should be.
        device_keys: Public keys of the devices, pinned: obtained otherwise than from this folder.
        previous: A signed checkpoint that the auditor kept from an earlier audit; the records must extend it.
        acks: The vendor's acknowledgements, as files, besides those in the folder; the records must extend them.
        progress: Called now and then with the number of entries read of the instance at hand.

    Returns:
        What was found. Nothing that is wrong with the records is raised.

    Raises:
        LicensesError: What was given is not good: `previous`, or one of `acks`.
    """
    given = Given(
        trust_root=trust_root,
        device_keys=device_keys,
        kept=None if previous is None else _open_kept(previous, device_keys),
        acks=[_open_given(blob, trust_root, device_keys) for blob in acks],
    )
    return _audit(directory, given, progress)


def _audit(directory: Path, given: Given, progress: Progress | None) -> Report:
    findings: list[Finding] = []
    try:
        folders = find_instances(directory)
    except OSError as exc:
        return Report(instances=(), findings=(unreadable(str(directory), exc),))
    if not folders:
        message = "There are no usage records here: no folder 'usage' of an instance was found."
        findings.append(Finding(Severity.UNREADABLE, "no_records", str(directory), message))
    audits = [InstanceAudit(folder, given, progress) for folder in folders]
    reports = [audit.run() for audit in audits]
    origins = {report.origin for report in reports}
    for what, origin in (
        *([("kept checkpoint", given.kept.origin)] if given.kept is not None else []),
        *(("acknowledgement given", ack.origin) for ack in given.acks),
    ):
        if origin not in origins:
            message = f"The {what} is of {origin}, of which there are no records."
            code = "kept_origin_missing" if what == "kept checkpoint" else "ack_origin_missing"
            findings.append(Finding(Severity.TAMPERED, code, str(directory), message))
    for key in given.device_keys:
        if key.key_id not in {report.pinned_key for report in reports}:
            message = f"No records are of the pinned device {device_id_of(key.raw)}."
            findings.append(Finding(Severity.TAMPERED, "pinned_key_unused", str(directory), message))
    findings.extend(_compare_copies(folders, audits, [report.origin for report in reports]))
    return Report(instances=tuple(reports), findings=tuple(findings))


def _compare_copies(folders: Sequence[Path], audits: Sequence[InstanceAudit], origins: Sequence[str]) -> list[Finding]:
    """Two folders with one log: copies of one another, or a log that forked."""
    findings: list[Finding] = []
    first: dict[str, int] = {}
    for number, origin in enumerate(origins):
        earlier = first.setdefault(origin, number) if origin else number
        if earlier == number:
            continue
        where = f"{folders[earlier].name} and {folders[number].name}"
        ours, theirs = audits[earlier].checkpoint_roots, audits[number].checkpoint_roots
        forked = sorted(size for size in ours.keys() & theirs.keys() if ours[size] != theirs[size])
        if forked:
            message = (
                f"Both are sealed as the log of {origin}, but differ at {forked[0]} entries: a copy of the device went "
                "on beside it, or an older state was restored."
            )
            findings.append(Finding(Severity.TAMPERED, "fork", where, message))
        else:
            message = f"Both hold the log of {origin}; add up the sums of one of them only."
            findings.append(Finding(Severity.NOTE, "same_log_twice", where, message))
    return findings


def find_instances(directory: Path) -> list[Path]:
    """The instances' folders at, or up to two levels below, a folder; those have a folder `usage`.

    Raises:
        OSError: The folder cannot be listed.
    """
    if directory.name == FOLDER and not (directory / FOLDER).is_dir():
        directory = directory.parent
    level = [directory]
    for _ in range(3):
        found = [folder for folder in level if (folder / FOLDER).is_dir()]
        if found:
            return found
        level = [child for folder in level for child in sorted(folder.iterdir()) if _is_plain_folder(child)]
    return []


def _is_plain_folder(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_dir() and not path.is_symlink()


def _open_kept(text: str, device_keys: Sequence[VerifyingKey]) -> Checkpoint:
    kept = unverified_checkpoint(text)
    key = key_of(kept.origin, device_keys)
    if key is None:
        return kept
    try:
        return open_checkpoint(text, {kept.origin: key})
    except LicensesError as exc:
        raise RecordError(f"the kept checkpoint is not good: {exc}", next_step="Take the copy that you kept.") from exc


def _open_given(blob: bytes, trust_root: TrustRoot, device_keys: Sequence[VerifyingKey]) -> Ack:
    try:
        ack = open_ack(blob, trust_root)
        return open_ack(blob, trust_root, device=key_of(ack.origin, device_keys))
    except LicensesError as exc:
        raise RecordError(
            f"an acknowledgement given is not good: {exc}", next_step="Take the file that the vendor sent."
        ) from exc


# ---- the command -----------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Wrong use is 64; 2 already says something else."""
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="usage-verify",
        description="Verify usage records. Needs no network and no vendor; believes no key that lies in the folder.",
        epilog="Exit codes: 0 good, 1 tampered, 2 good but not anchored (only with --strict), 3 gaps, 4 unreadable, "
        "64 wrong use.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="output mount, or the folder of one instance")
    parser.add_argument(
        "--trust-root", "--trust", type=Path, required=True, metavar="FILE", help="the vendor's trust root"
    )
    parser.add_argument(
        "--device-key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="the device's public key (device.pub), from another source than DIR; may be given several times",
    )
    parser.add_argument("--prev", type=Path, metavar="FILE", help="the checkpoint kept from an earlier audit")
    parser.add_argument("--strict", action="store_true", help="good but not anchored is not good enough: exit code 2")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--version", action="version", version=f"%(prog)s {licenses.__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    write: Callable[[str], int] = sys.stdout.write
    try:
        previous = None if arguments.prev is None else _read_note(arguments.prev)
        report = verify_records(
            arguments.directory,
            load_trust_root(arguments.trust_root),
            device_keys=[load_public_key(path, ROLE) for path in arguments.device_key],
            previous=previous,
        )
    except LicensesError as exc:
        if arguments.json:
            error = {"code": exc.code, "message": str(exc), "next_step": exc.next_step}
            write(json.dumps({"verdict": "unreadable", "exit_code": 4, "error": error}) + "\n")
        sys.stderr.write(f"usage-verify: {exc}.\nNext step: {exc.next_step}\n")
        return ExitCode.UNREADABLE
    if arguments.json:
        write(json.dumps(report.to_members(strict=arguments.strict), indent=2) + "\n")
    else:
        write("".join(f"{line}\n" for line in report.to_lines()))
    return report.exit_code(strict=arguments.strict)


def _read_note(path: Path) -> str:
    blob = read_small_file(path, doing="read the kept checkpoint", mode="0444", max_bytes=MAX_NOTE_BYTES)
    try:
        return blob.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise RecordError(f"{path} is not a checkpoint: it is not UTF-8") from exc


if __name__ == "__main__":
    sys.exit(main())
