"""What a confined process cannot do is tried from inside one; what it needs is read through a real core."""

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ocr_core import confinement, limits
from ocr_core.confinement import Role, landlock, seccomp
from ocr_core.confinement.kernel import system_call
from ocr_core.confinement.seccomp import ALLOW, Policy, Rule, refuse
from ocr_core.forked_process import fork
from tests import pages
from tests.integration.ocr_core.running_core import RunningCore, running_core

NOBODY = 65532
MODELS = Path("/usr/share/tesseract-ocr")
needs_landlock = pytest.mark.skipif(landlock.version() == 0, reason="this kernel has no Landlock")
_libc = ctypes.CDLL(None, use_errno=True)


def in_reader(attempt: Callable[[], object], *readable: Path) -> str | signal.Signals:
    """What becomes of an attempt in a confined process: the name of its error, "done", or the signal it died of."""
    told_at, tell_at = os.pipe()
    pid = fork()
    if pid == 0:
        outcome = "?"
        try:
            found = confinement.confine(Role.READER, readable=readable, cpu_seconds=30)
            assert found.complete or landlock.version() == 0, found
            attempt()
            outcome = "done"
        except OSError as exc:
            outcome = errno.errorcode.get(exc.errno or 0, "?")
        except BaseException as exc:  # noqa: BLE001 - it is told
            outcome = type(exc).__name__
        finally:
            os.write(tell_at, outcome.encode())
            os._exit(0)
    os.close(tell_at)
    with os.fdopen(told_at) as told:
        outcome = told.read()
    _, status = os.waitpid(pid, 0)
    return signal.Signals(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else outcome


def call(number: int, *arguments: int) -> Callable[[], None]:
    def attempt() -> None:
        if _libc.syscall(number, *map(ctypes.c_ulong, arguments)) == -1:
            raise OSError(ctypes.get_errno(), "")

    return attempt


# ---- what a reader cannot do


def test_it_reads_no_file_but_models_and_libraries(tmp_path: Path) -> None:
    secret, model = tmp_path / "state" / "device.key", tmp_path / "models" / "a.traineddata"
    for path in (secret, model):
        path.parent.mkdir()
        path.write_text("a")
    assert in_reader(model.read_text, tmp_path / "models") == "done"
    assert in_reader(lambda: os.listdir(tmp_path / "models"), tmp_path / "models") == "done"
    assert in_reader(Path(json.__file__).read_text) == "done"
    if landlock.version() == 0:
        pytest.skip("this kernel has no Landlock")
    for path in (
        secret,
        Path("/etc/passwd"),
        Path("/proc/self/environ"),
        Path(f"/proc/{os.getpid()}/mem"),
        Path("/dev/null"),
    ):
        assert in_reader(path.read_bytes, tmp_path / "models") == "EACCES", path
    for folder in (secret.parent, Path("/proc"), Path("/")):
        assert in_reader(lambda folder=folder: os.listdir(folder), tmp_path / "models") == "EACCES", folder


@needs_landlock
def test_a_file_that_is_open_stays_open_but_opens_no_other(tmp_path: Path) -> None:
    path = tmp_path / "document"
    path.write_text("a page")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert in_reader(lambda: os.pread(descriptor, 6, 0)) == "done"
        assert in_reader(Path(f"/proc/self/fd/{descriptor}").read_bytes) == "EACCES"
    finally:
        os.close(descriptor)


def test_it_writes_nowhere(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("kept")
    attempts: dict[str, Callable[[], object]] = {
        "write": lambda: there.write_text("lost"),
        "append": lambda: there.open("a"),
        "create": (tmp_path / "new").touch,
        "unnamed": lambda: os.open(tmp_path, os.O_TMPFILE | os.O_RDWR),
        "truncate": lambda: os.truncate(there, 0),
        "unlink": there.unlink,
        "rename": lambda: there.rename(tmp_path / "elsewhere"),
        "mkdir": (tmp_path / "folder").mkdir,
        "symlink": lambda: (tmp_path / "link").symlink_to(there),
        "link": lambda: os.link(there, tmp_path / "link"),
        "mode": lambda: there.chmod(0o777),
        "owner": lambda: os.chown(there, 0, 0),
        "times": lambda: os.utime(there),
        "attribute": lambda: os.setxattr(there, "user.a", b"a"),
        "pipe": lambda: os.mkfifo(tmp_path / "pipe"),
    }
    outcomes = {name: in_reader(attempt, tmp_path) for name, attempt in attempts.items()}
    assert set(outcomes.values()) <= {"EROFS", "EPERM", "EACCES", signal.SIGSYS}, outcomes
    assert there.read_text() == "kept"
    assert os.listdir(tmp_path) == ["there"]


def test_it_reaches_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as named:
        named.bind("\0tollgate-test")
        named.listen()
        for attempt in (
            lambda: socket.create_connection(server.getsockname(), timeout=1),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"a", server.getsockname()),
            lambda: socket.socket(socket.AF_INET6),
            lambda: socket.socket(socket.AF_UNIX).connect("\0tollgate-test"),
            lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"a", "/run/systemd/journal/socket"),
            lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
            lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
            lambda: socket.getaddrinfo("localhost", 80),
        ):
            assert in_reader(attempt) in ("EACCES", "gaierror", "?")
        with socket.socket(socket.AF_UNIX) as unbound:
            assert in_reader(lambda: unbound.connect("\0tollgate-test")) == "EPERM"
            assert in_reader(lambda: unbound.bind("\0another")) == "EPERM"
    assert in_reader(lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)) == "done"


