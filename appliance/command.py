"""The command `install.sh`: words in, lines and an exit code out.

Invariants: it never asks a question; every failure is one message with its name and a next step; `--check` changes
nothing. Exit codes are those of contract H16.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from appliance.bundle import Bundle, Progress, nothing_told, open_bundle, read_manifest
from appliance.errors import (
    EXIT_SOFTWARE,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    BundleError,
    HostError,
    InstallError,
    NotRootError,
    StepError,
    UntrustedReleaseKeyError,
    UsageError,
)
from appliance.host import Check, look_at
from appliance.installer import Installer, Wishes
from appliance.places import Places, version_of
from appliance.release import Manifest, ReleaseKey, fingerprint_of
from appliance.system import System

_DESCRIPTION = """\
Install Tollgate on this machine, or upgrade it, from a bundle and without a network. An upgrade keeps state, settings
and licences; the old version stays until the new one is ready, and serves again if that does not come up. Run again
after any interruption, it ends well. Nothing is ever asked; without --accept-eula the terms are not accepted, and the
service is installed and not started."""
_EPILOG = """\
Exit codes: 0 done; 64 wrong usage; 65 the bundle is refused, nothing was changed; 69 the machine lacks something, or
the service does not come up; 70 a step failed, or the old version serves again; 73 another run is at work; 77 not root;
78 the licence file is refused. With --check: 0 or 69, and 65 for the bundle."""
_WHOLE = 100
_LONGEST_WAIT_SECONDS = 86_400


class _Words(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Wrong usage has the exit code that the contract gives it."""
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\nNext step: '{self.prog} --help' lists what there is.\n")


def main(words: Sequence[str], own_folder: Path) -> int:
    """Run the command.

    Args:
        words: The command line.
        own_folder: Where the installer lies: an unpacked bundle, or the parts that a release keeps of it.

    Returns:
        The exit code.
    """
    os.umask(0o022)
    told = _parser().parse_args(words)
    places, system = Places(), System()
    try:
        if told.check:
            return _check(told, own_folder, places, system)
        if os.geteuid() != 0:
            raise NotRootError("only root can install or remove Tollgate")
        if told.uninstall:
            Installer(places, system, _say).uninstall()
            return 0
        bundle = _verified(told, own_folder, places)
        if _is_own(own_folder, places):
            return _hand_over(bundle, words, places, system)
        _require_fit(places, system, bundle.manifest)
        Installer(places, system, _say).install(
            bundle,
            Wishes(
                accept_terms=told.accept_eula,
                license_file=told.licence,
                allow_downgrade=told.allow_downgrade,
                start=not told.no_start,
                wait_seconds=told.wait,
            ),
        )
    except InstallError as exc:
        return _tell(exc)
    except OSError as exc:
        return _tell(StepError(f"the system refused: {exc}"))
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted. Run the same command again; it goes on where it was.\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Words(
        prog="install.sh",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="look whether it would work; changes nothing, needs no root")
    what.add_argument(
        "--uninstall", action="store_true", help="remove the programs; ledger and records stay, and are named"
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="PATH", help="the bundle, as tar or folder [the one that this script lies in]"
    )
    parser.add_argument(
        "--release-key", metavar="FILE|FINGERPRINT",
        help="believe this release key [the one that signed what is installed]",
    )  # fmt: skip
    parser.add_argument("--licence", "--license", type=Path, metavar="FILE", help="install this licence file too")
    parser.add_argument("--accept-eula", action="store_true", help="accept the licence terms for this site")
    parser.add_argument("--no-start", action="store_true", help="do not start the service")
    parser.add_argument("--allow-downgrade", action="store_true", help="let an older version replace a newer one")
    parser.add_argument(
        "--wait", type=_seconds, default=120.0, metavar="SECONDS", help="how long it may take until it is ready [120]"
    )
    parser.add_argument("--json", action="store_true", help="with --check: print the outcomes for programs")
    parser.add_argument("--version", action=_Version, nargs=0, help="tell the version that this script installs")
    return parser


