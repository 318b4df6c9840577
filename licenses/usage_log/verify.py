"""The auditor's check of usage records: a folder or a bundle in, a report out.

Invariants:

* No key found in the folder is ever believed: without a pinned device key the best verdict is UNPINNED.
* Nothing that is wrong with the records is raised: it is a finding, and the exit code follows from the findings.
* What the auditor gives (keys, checkpoint, acknowledgements, licences) is verified before anything is read.
"""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from licenses.ack import Ack, open_ack
from licenses.device_key import device_id_of
from licenses.errors import FileAccessError, FormatError, KeyFileError, LicensesError, RecordError
from licenses.keyring import TrustRoot
from licenses.keys import VerifyingKey, read_small_file
from licenses.model import License
from licenses.strict_json import parse_object
from licenses.usage_log.audit import InstanceAudit, Progress, unreadable
from licenses.usage_log.bundle import TOTALS_NAME, is_bundle, unpack_bundle
from licenses.usage_log.claims import Given, key_of
from licenses.usage_log.copies import compare_copies, copy_of
from licenses.usage_log.files import FOLDER, meters_from
from licenses.usage_log.note import Checkpoint, open_checkpoint, unverified_checkpoint
from licenses.usage_log.proof import Consistency
from licenses.usage_log.report import Finding, FindingList, InstanceReport, Report, Severity
from licenses.verify import open_license

_MAX_TOTALS_BYTES = 1024 * 1024
_MAX_LEVELS = 4