def test_it_starts_no_process_but_threads() -> None:
    thread = threading.Thread(target=int)
    assert in_reader(lambda: (thread.start(), thread.join())) == "done"
    assert in_reader(os.fork) == "EPERM"
    assert in_reader(lambda: subprocess.run(["true"], check=False)) == "EPERM"
    assert in_reader(lambda: os.posix_spawn("/bin/true", ["true"], {})) == "EPERM"
    assert in_reader(lambda: os.execv("/bin/true", ["true"])) == signal.SIGSYS


def test_it_makes_no_memory_executable() -> None:
    code = mmap.PROT_READ | mmap.PROT_EXEC
    assert in_reader(lambda: mmap.mmap(-1, 4096, prot=code)) == "EPERM"
    assert in_reader(lambda: mmap.mmap(-1, 4096, prot=code | mmap.PROT_WRITE)) == "EPERM"

    def map_a_file() -> None:
        file = os.memfd_create("a")
        os.ftruncate(file, 4096)
        mmap.mmap(file, 4096, flags=mmap.MAP_PRIVATE, prot=code)

    assert in_reader(map_a_file) == "EPERM"
    assert in_reader(lambda: mmap.mmap(-1, 4096)) == "done"


def test_it_signals_nobody_else() -> None:
    other = os.getpid()
    assert in_reader(lambda: os.kill(other, 0)) == "EPERM"
    assert in_reader(lambda: os.kill(-1, 0)) == "EPERM"
    assert in_reader(lambda: os.kill(os.getpid(), 0)) == "done"


@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        pytest.param(101, (0,), id="ptrace"),
        pytest.param(165, (0, 0, 0), id="mount"),
        pytest.param(248, (0, 0, 0), id="add_key"),
        pytest.param(272, (0x10000000,), id="unshare"),
        pytest.param(298, (0, 0, 0), id="perf_event_open"),
        pytest.param(304, (0, 0, 0), id="open_by_handle_at"),
        pytest.param(310, (1, 0, 0), id="process_vm_readv"),
        pytest.param(321, (0, 0, 0), id="bpf"),
        pytest.param(323, (0,), id="userfaultfd"),
        pytest.param(425, (1, 0), id="io_uring_setup"),
        pytest.param(105, (0,), id="setuid"),
        pytest.param(126, (0, 0), id="capset"),
    ],
)
def test_what_no_decoder_could_want_ends_it(number: int, arguments: tuple[int, ...]) -> None:
    assert in_reader(call(number, *arguments)) == signal.SIGSYS


def test_what_it_gave_up_stays_given_up() -> None:
    everything = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_CORE):
        outcome = in_reader(lambda kind=kind: resource.setrlimit(kind, everything))
        assert outcome in ("ValueError", "EPERM", "PermissionError")
    assert in_reader(call(157, 38, 0, 0, 0, 0)) == "EPERM"  # no_new_privs
    assert in_reader(call(317, 1, 0, 0)) == "EPERM"  # another filter
    assert in_reader(call(444, 0, 0, 1)) == "EPERM"  # another Landlock


