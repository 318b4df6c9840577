"""`sidecar diagnose`: each thing that can be wrong is found, with its cause and what to do."""

from __future__ import annotations

import errno
import http.server
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from licenses.device_key import DeviceKey
from sidecar.admission import Admission
from sidecar.bootstrap import MeterLock
from sidecar.cli import main
from sidecar.diagnose import Check, diagnose, rows, storage
from sidecar.diagnose import core as core_checks
from sidecar.diagnose.storage import User, folder, licenses_readable
from sidecar.gate import Lease
from sidecar.ledger import Ledger, prepare
from sidecar.license_mount import LicenseMount
from sidecar.meter_status import MeterStatus
from sidecar.settings import Settings, load_what_is_valid
from tests.fakes.billing import FakeBilling
from tests.fakes.clock import FakeClock
from tests.fakes.licences import NOW, a_license, a_vendor
from tests.integration.sidecar.test_admission import a_core_that_answers

WELL = {"name": "page", "result": "ok", "cause": "read without a mistake", "next_step": ""}
BROKEN = {"name": "models", "result": "fail", "cause": "there is no model", "next_step": "install one"}
HEALTH = {
    "workers": 2,
    "cpu": {"supported": True, "reason": ""},
    "engine": {"name": "tesseract", "version": "5"},
    "languages": ["eng"],
}
Run = Callable[[Mapping[str, str]], "subprocess.CompletedProcess[str]"]


def told(*checks: dict[str, str]) -> Run:
    """A self-test that finds these."""
    return lambda _environ: subprocess.CompletedProcess([], 0, json.dumps({"checks": checks}), "")