def _seconds(text: str) -> float:
    """Seconds of a day at most; no waiting ends that is not a number."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _LONGEST_WAIT_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r}: wants seconds, from 0 to {_LONGEST_WAIT_SECONDS}")
    return seconds


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_others: object) -> None:
        """Tell the version of the bundle around this script."""
        try:
            manifest, _ = read_manifest(Path(__file__).resolve().parents[2], None)
        except BundleError as exc:
            parser.exit(_tell(exc))
        sys.stdout.write(f"install.sh {manifest.version}\n")
        parser.exit(0)


def _verified(told: argparse.Namespace, own_folder: Path, places: Places) -> Bundle:
    """The bundle that is meant, with every byte verified."""
    path = _bundle_path(told, own_folder, places)
    sys.stdout.write(f"Verifying {path} …\n")
    trusted = _trusted(told, places)
    bundle = open_bundle(path, trusted, _progress())
    for line in _identity(bundle.manifest, trusted):
        _say(line)
    return bundle


def _bundle_path(told: argparse.Namespace, own_folder: Path, places: Places) -> Path:
    if told.bundle is not None:
        return Path(told.bundle)
    if _is_own(own_folder, places):
        raise UsageError(
            "this is the installer of what is installed already, and holds no bundle",
            next_step="Name the bundle: tollgate-install --bundle /path/to/tollgate-VERSION-x86_64.tar",
        )
    return own_folder


def _is_own(folder: Path, places: Places) -> bool:
    """Whether this is the installer of the release that is installed, and not that of a bundle."""
    return folder.is_relative_to(places.programs)


def _hand_over(bundle: Bundle, words: Sequence[str], places: Places, system: System) -> int:
    """Judged by the installed version, a bundle is installed by its own installer, which knows what it needs."""
    with tempfile.TemporaryDirectory(prefix="tollgate-installer-", dir=places.guests) as folder:
        for member in bundle.members("install.sh", "installer/", "checksums.txt"):
            bundle.copy(member, Path(folder) / member.path)
        # By its interpreter: Debian mounts /run without the right to execute.
        return system.hand_over("sh", Path(folder) / "install.sh", *words)


def _trusted(told: argparse.Namespace, places: Places) -> frozenset[str] | None:
    """Whose bundles are believed here; None for anybody's, on a machine that has none."""
    if told.release_key is not None:
        return frozenset({fingerprint_of(told.release_key)})
    try:
        pinned = ReleaseKey.from_pem(places.release_key.read_bytes(), places.release_key)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise UntrustedReleaseKeyError(
            f"the release key that is trusted here cannot be read: {exc}", next_step="Run this as root."
        ) from exc
    return frozenset({pinned.fingerprint})


def _identity(manifest: Manifest, trusted: frozenset[str] | None) -> list[str]:
    kind = "evaluation release key" if manifest.evaluation else "release key"
    lines = [
        f"Tollgate {manifest.version}, {len(manifest.members)} files, each as it was signed.",
        f"Signed by the {kind} {manifest.key.fingerprint}",
    ]
    if trusted is None:
        lines.append("  No key was known here, so this one is believed. Compare it with the vendor's by another way.")
    return lines


def _require_fit(places: Places, system: System, manifest: Manifest) -> None:
    """Say what stands in the way, and only that."""
    checks = list(look_at(places, system, manifest))
    failed = [check for check in checks if check.result == "fail"]
    for check in failed:
        for line in check.lines():
            _say(line)
    if failed:
        raise HostError(f"this machine cannot take it: {', '.join(check.name for check in failed)}")


def _check(told: argparse.Namespace, own_folder: Path, places: Places, system: System) -> int:
    """All checks, said one by one."""
    checks: list[Check] = []
    code = 0
    manifest = None
    try:
        path = own_folder if told.bundle is None else Path(told.bundle)
        trusted = _trusted(told, places)
        if told.bundle is None and _is_own(own_folder, places):
            manifest, _ = read_manifest(own_folder, trusted)
            checks.append(Check("bundle", "ok", f"none is looked at; {manifest.version} is installed"))
        else:
            manifest = open_bundle(path, trusted, nothing_told if told.json else _progress()).manifest
            first, *others = _identity(manifest, trusted)
            checks.append(Check("bundle", "ok", first))
            checks.append(
                Check("release key", "warn", others[0], others[1].strip()) if others[1:]
                else Check("release key", "ok", others[0])
            )  # fmt: skip
    except InstallError as exc:
        checks.append(Check("bundle", "fail", f"{exc.code}: {exc}", exc.next_step))
        code = exc.exit_code
    if os.geteuid() != 0:
        checks.append(Check("user", "warn", "this is not root, so not everything can be seen", "Run it as root."))
    if manifest is not None:
        checks.extend(look_at(places, system, manifest))
    if told.json:
        sys.stdout.write(json.dumps([check.to_wire() for check in checks], indent=2) + "\n")
    else:
        for check in checks:
            for line in check.lines():
                _say(line)
        installed = places.installed()
        _say(f"Nothing was changed{f'; {version_of(installed)} is installed' if installed else ''}.")
    return code or (EXIT_UNAVAILABLE if any(check.result == "fail" for check in checks) else 0)


def _progress() -> Progress:
    """A line that counts up, where somebody watches."""
    if not sys.stdout.isatty():
        return nothing_told
    shown = -1

    def tell(done: int, whole: int) -> None:
        nonlocal shown
        percent = done * _WHOLE // max(whole, 1)
        if percent != shown:
            shown = percent
            sys.stdout.write(f"\r  {percent:3} %" + ("\n" if percent == _WHOLE else ""))
            sys.stdout.flush()

    return tell


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _tell(exc: InstallError) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"install.sh: {exc.code}: {exc}\nNext step: {exc.next_step}\n")
    return exc.exit_code or EXIT_SOFTWARE
