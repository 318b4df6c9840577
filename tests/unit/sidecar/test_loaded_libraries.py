"""What a process of the sidecar carries: each library has its process, and no other loads it."""

import importlib.util
import subprocess
import sys

import pytest

PROCESSES = {
    "launcher": "sidecar.cli, sidecar.launcher, sidecar.bootstrap, sidecar.log_files",
    "meter": "sidecar.cli, sidecar.bootstrap, sidecar.scheduler",
    "web": "sidecar.cli, sidecar.web.server",
}
ELSEWHERE = {
    "launcher": ("flask", "gunicorn", "apscheduler"),
    "meter": ("flask", "gunicorn"),
    "web": ("apscheduler",),
}


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_loads_what_it_needs(process: str) -> None:
    libraries = ("numpy", "pandas", "PIL", "onnxruntime", "tesserocr", "docker", *ELSEWHERE[process])
    script = f"import sys, {PROCESSES[process]}\nprint(*(name for name in {libraries} if name in sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).split() == []
    assert importlib.util.find_spec("numpy"), "with no numpy installed, not to load it proves nothing"