class Appliance:
    """Everything in one folder, and nothing of it running."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.vendor = a_vendor()
        trust_root, license_file = self.vendor.install(path)
        self.license_file = license_file
        for name in ("output", "share", "state"):
            (path / name).mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.settings = Settings(
            eula="accept",
            license_directory=license_file.parent,
            output_directory=path / "output",
            shared_directory=path / "share",
            state_directory=path / "state",
            trust_root=trust_root,
            core_socket=path / "core.sock",
            listen=f"127.0.0.1:{self.port}",
        )

    def change(self, **changes: Any) -> None:
        self.settings = replace(self.settings, **changes)

    def start_once(self) -> Ledger:
        """What the first start leaves: a ledger and a key."""
        DeviceKey.load_or_create(self.settings.state_directory)
        path = self.settings.state_directory / "ledger.db"
        prepare(path)
        ledger = Ledger(path, clock=self.clock, instance="c0ffee123456", version="0")
        ledger.keep_time()
        return ledger

    def diagnosed(self, self_test: Run | None = None, **given: Any) -> list[Check]:
        found = diagnose(self.settings, self.clock, self_test=self_test or told(WELL), **given)
        for check in found:
            assert check.cause
            assert check.next_step or check.result == "ok", check
        return found


@pytest.fixture
def appliance(tmp_path: Path) -> Appliance:
    return Appliance(tmp_path)


def the(found: list[Check], name: str, result: str) -> Check:
    matching = [check for check in found if check.name == name and check.result == result]
    assert matching, [check for check in found if check.name == name]
    return matching[0]


def test_before_the_first_start_nothing_is_wrong(appliance: Appliance) -> None:
    found = appliance.diagnosed()
    assert not [check for check in found if check.result == "fail"]
    for name in ("core", "device key", "ledger"):
        the(found, name, "warn")
    for name in ("settings", "page", "clock", "trust root", "licence", "output", "state", "spool", "port"):
        the(found, name, "ok")


def test_a_service_that_runs_is_well(appliance: Appliance, tmp_path: Path) -> None:
    appliance.start_once().close()
    a_core_that_answers(tmp_path, "200 OK", json.dumps(HEALTH))
    with a_page_at(appliance.port, {"apiStatus": "Valid", "state": "ACTIVE"}):
        found = appliance.diagnosed()
    assert {check.result for check in found if check.name != "decision"} == {"ok"}, found
    assert "ACTIVE" in the(found, "port", "ok").cause
    assert "2 pages" in the(found, "core", "ok").cause
    assert list(tmp_path.glob("*/.*")) == []  # nothing was left behind


# ---- settings and papers --------------------------------------------------------------------------------------------


def test_settings_that_nothing_starts_with(appliance: Appliance) -> None:
    appliance.change(eula="")
    assert "EULA" in the(appliance.diagnosed(), "settings", "warn").cause


def test_a_setting_that_cannot_be_used_ends_no_other_check(appliance: Appliance) -> None:
    settings, refused = load_what_is_valid(["Core:SecondEngine=maybe", "eula=accept"], {})
    assert settings.core_second_engine == "auto"
    found = appliance.diagnosed(refused=refused)
    check = the(found, "settings", "fail")
    assert "Core:SecondEngine='maybe'" in check.cause
    assert "auto, off, required" in check.next_step
    assert not [other for other in found if other.name == "settings" and other.result == "ok"]
    assert len(found) == len(appliance.diagnosed())


def test_the_command_tells_of_settings_that_cannot_be_used_as_of_all_else(
    appliance: Appliance, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    well = told(WELL)
    monkeypatch.setattr(subprocess, "run", lambda *_, env, **__: well(env))
    state = appliance.settings.state_directory
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", "--json", "Core:SecondEngine=maybe", f"Sidecar:StateDirectory={state}"])
    assert ended.value.code == 1
    found = [Check(**each) for each in json.loads(capsys.readouterr().out)]
    the(found, "settings", "fail")
    assert {check.name for check in found} >= {"clock", "trust root", "state", "port"}


def test_settings_that_are_unknown_or_not_used(appliance: Appliance) -> None:
    found = appliance.diagnosed(unknown=["core:wokers"], unused=[("Mounts:Input", "models are installed")])
    assert "core:wokers" in the(found, "settings", "warn").cause
    assert "Mounts:Input" in the(found, "settings", "ok").cause


@pytest.mark.parametrize("blob", [None, b"", b"nonsense", b"{}"])
def test_a_trust_root_that_is_none(appliance: Appliance, blob: bytes | None) -> None:
    if blob is None:
        appliance.settings.trust_root.unlink()
    else:
        appliance.settings.trust_root.write_bytes(blob)
    found = appliance.diagnosed()
    the(found, "trust root", "fail")
    the(found, "licence", "fail")


def test_no_licence(appliance: Appliance) -> None:
    appliance.license_file.unlink()
    assert "Mounts:License" in the(appliance.diagnosed(), "licence", "fail").next_step
    appliance.license_file.parent.rmdir()
    assert str(appliance.license_file.parent) in the(appliance.diagnosed(), "licence", "fail").next_step


def test_a_licence_that_has_ended(appliance: Appliance) -> None:
    ends = {"expires_at": NOW - timedelta(days=100), "termination_at": NOW + timedelta(days=5)}
    past = a_license(not_before=NOW - timedelta(days=400), **ends)
    appliance.license_file.write_bytes(appliance.vendor.seal(past))
    assert "grace" in the(appliance.diagnosed(), "licence", "warn").next_step
    appliance.clock.pass_seconds(6 * 86_400)
    assert "license.dat" in the(appliance.diagnosed(), "licence", "fail").cause


def test_every_file_beside_the_licence_is_told_of(appliance: Appliance) -> None:
    folder = appliance.license_file.parent
    (folder / "notes.txt").write_text("from the vendor")
    (folder / "other.dat").write_bytes(a_vendor().seal())
    (folder / "copy.dat").write_bytes(appliance.license_file.read_bytes())
    found = [check for check in appliance.diagnosed() if check.name in ("licence", "licence file")]
    assert sorted(check.cause.partition(":")[0] for check in found) == sorted(os.listdir(folder))
    assert [check.result for check in found].count("warn") == 2


@pytest.mark.parametrize("bad", [b"", b"cut", b"foreign", b"past"])
def test_a_damaged_file_under_the_name_of_the_licence_in_force_is_told_of(appliance: Appliance, bad: bytes) -> None:
    appliance.start_once().close()
    LicenseMount(appliance.settings, keeper=True).look(NOW)  # the meter has written down what it read
    good = appliance.license_file.read_bytes()
    past = a_license(not_before=NOW - timedelta(days=9), expires_at=NOW - timedelta(days=1), termination_at=NOW)
    content = {b"cut": good[:300], b"foreign": a_vendor().seal(), b"past": appliance.vendor.seal(past)}
    appliance.license_file.write_bytes(content.get(bad, bad))
    found = appliance.diagnosed()
    assert "valid until" in the(found, "licence", "ok").cause
    check = the(found, "licence file", "warn")
    assert check.cause.startswith("license.dat: ")
    assert check.cause.endswith("; the service still goes by what it read from it before")
    if bad == b"cut":
        assert "cut off" in check.cause
        assert "binary mode" in check.next_step


def test_a_file_that_is_no_licence_is_where_to_look_first(appliance: Appliance) -> None:
    appliance.license_file.write_bytes(appliance.license_file.read_bytes()[:300])
    found = appliance.diagnosed()
    assert "each file that is there" in the(found, "licence", "fail").next_step
    assert "binary mode" in the(found, "licence file", "warn").next_step
    appliance.start_once().close()
    assert "binary mode" in the(appliance.diagnosed(), "decision", "fail").next_step


def test_a_licence_in_grace_is_told_in_whole_sentences(appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Admission, "_lease", lambda *_, **__: Lease.HONOURED)
    appliance.start_once().close()
    a_core_that_answers(appliance.path, "200 OK", json.dumps(HEALTH))
    ends = {"expires_at": NOW - timedelta(days=1), "termination_at": NOW + timedelta(days=12)}
    appliance.license_file.write_bytes(appliance.vendor.seal(a_license(**ends)))
    found = appliance.diagnosed()
    assert "left; the licence has expired; grace ends" in the(found, "decision", "warn").cause
    assert not [check for check in found if ".;" in check.cause or ".." in check.cause]


@pytest.mark.parametrize(
    "changes", [{"min_interval_seconds": 20}, {"max_interval_seconds": 901}, {"max_attempts": 9}], ids=str
)
def test_settings_that_need_an_evaluation_licence(appliance: Appliance, changes: dict[str, int]) -> None:
    appliance.change(**changes)
    check = the(appliance.diagnosed(), "settings", "fail")
    assert "under an evaluation licence only" in check.cause
    assert check.next_step == "take these settings away"
    assert not [one for one in appliance.diagnosed() if one.name == "settings" and one.result == "ok"]
    appliance.license_file.write_bytes(appliance.vendor.seal(a_license(evaluation=True)))
    the(appliance.diagnosed(), "settings", "ok")


def test_a_device_key_that_is_open_to_others_or_broken(appliance: Appliance) -> None:
    appliance.start_once().close()
    private = appliance.settings.state_directory / "device.key"
    assert "instance" in the(appliance.diagnosed(), "device key", "ok").cause
    private.chmod(0o644)
    assert "chmod" in the(appliance.diagnosed(), "device key", "fail").next_step
    public = appliance.settings.state_directory / "device.pub"
    public.chmod(0o644)
    public.write_text("nonsense")
    the(appliance.diagnosed(), "device key", "fail")


def test_the_decision_is_the_services_own(appliance: Appliance) -> None:
    appliance.start_once().close()
    appliance.license_file.unlink()
    assert "UNLICENSED" in the(appliance.diagnosed(), "decision", "fail").cause.upper()


def test_a_service_that_is_down_is_not_waited_for(appliance: Appliance) -> None:
    appliance.start_once().close()
    check = the(appliance.diagnosed(), "decision", "warn")
    assert "the meter is not running" in check.cause
    assert "start the service" in check.next_step
    lock = MeterLock(appliance.settings)
    lock.at_work()
    try:
        check = the(appliance.diagnosed(), "decision", "warn")
    finally:
        lock.release()
    assert check.cause.startswith("STARTING: ")
    assert "diagnose" not in check.next_step


# ---- the host -------------------------------------------------------------------------------------------------------


def test_a_clock_ahead_and_a_clock_behind(appliance: Appliance) -> None:
    assert "not kept by a time service" in the(appliance.diagnosed(), "clock", "ok").cause
    appliance.clock.synchronised = True
    assert ", kept by a time service" in the(appliance.diagnosed(), "clock", "ok").cause
    appliance.start_once().close()
    appliance.clock.step_wall(-3600)
    assert "3600 s behind" in the(appliance.diagnosed(), "clock", "warn").cause
    appliance.clock.step_wall(2 * 3600)
    assert "not believed" in the(appliance.diagnosed(), "clock", "warn").cause


@contextmanager
def a_page_at(port: int, answer: object) -> Iterator[None]:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Page)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("answer", ["a page", {"state": "ACTIVE"}, ["x"]])
def test_a_port_that_somebody_else_has(appliance: Appliance, answer: object) -> None:
    with a_page_at(appliance.port, answer):
        check = the(appliance.diagnosed(), "port", "fail")
    assert "another program" in check.cause
    assert "Sidecar:Listen" in check.next_step


def test_a_port_that_systemd_keeps_open_for_a_web_that_is_down(
    appliance: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text('#!/bin/sh\ntest "$*" = "is-active --quiet ocr-sidecar-web.socket"\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with a_page_at(appliance.port, {}):
        check = the(appliance.diagnosed(), "port", "warn")
    assert "kept open by systemd" in check.cause
    assert "systemctl status ocr-sidecar-web.service" in check.next_step


def test_a_port_that_cannot_be_had(appliance: Appliance) -> None:
    appliance.change(listen="192.0.2.1:5000")  # an address that no host has
    assert "address of this host" in the(appliance.diagnosed(), "port", "fail").next_step


def test_the_billing_endpoint_is_asked_only_where_a_licence_is_fetched(appliance: Appliance) -> None:
    with a_page_at(appliance.port, {}):
        place = f"127.0.0.1:{appliance.port}"
        appliance.change(billing=f"http://{place}", api_key="secret")
        assert "not asked" in the(appliance.diagnosed(), "endpoint", "ok").cause
        appliance.change(download_license=True)
        assert f"{place} answers" in the(appliance.diagnosed(), "endpoint", "ok").cause
        appliance.change(billing=f"https://{place}")
        assert "certificates" in the(appliance.diagnosed(), "endpoint", "fail").next_step
    appliance.change(billing=f"http://{place}")
    found = appliance.diagnosed()
    assert "cannot be reached" in the(found, "endpoint", "fail").cause
    assert "secret" not in str(found)


# ---- connected mode -------------------------------------------------------------------------------------------------


@pytest.fixture
def billing(appliance: Appliance) -> Iterator[FakeBilling]:
    """An endpoint that this appliance is to report to."""
    one = FakeBilling()
    appliance.start_once().close()
    appliance.change(mode="connected", billing=one.url, api_key="secret")
    yield one
    one.close()


def refusing(http_status: int, **members: str) -> tuple[int, bytes, dict[str, str]]:
    return http_status, json.dumps(members).encode(), {}


def test_before_the_first_contact_only_what_comes_with_it_is_missing(appliance: Appliance) -> None:
    appliance.change(mode="connected", billing="http://127.0.0.1:9", api_key="secret")
    found = appliance.diagnosed()
    assert {one.name for one in found if one.result == "fail"} <= {"endpoint", "licence", "decision"}
    assert "fetches it" in the(found, "licence", "fail").next_step


def test_an_endpoint_that_acknowledged_nothing_yet_is_well(appliance: Appliance, billing: FakeBilling) -> None:
    billing.answer = refusing(409, status="Mismatch", code="exchange_refused", message="nothing yet", nextStep="Wait.")
    assert "acknowledged nothing yet" in the(appliance.diagnosed(), "endpoint", "ok").cause


def test_a_device_that_has_not_introduced_itself_is_well(appliance: Appliance, billing: FakeBilling) -> None:
    billing.answer = refusing(409, status="Mismatch", code="authority_mismatch", message="no such device")
    the(appliance.diagnosed(), "endpoint", "ok")


def test_a_device_that_has_and_is_not_known_is_not(appliance: Appliance, billing: FakeBilling) -> None:
    appliance.settings.license_folder.mkdir(parents=True)
    (appliance.settings.license_folder / "license.dat").write_bytes(b"x")
    billing.answer = refusing(
        409, status="Mismatch", code="authority_mismatch", message="another's device", nextStep="Ask Anna."
    )
    check = the(appliance.diagnosed(), "endpoint", "fail")
    assert (check.code, check.next_step) == ("Mismatch", "Ask Anna")
    assert "another's device" in check.cause


def test_another_service_at_that_address_is_not_taken_for_one_that_has_nothing(
    appliance: Appliance, billing: FakeBilling
) -> None:
    billing.answer = (404, b"<html>", {})
    check = the(appliance.diagnosed(), "endpoint", "fail")
    assert "path in Billing" in check.next_step


def test_what_the_meter_was_told_last_is_not_hidden_by_an_endpoint_that_takes_the_key(
    appliance: Appliance, billing: FakeBilling
) -> None:
    billing.answer = (200, b"{}", {})
    the(appliance.diagnosed(), "endpoint", "ok")
    MeterStatus(
        deadline_ns=0,
        boot_id="",
        output_problem="",
        endpoint_problem="HTTP 402. Buy more pages",
        endpoint_word="OutOfQuota",
    ).write(appliance.settings.state_directory)
    check = the(appliance.diagnosed(), "endpoint", "fail")
    assert (check.code, "Buy more pages" in check.cause) == ("OutOfQuota", True)


def test_fluentd_that_does_not_answer(appliance: Appliance) -> None:
    appliance.change(fluentd_host="127.0.0.1", fluentd_port=appliance.port)
    assert "Fluentd" in the(appliance.diagnosed(), "log", "warn").cause
    with a_page_at(appliance.port, {}):
        the(appliance.diagnosed(), "log", "ok")


def test_a_log_on_disk_without_a_mount(appliance: Appliance) -> None:
    appliance.change(disk_log_format="json", output_directory=appliance.path / "nowhere")
    the(appliance.diagnosed(), "log", "fail")


# ---- storage --------------------------------------------------------------------------------------------------------

FOLDERS = (("output", "output_directory"), ("state", "state_directory"), ("spool", "shared_directory"))


@pytest.mark.parametrize(("name", "field"), FOLDERS)
def test_a_folder_that_is_missing_or_none(appliance: Appliance, name: str, field: str) -> None:
    path: Path = getattr(appliance.settings, field)
    path.rmdir()
    assert f"mkdir -p {path}" in the(appliance.diagnosed(), name, "fail").next_step
    path.write_text("a file")
    assert "no folder" in the(appliance.diagnosed(), name, "fail").cause


def looked(path: Path, user: User, settings: Settings | None = None) -> Check:
    (check,) = folder("output", path, "Mounts:Output", user, settings or Settings())
    return check


def test_a_folder_of_somebody_else_is_found_even_by_root(tmp_path: Path) -> None:
    found = tmp_path.stat()
    stranger = User(found.st_uid + 65532, found.st_gid + 65532, is_other=True)
    check = looked(tmp_path, stranger)
    assert check.result == "fail"
    assert f"chown -R {stranger} {tmp_path}" in check.next_step
    tmp_path.chmod(0o777)
    assert looked(tmp_path, stranger).result == "ok"
    tmp_path.chmod(0o070)
    assert looked(tmp_path, User(stranger.uid, found.st_gid, is_other=True)).result == "ok"
    tmp_path.chmod(0o700)
    assert looked(tmp_path, User(found.st_uid, found.st_gid, is_other=True)).result == "ok"


def test_a_licence_folder_of_root_stays_root_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "license.dat").touch(mode=0o600)
    found = tmp_path.stat()
    stranger = User(found.st_uid + 65532, found.st_gid + 65532, is_other=True)
    steps = {0: f"chgrp -R {stranger.gid} {tmp_path} && chmod -R g+rX {tmp_path}", 7: f"chown -R {stranger} {tmp_path}"}
    for owner, step in steps.items():
        monkeypatch.setattr(storage, "_owner", lambda _path, owner=owner: owner)
        (check,) = licenses_readable(tmp_path, "Mounts:License", stranger)
        assert (check.result, check.code) == ("fail", "wrong_owner")
        assert f"'{step}'" in check.next_step


def statvfs(**changes: Any) -> Callable[[Path], Any]:
    class Room:
        f_flag, f_bavail, f_frsize, f_files, f_favail = 0, 2**20, 4096, 2**20, 2**20

    for name, value in changes.items():
        setattr(Room, name, value)
    return lambda _path: Room


@pytest.mark.parametrize(
    ("room", "result", "words"),
    [
        ({"f_flag": os.ST_RDONLY}, "fail", "read-only"),
        ({"f_bavail": 10}, "fail", "40 KiB"),
        ({"f_favail": 0}, "fail", "another file"),
        ({"f_bavail": 10_000}, "warn", "39 MiB"),
        ({"f_favail": 100}, "warn", "free some"),
        ({"f_files": 0, "f_favail": 0}, "ok", "MiB free"),  # a file system that does not count files
    ],
)
def test_a_disk_that_is_full_or_shut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: dict[str, int], result: str, words: str
) -> None:
    monkeypatch.setattr("sidecar.diagnose.storage.os.statvfs", statvfs(**room))
    check = looked(tmp_path, User(os.geteuid(), os.getegid()))
    assert check.result == result
    assert words in check.cause + check.next_step


def test_a_disk_that_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.diagnose.storage._sync_seconds", lambda _path: 2.5)
    check = looked(tmp_path, User(os.geteuid(), os.getegid()))
    assert (check.result, "2500 ms" in check.cause) == ("warn", True)


def test_a_disk_that_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_path: Path) -> float:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("sidecar.diagnose.storage._sync_seconds", broken)
    check = looked(tmp_path, User(os.geteuid(), os.getegid()))
    assert (check.result, "Input/output error" in check.cause) == ("fail", True)


@pytest.mark.parametrize("name", ["nonroot", None])
def test_a_network_file_system_that_takes_no_write_from_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    def squashed(_path: Path) -> float:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("sidecar.diagnose.storage._sync_seconds", squashed)
    monkeypatch.setattr("sidecar.diagnose.storage._name_of", lambda _uid: name)
    found = tmp_path.stat()
    check = looked(tmp_path, User(found.st_uid, found.st_gid, is_other=True))
    assert (check.result, "could not be tried as root" in check.cause) == ("warn", True)
    become = (
        "runuser -u nonroot --" if name else f"setpriv --reuid={found.st_uid} --regid={found.st_gid} --clear-groups"
    )
    assert f"'{become} sidecar diagnose'" in check.next_step
    assert (
        looked(tmp_path, User(found.st_uid, found.st_gid)).result == "fail"
    )  # the service's own user may not be refused


def test_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comes_back = threading.Event()
    monkeypatch.setattr("sidecar.diagnose.storage._sync_seconds", lambda _path: float(comes_back.wait(20)))
    began = time.monotonic()
    check = looked(tmp_path, User(os.geteuid(), os.getegid()), Settings(output_timeout_seconds=1))
    comes_back.set()
    assert time.monotonic() - began < 10
    assert (check.result, "does not answer" in check.cause) == ("fail", True)


def test_a_file_system_without_nameless_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.diagnose.storage.os.O_TMPFILE", os.O_DIRECTORY | os.O_WRONLY)
    assert looked(tmp_path, User(os.geteuid(), os.getegid())).result == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_is_broken(appliance: Appliance) -> None:
    appliance.start_once().close()
    (appliance.settings.state_directory / "ledger.db").write_bytes(b"nonsense" * 1000)
    assert "delete nothing" in the(appliance.diagnosed(), "ledger", "fail").next_step


@pytest.mark.parametrize(("tries", "result"), [(1, "warn"), (9, "warn"), (10, "fail")])
def test_windows_that_do_not_get_out(appliance: Appliance, tries: int, result: str) -> None:
    ledger = appliance.start_once()
    for _ in range(tries):
        ledger.cycle_failed("/output: Permission denied", {})
    ledger.close()
    assert "Permission denied" in the(appliance.diagnosed(), "metering", result).cause


# ---- the core -------------------------------------------------------------------------------------------------------


def test_what_the_self_test_finds_is_told(appliance: Appliance) -> None:
    check = the(appliance.diagnosed(told(WELL, BROKEN)), "models", "fail")
    assert (check.cause, check.next_step) == ("there is no model", "install one")


def test_the_self_test_gets_the_settings_and_no_secret(appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ApiKey", "secret")
    appliance.change(api_key="secret", core_languages="deu", core_second_engine="required")
    seen: list[Mapping[str, str]] = []

    def run(environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        seen.append(environ)
        return told(WELL)(environ)

    appliance.diagnosed(run)
    assert seen[0]["Core__Languages"] == "deu"
    assert seen[0]["Core__SecondEngine"] == "required"
    assert "secret" not in seen[0].values()


def test_beside_a_core_that_runs_no_second_engine_is_started(appliance: Appliance, tmp_path: Path) -> None:
    a_core_that_answers(tmp_path, "200 OK", json.dumps(HEALTH))

    def run(environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        assert environ["Core__SecondEngine"] == "off"
        return told(WELL, WELL | {"name": "second engine"})(environ)

    told_of = the(appliance.diagnosed(run), "second engine", "ok").cause
    assert told_of.startswith("the core that runs tells of none: ")
    appliance.change(core_second_engine="off")
    assert "Core:SecondEngine=off" in the(appliance.diagnosed(run), "second engine", "ok").cause


@pytest.mark.parametrize(
    ("facts", "result", "cause"),
    [
        ({}, "ok", "rapid 3: idle; pictures read since the core started: 12; none is tried beside a core that runs"),
        (
            {"state": "paused", "died": 1, "killed": 3},
            "warn",
            "rapid 3: paused; pictures read since the core started: 12; ended by itself: 1; took too long: 3",
        ),
        ({"died": None}, "ok", "the core that runs tells of none: handwriting and photos read worse without it"),
    ],
)
def test_a_core_that_runs_tells_of_its_second_engine(
    appliance: Appliance, tmp_path: Path, facts: dict[str, object], result: str, cause: str
) -> None:
    second = {"name": "rapid", "version": "3", "state": "idle", "pictures": 12, "killed": 0, "died": 0, "loads": 1}
    a_core_that_answers(tmp_path, "200 OK", json.dumps(HEALTH | {"second_engine": second | facts}))
    check = the(appliance.diagnosed(told(WELL, WELL | {"name": "second engine"})), "second engine", result)
    assert check.cause == cause
    assert bool(check.next_step) is (result == "warn")


def test_a_core_on_a_processor_that_it_cannot_run_on(appliance: Appliance, tmp_path: Path) -> None:
    cpu = {"supported": False, "reason": "AVX2 is needed"}
    a_core_that_answers(tmp_path, "200 OK", json.dumps(HEALTH | {"cpu": cpu}))
    assert "AVX2" in the(appliance.diagnosed(), "core", "fail").cause


@pytest.mark.parametrize(
    ("standing", "result"),
    [
        ("none", "fail"),
        ("host_mismatch", "fail"),
        ("expired", "warn"),  # by the wall clock, which a page is not judged by
        ("not_yet_valid", "warn"),
        ("grace", "ok"),
        ("valid", "ok"),
    ],
)
def test_a_core_that_refuses_the_licence_by_which_the_sidecar_serves(
    appliance: Appliance, tmp_path: Path, standing: str, result: str
) -> None:
    license_ = {"standing": standing, "reason": "there is none to be read.", "license_id": None}
    a_core_that_answers(tmp_path, "200 OK", json.dumps(HEALTH | {"license": license_}))
    check = the(appliance.diagnosed(), "core", result)
    if result != "ok":
        assert f"'{standing}': there is none to be read" in check.cause
    if standing == "none":
        folder = appliance.license_file.parent
        assert f"chgrp -R {os.getegid()} {folder} && chmod -R g+rX {folder}" in check.next_step
    appliance.license_file.unlink()
    the(appliance.diagnosed(), "core", "ok")  # then the licence's own check tells what is wrong


@pytest.mark.parametrize("odd", [None, [], {}, {"standing": "none"}, "valid"])
def test_a_core_that_does_not_tell_of_its_licence(appliance: Appliance, tmp_path: Path, odd: object) -> None:
    a_core_that_answers(tmp_path, "200 OK", json.dumps(HEALTH | {"license": odd}))
    the(appliance.diagnosed(), "core", "ok")


@pytest.mark.parametrize(
    ("done", "name", "result", "words"),
    [
        (("", "/usr/bin/python3: No module named ocr_core"), "core self-test", "warn", "not installed here"),
        (("", "ocr-core: Core:Workers=x: must be a number"), "core self-test", "fail", "Core:Workers"),
        (("[]", ""), "core self-test", "fail", "exit code 65"),
        (('{"checks":[{"name":"x"}]}', ""), "core self-test", "fail", "exit code 65"),
        (('{"checks":[{"name":"x","result":"odd","cause":"","next_step":""}]}', ""), "core self-test", "fail", "65"),
    ],
)
def test_a_self_test_that_tells_nothing(
    appliance: Appliance, done: tuple[str, str], name: str, result: str, words: str
) -> None:
    found = appliance.diagnosed(lambda _environ: subprocess.CompletedProcess([], 65, *done))
    assert words in the(found, name, result).cause


@pytest.mark.parametrize("error", [OSError(2, "No such file"), subprocess.TimeoutExpired("ocr-core", 120)])
def test_a_self_test_that_cannot_be_run(appliance: Appliance, error: Exception) -> None:
    def run(_environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        raise error

    the(appliance.diagnosed(run), "core self-test", "warn")


def test_the_real_self_test_is_what_is_run() -> None:
    done = core_checks.run_self_test({**os.environ, "Core__CpuInfo": "/dev/null"})
    assert done.returncode == 132
    assert json.loads(done.stdout)["checks"][0]["name"] == "processor"


# ---- as a person sees it --------------------------------------------------------------------------------------------


def test_a_check_that_breaks_ends_no_other(appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[Check]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("sidecar.diagnose.host.port", broken)
    found = appliance.diagnosed()
    assert "Permission denied" in the(found, "port", "fail").cause
    the(found, "output", "ok")


def test_lines_fit_a_terminal_and_are_whole_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    check = Check(name="output", result="fail", cause="a long cause " * 20, next_step="a step " * 20)
    wrapped = [line.replace("\33[31m", "").replace("\33[0m", "") for line in rows([check], for_terminal=True)]
    assert max(map(len, wrapped)) <= 80
    assert len(list(rows([check], for_terminal=False))) == 2
