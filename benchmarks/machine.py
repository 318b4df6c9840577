"""What a benchmark runs on, and whether the machine has anything else to do.

Invariant: what is told of the machine names its kind, never the machine: no host name, no address, no path, no date.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

_BUSY_SHARE = 0.15


def usable_cpus() -> int:
    """How many processors this process may use; as many engines are started of each kind."""
    return len(os.sched_getaffinity(0))


def progress(words: str) -> None:
    """Say on stderr what is being done."""
    print(f"[{time.strftime('%H:%M:%S')}] {words}", file=sys.stderr, flush=True)


def described() -> str:
    """The machine in a few lines."""
    megabytes = psutil.virtual_memory().total / 2**20
    lines = [
        f"{_cpu_model()}, {usable_cpus()} CPUs, {megabytes / 1024:.0f} GiB, frequency governor {_governor()}; "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}",
        ", ".join(_versions()),
    ]
    return "\n".join(lines)


def busy_warning(seconds: float = 2.0) -> str:
    """Why figures of this moment would be doubtful; empty where nothing else takes the processors."""
    share = psutil.cpu_percent(seconds) / 100
    load = os.getloadavg()[0]
    if share <= _BUSY_SHARE:
        return ""
    return (
        f"WARNING: before anything was started, other work took {share:.0%} of the processors (load {load:.1f}). "
        "Ratios of the same round still mean something; times do not. Run again on an idle machine."
    )


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _governor() -> str:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _versions() -> list[str]:
    told = [f"{name} {found}" for name in ("tesserocr", "pillow", "rapidocr", "onnxruntime") if (found := _of(name))]
    return [*_engine_version(), *told, *_command_version()]


def _of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _engine_version() -> list[str]:
    words = "import tesserocr; print(tesserocr.tesseract_version().split()[1])"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
    return [f"Tesseract {done.stdout.strip()} in tesserocr"] if done.returncode == 0 else []


def _command_version() -> list[str]:
    try:
        done = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ["no tesseract command"]
    return [f"tesseract command {done.stdout.split()[1]}"] if done.returncode == 0 else []


def waited(holds: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: It did not.
    """
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError(f"after {seconds:g} s: {what}")
        time.sleep(0.05)