def test_its_files_memory_and_time_are_bounded() -> None:
    def grow() -> None:
        os.ftruncate(os.memfd_create("a"), confinement.FILE_BYTES * 2 + 2**40)

    def take() -> None:
        bytearray(3 * 2**30)

    def spin() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
        while True:
            pass

    assert in_reader(grow) == "EFBIG"
    assert in_reader(lambda: [os.pipe() for _ in range(confinement.OPEN_FILES)]) == "EMFILE"
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        limits.limit_memory(2 * 2**30)
        assert in_reader(take) == "MemoryError"
        assert in_reader(lambda: resource.setrlimit(resource.RLIMIT_AS, before)) in ("ValueError", "EPERM")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert in_reader(spin) in (signal.SIGXCPU, signal.SIGKILL)


def test_no_step_is_promised_untried() -> None:
    tried = confinement.probe(readable=[MODELS], cpu_seconds=60)
    assert tried.role is Role.READER
    assert tried.complete or landlock.version() == 0, tried


# ---- what it needs works


@pytest.fixture(scope="module")
def core() -> Iterator[RunningCore]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ApiKey", "a-secret-of-the-sidecar")
        patch.setenv("Billing", "https://billing.example/with-a-token")
        with running_core(words=("Core:Workers=1", "Core:SecondEngine=off")) as running:
            yield running


def family(core: RunningCore) -> list[psutil.Process]:
    """The workers and their decoders."""
    assert core.process is not None
    return psutil.Process(core.process.pid).children(recursive=True)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_all_who_see_documents_are_confined(core: RunningCore) -> None:
    assert core.process is not None
    give_up = time.monotonic() + 20
    # One page at a time, one that takes long, two that look: each with its decoder. The filter is the last step of
    # each, beside the master's, which they were born with.
    while len(found := family(core)) < 8 or any(status_of(one.pid)["Seccomp_filters"] != "2" for one in found):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    for process in found:
        status = status_of(process.pid)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert int(status["CapPrm"], 16) & ~(1 << 2) == 0
        assert int(status["CapBnd"], 16) == 0 or os.getuid() != 0
        assert process.rlimit(psutil.RLIMIT_CORE)[1] <= 1
        assert int(Path(f"/proc/{process.pid}/coredump_filter").read_text(), 16) == 0
        assert process.rlimit(psutil.RLIMIT_NOFILE)[1] == confinement.OPEN_FILES
        assert process.rlimit(psutil.RLIMIT_CPU)[1] > 0
        assert int(Path(f"/proc/{process.pid}/oom_score_adj").read_text()) >= 500
        assert os.readlink(f"/proc/{process.pid}/ns/net") != os.readlink("/proc/self/ns/net") or os.getuid() != 0
    master = status_of(core.process.pid)
    assert (master["NoNewPrivs"], master["Seccomp"]) == ("1", "2")


def test_no_process_of_the_core_holds_anothers_secret(core: RunningCore) -> None:
    assert core.process is not None
    for pid in (core.process.pid, *(process.pid for process in family(core))):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"a-secret-of-the-sidecar" not in environment
        assert b"with-a-token" not in environment


def test_health_and_the_log_tell_it(core: RunningCore) -> None:
    told = core.get("/health")[1]["confinement"]
    assert isinstance(told, dict)
    assert told["complete"] or landlock.version() == 0, told
    assert any("system calls" in step for step in told["lowered"])
    assert core.log_text().count("confined") == 1


PAGE = pages.printed_page(pages.LINES[:3], size=(1240, 500))


def documents() -> dict[str, bytes]:
    return {
        "png": pages.as_png(PAGE),
        "jpeg": pages.as_jpeg(PAGE),
        "bmp": pages.as_bmp(PAGE),
        "gif": pages.as_gif([PAGE]),
        "webp": pages.as_webp(PAGE),
        "tiff": pages.as_tiff([PAGE, PAGE]),
        "pdf": pages.as_pdf([PAGE]),
    }


