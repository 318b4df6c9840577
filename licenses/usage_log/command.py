"""The command `usage-verify`: arguments in, report out, in one of four forms.

Invariants:

* The exit code follows from what was found alone, whatever form was asked for. What cannot be written ends with 4.
* No fault of this program ends with a code that speaks of the records: it ends with 70.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, TextIO

import licenses
from licenses.ack import read_ack_file
from licenses.device_key import ROLE
from licenses.errors import FileAccessError, LicensesError, RecordError
from licenses.keyring import TrustRoot, load_trust_root
from licenses.keys import load_public_key, read_small_file
from licenses.strict_json import MAX_BYTES
from licenses.usage_log.note import MAX_NOTE_BYTES, unverified_checkpoint
from licenses.usage_log.report import ExitCode, Report, printable
from licenses.usage_log.report_csv import COLUMNS, csv_text
from licenses.usage_log.report_html import Circumstances, html_text
from licenses.usage_log.verify import verify_records

_PROGRESS_AFTER_SECONDS = 1.5
_DESCRIPTION = """\
Verify usage records. Needs no network and no vendor; believes no key that lies beside the records.

Give the device's public key and the vendor's trust root from another source than the records: then the answer is
that of the pinned keys. Keep the file 'checkpoint' of each audit, and give it to the next one with --prev: then an
older state of the same log is noticed."""
_EPILOG = f"""\
verdicts:
  GOOD        complete, unchanged, and sealed by the pinned key
  UNPINNED    in agreement with itself; without --device-key nothing proves whose records these are
  UNSEALED    what is sealed is good; the last records bear no seal yet
  UNANCHORED  what is here is good; the beginning is not here, and nothing given or signed by the vendor covers it
  GAPS        nothing is known to be changed, but not all is covered
  UNREADABLE  some of it could not be read
  TAMPERED    changed, cut off, signed by another key, or not consistent

exit codes:
  0 good, 1 tampered, 2 good but not anchored (UNPINNED, UNSEALED or UNANCHORED; only with --strict), 3 gaps,
  4 unreadable, 64 wrong use, 70 the program failed or cannot run here, 130 interrupted

CSV columns: {", ".join(COLUMNS)}
  kind is 'month' or 'day'; coverage is the weakest that is known of the period's entries.

A bundle is unpacked into the folder for temporary files; set TMPDIR to have it elsewhere."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Wrong use is 64; 2 already says something else."""
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}\n")


class ProgressLine:
    """One line on a terminal that says how far it got, once it takes a while.

    Args:
        stream: Where to; nothing is written if that is no terminal.
        after_seconds: What counts as a while.
    """

    def __init__(self, stream: TextIO, *, after_seconds: float = _PROGRESS_AFTER_SECONDS) -> None:
        self._stream = stream
        self._is_shown = stream.isatty()
        self._next = time.monotonic() + after_seconds
        self._length = 0

    def __call__(self, entries: int) -> None:
        """So many entries of the instance at hand are read."""
        if self._is_shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.25
            line = f"{entries:,} entries read"
            self._write(f"\r{line}")
            self._length = len(line)

    def end(self) -> None:
        """Take the line away again."""
        if self._length:
            self._write("\r" + " " * self._length + "\r")
            self._length = 0

    def _write(self, line: str) -> None:
        self._stream.write(line)
        self._stream.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        return _run(_parser().parse_args(argv))
    except KeyboardInterrupt:
        sys.stderr.write("\nusage-verify: interrupted; nothing is said of the records\n")
        return ExitCode.INTERRUPTED
    except Exception:  # noqa: BLE001 - Python would end with 1, which says that the records are tampered with
        traceback.print_exc()
        sys.stderr.write("usage-verify: this is a fault of the program and says nothing of the records\n")
        return ExitCode.CANNOT_RUN


def _run(arguments: argparse.Namespace) -> int:
    progress = ProgressLine(sys.stderr)
    try:
        trust_root = load_trust_root(arguments.trust_root)
        report = _verify(arguments, trust_root, progress)
        progress.end()
        _write_reports(report, arguments, trust_root)
    except LicensesError as exc:
        progress.end()
        if arguments.json:
            error = {"code": exc.code, "message": str(exc), "next_step": exc.next_step}
            _print(json.dumps({"verdict": "unreadable", "exit_code": 4, "error": error}) + "\n")
        sys.stderr.write(f"usage-verify: {printable(str(exc))}.\nNext step: {printable(exc.next_step)}\n")
        return ExitCode.UNREADABLE
    return report.exit_code(strict=arguments.strict)