def verify_records(
    source: Path,
    trust_root: TrustRoot,
    *,
    device_keys: Sequence[VerifyingKey] = (),
    previous: str | None = None,
    acks: Sequence[bytes] = (),
    license_files: Sequence[bytes] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Verify all usage records below a folder, or in a bundle.

    Args:
        source: The output mount, a service's folder in it, or one instance's folder; or a bundle, which is unpacked
            into a temporary folder first.
        trust_root: The vendor whose records these should be.
        device_keys: Public keys of the devices, pinned: obtained otherwise than from this folder.
        previous: A signed checkpoint that the auditor kept from an earlier audit; the records must extend it.
        acks: The vendor's acknowledgements, as files, besides those in the folder; the records must extend them.
        license_files: Licence files to compare with what the records tell; None compares nothing.
        progress: Called now and then with the number of entries read of the instance at hand.

    Returns:
        What was found. Nothing that is wrong with the records is raised.

    Raises:
        LicensesError: What was given is not good: `previous`, one of `acks` or one of `license_files`.
    """
    given = Given(
        trust_root=trust_root,
        device_keys=device_keys,
        kept=None if previous is None else _open_kept(previous, device_keys),
        acks=[_open_given(blob, trust_root, device_keys) for blob in acks],
        licenses=None if license_files is None else [_open_license(blob, trust_root) for blob in license_files],
    )
    if not source.is_file():
        return _audit(source, given, progress)
    try:
        if not is_bundle(source):
            message = "This is neither a folder of usage records nor a bundle."
            return _refused(source, Severity.UNREADABLE, "no_records", message)
    except FileAccessError as exc:
        return _refused(source, Severity.UNREADABLE, "unreadable", f"{exc}.")
    with tempfile.TemporaryDirectory(prefix="usage-verify-") as folder:
        return _audit_bundle(source, Path(folder), given, progress)


def _audit_bundle(bundle: Path, folder: Path, given: Given, progress: Progress | None) -> Report:
    try:
        manifest = unpack_bundle(bundle, folder, device_keys=given.device_keys)
        proofs = [Consistency.from_bytes(path.read_bytes()) for path in sorted((folder / "proofs").glob("*.json"))]
    except FileAccessError as exc:
        return _refused(bundle, Severity.UNREADABLE, "unreadable", f"{exc}.")
    except LicensesError as exc:
        return _refused(
            bundle, Severity.TAMPERED, "bundle", f"It is no good bundle, and nothing in it was read: {exc}."
        )
    span, findings = manifest.span, []
    told = Checkpoint(span.origin, span.size, span.root)
    report = _audit(folder, replace(given, manifest=told, proofs=proofs), progress, called=bundle)
    if any(one.origin != span.origin for one in report.instances):
        message = f"The manifest tells of the log {span.origin}, the records of another."
        findings.append(Finding(Severity.TAMPERED, "bundle", str(bundle), message))
    findings.extend(_compare_totals(folder / TOTALS_NAME, report))
    return replace(report, findings=(*report.findings, *findings))


def _compare_totals(path: Path, report: Report) -> Iterator[Finding]:
    """What the bundle says that its records sum up to; the site may have read that and nothing else."""
    try:
        blob = read_small_file(path, doing="read the totals", mode="0444", max_bytes=_MAX_TOTALS_BYTES)
        fields = parse_object(blob, what="totals", max_bytes=_MAX_TOTALS_BYTES)
        told = meters_from(fields.nested_list("meters")) if fields.has("meters") else None
    except KeyFileError:
        return
    except FormatError as exc:
        yield Finding(Severity.TAMPERED, "bundle_totals", path.name, f"The bundle's totals are malformed: {exc}.")
        return
    sums: Counter[str] = Counter()
    for one in report.instances:
        sums.update(one.meters)
    if told is not None and told != dict(sums):
        message = "The bundle's totals are not what its records sum up to."
        yield Finding(Severity.TAMPERED, "bundle_totals", path.name, message)


def _refused(source: Path, severity: Severity, code: str, message: str) -> Report:
    return Report(instances=(), findings=(Finding(severity, code, str(source), message),))


def _audit(directory: Path, given: Given, progress: Progress | None, *, called: Path | None = None) -> Report:
    """Audit all instances below a folder; `called` is what the auditor knows it by."""
    where = str(called or directory)
    passed_over = FindingList()
    try:
        folders = find_instances(directory, passed_over)
    except OSError as exc:
        return Report(instances=(), findings=(unreadable(where, exc),))
    findings = passed_over.kept
    if not folders:
        message = "There are no usage records here: no folder 'usage' of an instance was found."
        findings.append(Finding(Severity.UNREADABLE, "no_records", where, message))
    audits = [InstanceAudit(folder, given, progress) for folder in folders]
    reports = [audit.run() for audit in audits]
    findings.extend(_not_found(given, reports, where))
    copies = [
        copy_of(folder, directory, audit, report)
        for folder, audit, report in zip(folders, audits, reports, strict=True)
    ]
    findings.extend(compare_copies(copies, given, progress))
    return Report(instances=tuple(reports), findings=tuple(findings))


def _not_found(given: Given, reports: Sequence[InstanceReport], where: str) -> Iterator[Finding]:
    """What the auditor gave, and of which there are no records. Where there are none at all, that is the finding."""
    if not reports:
        return
    origins = {report.origin for report in reports}
    if given.kept is not None and given.kept.origin not in origins:
        message = f"The kept checkpoint is of {given.kept.origin}, of which there are no records."
        yield Finding(Severity.TAMPERED, "kept_origin_missing", where, message)
    for ack in given.acks:
        if ack.origin not in origins:
            message = f"An acknowledgement given is of {ack.origin}, of which there are no records."
            yield Finding(Severity.TAMPERED, "ack_origin_missing", where, message)
    for key in given.device_keys:
        if key.key_id not in {report.pinned_key for report in reports}:
            message = f"No records are of the pinned device {device_id_of(key.raw)}."
            yield Finding(Severity.TAMPERED, "pinned_key_unused", where, message)


def find_instances(directory: Path, findings: FindingList | None = None) -> list[Path]:
    """The instances' folders at, or up to three levels below, a folder; those have a folder `usage`.

    One site sends an instance's folder, another a copy of its output mount: an instance on one level hides none on the
    next. Only below an instance none is looked for.

    Args:
        directory: Where to begin.
        findings: Told what was passed over, or could not be looked at.

    Raises:
        OSError: The folder itself cannot be listed.
    """
    findings = findings or FindingList()
    if directory.name == FOLDER and not (directory / FOLDER).is_dir():
        directory = directory.parent
    found: list[Path] = []
    links: list[Path] = []
    level = [directory]
    for _ in range(_MAX_LEVELS):
        deeper: list[Path] = []
        for folder in level:
            try:
                if (folder / FOLDER).is_dir():
                    found.append(folder)
                    continue
                children = [one for one in sorted(folder.iterdir()) if not one.name.startswith(".") and one.is_dir()]
            except OSError as exc:
                if folder == directory:
                    raise
                findings.add(unreadable(os.path.relpath(folder, directory), exc))
                continue
            links.extend(one for one in children if one.is_symlink())
            deeper.extend(one for one in children if not one.is_symlink())
        level = deeper
    for passed_over, why in ((links, "symbolic links are not followed"), (level, "it lies too deep")):
        if passed_over:
            more = f", nor at {len(passed_over) - 1} more such" if len(passed_over) > 1 else ""
            message = f"It was not looked at{more}: {why}. Give it by itself if records lie there."
            findings.find(Severity.NOTE, "folder_passed_over", os.path.relpath(passed_over[0], directory), message)
    return found


def _open_license(blob: bytes, trust_root: TrustRoot) -> License:
    try:
        return open_license(blob, trust_root)
    except LicensesError as exc:
        raise RecordError(
            f"a licence given is not good: {exc}", next_step="Take the file that the vendor delivered."
        ) from exc


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `usage-verify`; returns its exit code. See `licenses.usage_log.command`."""
    from licenses.usage_log import command

    return command.main(argv)


if __name__ == "__main__":
    sys.exit(main())