def read_all(core: RunningCore) -> None:
    for kind, blob in documents().items():
        name = core.put_document(blob)
        status, told = core.inspect(name, formats=list(documents()))
        assert (status, told.get("format")) == (200, kind), told
        status, told = core.page(name)
        assert status == 200, (kind, told, core.log_text())
        lines = told["lines"]
        assert isinstance(lines, list)
        assert lines[0]["text"] == pages.LINES[0], kind


def test_documents_of_every_kind_are_read(core: RunningCore) -> None:
    before = {process.pid for process in family(core)}
    read_all(core)
    assert {process.pid for process in family(core)} == before, "somebody was lost"


def test_a_model_that_is_needed_later_is_loaded(core: RunningCore) -> None:
    models = core.get("/languages")[1]["models"]
    assert isinstance(models, list)
    later = next((model for model in models if model not in ("eng", "osd")), None)
    if later is None:
        pytest.skip("no other model is installed")
    status, told = core.page(core.put_document(pages.as_png(PAGE)), languages=[later])
    assert status == 200, told


def test_a_device_that_the_meter_makes_later_is_seen(own_core: RunningCore) -> None:
    key, away = own_core.state / "device.pub", own_core.folder / "device.pub"
    key.rename(away)
    own_core.start()
    name = own_core.put_document(pages.as_png(PAGE))
    assert own_core.page(name)[0] == 403
    away.rename(key)
    until = time.monotonic() + 5
    while (status := own_core.page(name)[0]) != 200:
        assert time.monotonic() < until, status
        time.sleep(0.1)


# ---- as another user, in a container, and not at all


def a_python_for_everyone() -> str | None:
    """An interpreter of this version that any user may start."""
    here = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (os.path.realpath(sys.executable), f"/usr/bin/{here}"):
        parents = Path(path).parents
        if os.path.exists(path) and all(parent.stat().st_mode & 0o001 for parent in parents):
            return path
    return None


def start(core: RunningCore, command: list[str], **options: object) -> None:
    with core.log.open("ab") as log:
        core.process = subprocess.Popen(
            [*command, "-m", "ocr_core", *core.words],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options,  # type: ignore[call-overload]
        )  # fmt: skip
    core.wait_until_ready()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_a_user_without_privileges_is_confined_and_reads() -> None:
    python = a_python_for_everyone()
    if python is None:
        pytest.skip("no interpreter of this version that every user may start")
    core = RunningCore(words=("Core:Workers=1", "Core:SecondEngine=off"))
    try:
        for path in (core.folder, *core.folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        libraries = os.pathsep.join([str(Path(psutil.__file__).parents[1]), str(Path(confinement.__file__).parents[1])])
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": libraries}
        start(core, [python], user=NOBODY, group=NOBODY, extra_groups=[], env=environment)
        told = core.get("/health")[1]["confinement"]
        assert isinstance(told, dict)
        assert told["complete"] or landlock.version() == 0, told
        read_all(core)
    finally:
        core.clean_up()


def test_where_a_container_refuses_it_says_so_and_reads() -> None:
    """As under a container engine's own filter: no namespaces, no Landlock."""

    def contain() -> None:
        system_call(157, 38, 1, 0, 0, 0)
        no = {number: Rule(refuse(errno.EPERM)) for number in (272, 444, 445, 446)}
        seccomp.install(Policy(rules=no, default=ALLOW))

    core = RunningCore(words=("Core:Workers=1", "Core:SecondEngine=off"))
    try:
        start(core, [sys.executable], preexec_fn=contain)
        told = core.get("/health")[1]["confinement"]
        assert isinstance(told, dict)
        assert not told["complete"]
        assert any(step.startswith("files") for step in told["refused"])
        assert any(step.startswith("system calls") for step in told["lowered"])
        assert any(step.startswith("no network") for step in told["lowered"])
        assert "but for what this system refuses" in core.log_text()
        read_all(core)
    finally:
        core.clean_up()


def test_it_can_be_turned_off_and_says_so_loudly() -> None:
    with running_core(words=("Core:Workers=1", "Core:SecondEngine=off", "Core:Confinement=off")) as core:
        assert core.get("/health")[1]["confinement"] is None
        assert "NOT CONFINED" in core.log_text()
        assert core.page(core.put_document(pages.as_png(PAGE)))[0] == 200
        assert all(status_of(process.pid)["Seccomp"] == status_of(os.getpid())["Seccomp"] for process in family(core))