def _verify(arguments: argparse.Namespace, trust_root: TrustRoot, progress: Callable[[int], None]) -> Report:
    return verify_records(
        arguments.source,
        trust_root,
        device_keys=[load_public_key(path, ROLE) for path in arguments.device_key],
        previous=None if arguments.prev is None else _read_note(arguments.prev),
        acks=[read_ack_file(path) for path in arguments.ack],
        license_files=None if arguments.license is None else [_read_license(path) for path in arguments.license],
        progress=progress,
    )


def _write_reports(report: Report, arguments: argparse.Namespace, trust_root: TrustRoot) -> None:
    """What was asked for; the text when nothing else goes to the terminal."""
    if arguments.html is not None:
        _write(arguments.html, html_text(report, _circumstances(arguments, trust_root)))
    if arguments.csv is not None:
        _write(arguments.csv, csv_text(report))
    if arguments.json:
        _print(json.dumps(report.to_members(strict=arguments.strict), indent=2) + "\n")
    elif Path("-") not in (arguments.html, arguments.csv):
        _print("".join(f"{line}\n" for line in report.to_lines()))


def _circumstances(arguments: argparse.Namespace, trust_root: TrustRoot) -> Circumstances:
    kept = ""
    if arguments.prev is not None:
        checkpoint = unverified_checkpoint(_read_note(arguments.prev))
        kept = f"{checkpoint.size:,} entries of {checkpoint.origin}"
    return Circumstances(
        source=str(arguments.source),
        vendor=trust_root.vendor,
        trust_root_version=trust_root.version,
        evaluation=trust_root.evaluation,
        pinned=[load_public_key(path, ROLE).key_id for path in arguments.device_key],
        kept=kept,
        acks=len(arguments.ack),
        licenses=None if arguments.license is None else len(arguments.license),
        strict=arguments.strict,
        done_at=datetime.now(UTC),
        version=licenses.__version__,
    )


def _write(path: Path, content: str) -> None:
    if path == Path("-"):
        _print(content)
        return
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as exc:
        raise FileAccessError.from_os_error(exc, path, doing="write the report", mode="u+w") from exc


def _print(content: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(content.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has read enough; Python must not complain of it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as exc:
        raise FileAccessError.from_os_error(exc, Path("-"), doing="print the report", mode="u+w") from exc


def _read_note(path: Path) -> str:
    blob = read_small_file(path, doing="read the kept checkpoint", mode="0444", max_bytes=MAX_NOTE_BYTES)
    try:
        return blob.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise RecordError(f"{path} is not a checkpoint: it is not UTF-8") from exc


def _read_license(path: Path) -> bytes:
    return read_small_file(path, doing="read the licence", mode="0444", max_bytes=2 * MAX_BYTES)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="usage-verify",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="DIR|BUNDLE",
        help="the output mount, the folder of one instance, or a bundle (usage-....tar.gz)",
    )
    parser.add_argument(
        "--trust-root", "--trust", type=Path, required=True, metavar="FILE", help="the vendor's trust root"
    )
    parser.add_argument(
        "--device-key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="the device's public key (device.pub), from another source than the records; may be given several times",
    )
    parser.add_argument(
        "--prev",
        type=Path,
        metavar="FILE",
        help="the checkpoint kept from an earlier audit; the records must extend it",
    )
    parser.add_argument(
        "--ack",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="an acknowledgement of the vendor, besides those that lie beside the records; may be given several times",
    )
    parser.add_argument(
        "--license",
        type=Path,
        action="append",
        metavar="FILE",
        help="a licence file to compare with what was in force: validity, device, quota; may be given several times",
    )
    parser.add_argument("--strict", action="store_true", help="good but not anchored is not good enough: exit code 2")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of text")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="write the totals per month and per day; '-' prints them"
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write the report as one page for a browser; '-' prints it"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {licenses.__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
