"""Bringing up, replacing, taking down: what becomes of the containers, whatever happens on the way."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.deploy.images import Source
from sidecar.deploy.plan import Asked
from sidecar.deploy.service import Deployment
from sidecar.deploy.standing import Service, service_url
from sidecar.errors import DeployError, SettingsError
from tests.fakes.container_engine import HOST, NEW, OLD, FakeConsole, FakeEngine, KilledError

ASKED = Asked(license="/srv/license", output="/srv/output", words=("eula=accept",))
WRONG_OWNER = {
    "name": "output",
    "result": "fail",
    "cause": "/output belongs to 0:0",
    "next_step": "run chown",
    "code": "wrong_owner",
}
NO_AVX2 = {"name": "processor", "result": "fail", "cause": "no AVX2 here", "next_step": "run elsewhere"}
NO_LICENSE = {"name": "licence", "result": "fail", "cause": "there is none", "next_step": "put one there"}


def deployment(engine: FakeEngine, console: FakeConsole | None = None) -> Deployment:
    seconds = itertools.count()
    return Deployment(
        engine, "tollgate", console or FakeConsole(), monotonic=lambda: next(seconds), sleep=lambda _: None
    )


def up(
    engine: FakeEngine, console: FakeConsole | None = None, *, asked: Asked = ASKED, agreed: bool = False
) -> Service:
    return deployment(engine, console).up(asked, Source(reference=OLD.reference), wait_seconds=20, is_agreed=agreed)


def upgrade(engine: FakeEngine, console: FakeConsole | None = None, *, asked: Asked | None = None) -> Service:
    return deployment(engine, console).upgrade(
        asked or Asked(), Source(reference=NEW.reference), wait_seconds=20, is_agreed=False
    )


def names(engine: FakeEngine) -> dict[str, str]:
    return {one.name: one.status for one in engine.containers.values()}


def the_image(engine: FakeEngine) -> str:
    (one,) = engine.containers.values()
    return str(one.body["Image"])


# ---- up -------------------------------------------------------------------------------------------------------------


def test_up_makes_a_service_that_serves() -> None:
    engine = FakeEngine()
    service = up(engine)
    assert (service.changed, service.told and service.told.state) == (True, "ACTIVE")
    assert names(engine) == {"tollgate": "running"}


def test_a_second_up_changes_nothing() -> None:
    engine = FakeEngine()
    up(engine)
    before = engine.changes
    assert not up(engine).changed
    assert engine.changes == before


def test_up_starts_what_was_stopped() -> None:
    engine = FakeEngine()
    up(engine)
    engine.stop("tollgate", 1)
    assert up(engine).changed
    assert names(engine) == {"tollgate": "running"}


def test_up_never_replaces_a_service() -> None:
    engine = FakeEngine()
    up(engine)
    with pytest.raises(DeployError, match="otherwise than asked for: settings Core:Workers") as told:
        up(engine, asked=Asked(license="/srv/license", output="/srv/output", words=("eula=accept", "core:workers=2")))
    assert (told.value.reason, told.value.exit_code) == ("different", 65)
    assert "sidecar deploy upgrade" in told.value.next_step


def test_up_wants_the_eula_before_it_does_anything() -> None:
    engine = FakeEngine()
    with pytest.raises(SettingsError, match="EULA") as told:
        up(engine, asked=Asked(license="/srv/license", output="/srv/output"))
    assert told.value.exit_code == 64
    assert not engine.tasks
    assert not engine.changes


def test_another_ones_container_is_left_alone() -> None:
    engine = FakeEngine()
    up(engine)
    (one,) = engine.containers.values()
    one.body = {**one.body, "Labels": {}}
    for act in (lambda: up(engine), lambda: upgrade(engine), deployment(engine).down, deployment(engine).status):
        with pytest.raises(DeployError, match="taken by a container") as told:
            act()
        assert told.value.exit_code == 73
    assert names(engine) == {"tollgate": "running"}


def test_a_missing_image_is_told_with_the_way_to_it() -> None:
    engine = FakeEngine(images=[])
    with pytest.raises(DeployError, match="has no image") as told:
        up(engine)
    assert (told.value.reason, told.value.exit_code) == ("image_missing", 69)


def test_a_folder_that_is_missing_is_told_where_it_can_be_looked_for(tmp_path: Path) -> None:
    engine = FakeEngine(host=replace(HOST, is_local=True))
    with pytest.raises(DeployError, match="/srv/none is not there") as told:
        up(engine, asked=Asked(license=str(tmp_path), output="/srv/none", words=("eula=accept",)))
    assert told.value.exit_code == 65
    assert "mkdir -p /srv/none" in told.value.next_step
    assert not engine.tasks


def test_a_processor_without_avx2_is_told_before_there_is_a_container() -> None:
    engine = FakeEngine(findings=[[NO_LICENSE, WRONG_OWNER, NO_AVX2]])
    with pytest.raises(DeployError, match="processor: no AVX2") as told:
        up(engine, agreed=True)
    assert told.value.exit_code == 132
    assert not engine.containers


def test_a_missing_licence_is_told_and_stops_nothing() -> None:
    engine, console = FakeEngine(findings=[[NO_LICENSE]], states={OLD.id: "UNLICENSED"}), FakeConsole()
    told = up(engine, console).told
    assert told is not None
    assert (told.state, told.exit_code) == ("UNLICENSED", 78)
    assert names(engine) == {"tollgate": "running"}
    assert "fail: licence: there is none" in console.said


@pytest.mark.parametrize(("by_option", "by_answer"), [(True, False), (False, True)])
def test_a_wrong_owner_is_mended_when_agreed(by_option: bool, by_answer: bool) -> None:
    engine, console = FakeEngine(findings=[[WRONG_OWNER], []]), FakeConsole(agrees=by_answer)
    up(engine, console, agreed=by_option)
    chown = engine.tasks[1]
    assert [*chown["Entrypoint"], *chown["Cmd"]] == ["chown", "-R", "65532:65532", "/folder"]
    assert [mount["Source"] for mount in chown["HostConfig"]["Mounts"]] == ["/srv/output"]
    assert "/srv/output was given to 65532:65532." in console.said
    assert bool(console.asked) is by_answer


def test_a_wrong_owner_is_told_with_the_command_when_nobody_agrees() -> None:
    engine = FakeEngine(findings=[[WRONG_OWNER]])
    with pytest.raises(DeployError) as told:
        up(engine)
    assert told.value.exit_code == 77
    assert "'chown -R 65532:65532 /srv/output'" in told.value.next_step
    assert "--yes" in told.value.next_step
    assert not engine.containers
    assert len(engine.tasks) == 1


def test_a_chown_that_fails_is_told() -> None:
    engine = FakeEngine(findings=[[WRONG_OWNER]], chown_code=1)
    with pytest.raises(DeployError, match="could not be given to 65532:65532: not permitted") as told:
        up(engine, agreed=True)
    assert told.value.exit_code == 77


def test_a_service_that_ends_is_stopped_and_its_code_handed_on() -> None:
    engine, console = FakeEngine(states={OLD.id: "ENDS"}), FakeConsole()
    with pytest.raises(DeployError, match="exit code 65") as told:
        up(engine, console)
    assert told.value.exit_code == 65
    assert "  | a line of the log" in console.said
    assert names(engine) == {"tollgate": "exited"}


def test_a_service_that_does_not_answer_is_waited_for_no_longer_than_told() -> None:
    engine = FakeEngine(states={OLD.id: ""})
    assert up(engine).told is None
    assert names(engine) == {"tollgate": "running"}


def test_a_port_that_is_taken_leaves_no_container_behind() -> None:
    engine = FakeEngine()

    def taken(what: str, _number: int) -> None:
        if what == "start":
            raise DeployError("port_taken", "the port is taken")

    engine.interrupt = taken
    with pytest.raises(DeployError, match="port is taken"):
        up(engine)
    assert not engine.containers


def test_ctrl_c_while_waiting_says_what_goes_on() -> None:
    engine, console = FakeEngine(), FakeConsole()

    def pressed() -> float:
        raise KeyboardInterrupt

    one = Deployment(engine, "tollgate", console, monotonic=pressed, sleep=lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        one.up(ASKED, Source(reference=OLD.reference), wait_seconds=20, is_agreed=False)
    assert names(engine) == {"tollgate": "running"}
    assert "goes on starting" in console.said[-1]


# ---- upgrade --------------------------------------------------------------------------------------------------------


def test_an_upgrade_takes_the_old_ones_place() -> None:
    engine = FakeEngine()
    up(engine)
    assert upgrade(engine).changed
    assert names(engine) == {"tollgate": "running"}
    assert the_image(engine) == NEW.id


def test_an_upgrade_to_the_same_changes_nothing() -> None:
    engine = FakeEngine()
    up(engine)
    before = engine.changes
    done = deployment(engine).upgrade(Asked(), Source(reference=OLD.reference), wait_seconds=20, is_agreed=False)
    assert not done.changed
    assert engine.changes == before


@pytest.mark.parametrize("state", ["", "ENDS", "UNLICENSED", "STARTING", "LEDGER_UNAVAILABLE"])
def test_an_upgrade_that_does_not_serve_is_taken_back(state: str) -> None:
    engine = FakeEngine(states={OLD.id: "ACTIVE", NEW.id: state})
    up(engine)
    with pytest.raises(DeployError, match="The old one is back, and it is ACTIVE") as told:
        upgrade(engine)
    assert (told.value.reason, told.value.exit_code) == ("rolled_back", 70)
    assert names(engine) == {"tollgate": "running"}
    assert the_image(engine) == OLD.id


def test_ctrl_c_in_an_upgrade_brings_the_old_one_back_at_once() -> None:
    engine = FakeEngine(states={OLD.id: "ACTIVE", NEW.id: ""})
    up(engine)
    pressed = iter([KeyboardInterrupt])

    def sleep(_seconds: float) -> None:
        for one in pressed:
            raise one

    seconds = itertools.count()
    one = Deployment(engine, "tollgate", FakeConsole(), monotonic=lambda: next(seconds), sleep=sleep)
    with pytest.raises(KeyboardInterrupt):
        one.upgrade(Asked(), Source(reference=NEW.reference), wait_seconds=20, is_agreed=False)
    assert names(engine) == {"tollgate": "running"}
    assert the_image(engine) == OLD.id


def test_an_upgrade_may_be_refused_for_the_same_as_the_one_before() -> None:
    engine = FakeEngine(states={OLD.id: "UNLICENSED", NEW.id: "UNLICENSED"})
    up(engine)
    assert upgrade(engine).changed
    assert the_image(engine) == NEW.id


def test_an_older_version_must_be_asked_for() -> None:
    engine = FakeEngine()
    up(engine)
    upgrade(engine)
    before, back = engine.changes, Source(reference=OLD.reference)
    with pytest.raises(DeployError, match=r"version 1\.1\.0 is there, and the image is 1\.0\.0") as told:
        deployment(engine).upgrade(Asked(), back, wait_seconds=20, is_agreed=False)
    assert (told.value.reason, told.value.exit_code, engine.changes) == ("downgrade", 65, before)
    assert "--allow-downgrade" in told.value.next_step
    deployment(engine).upgrade(Asked(), back, wait_seconds=20, is_agreed=False, allow_downgrade=True)
    assert the_image(engine) == OLD.id


def test_settings_alone_can_be_upgraded_and_taken_away() -> None:
    engine = FakeEngine()
    up(engine)
    keeps = Source()
    one = deployment(engine)
    one.upgrade(Asked(words=("core:workers=2",), memory="4g"), keeps, wait_seconds=20, is_agreed=False)
    plan = one.status().plan
    assert dict(plan.settings) == {"Eula": "accept", "Core__Workers": "2"}
    assert (plan.memory_bytes, plan.image_id) == (4 * 2**30, OLD.id)
    one.upgrade(Asked(words=("core:workers=",)), keeps, wait_seconds=20, is_agreed=False)
    assert dict(one.status().plan.settings) == {"Eula": "accept"}


def run_through(engine: FakeEngine, act: Callable[[], object]) -> None:
    with contextlib.suppress(DeployError, KilledError, KeyboardInterrupt):
        act()


@settings(deadline=None, max_examples=150)
@given(
    at=st.integers(1, 12),
    again=st.integers(1, 12),
    state=st.sampled_from(["ACTIVE", "", "ENDS", "UNLICENSED"]),
    cut=st.sampled_from([KilledError, KeyboardInterrupt, lambda: DeployError("engine_unreachable", "gone")]),
)
def test_an_upgrade_that_is_cut_off_anywhere_is_ended_by_the_next_command(
    at: int, again: int, state: str, cut: Callable[[], BaseException]
) -> None:
    engine = FakeEngine(states={OLD.id: "ACTIVE", NEW.id: state})
    up(engine)

    def cut_off(number: int) -> None:
        begun = engine.changes

        def interrupt(_what: str, now: int) -> None:
            if now - begun == number:
                raise cut()

        engine.interrupt = interrupt

    cut_off(at)
    run_through(engine, lambda: upgrade(engine))
    cut_off(again)
    run_through(engine, lambda: upgrade(engine))
    engine.interrupt = lambda _what, _number: None
    run_through(engine, lambda: deployment(engine).up(Asked(), Source(), wait_seconds=20, is_agreed=False))
    assert names(engine) == {"tollgate": "running"}
    told = deployment(engine).status().told
    assert told is not None
    assert told.serves


# ---- status, down ---------------------------------------------------------------------------------------------------


def test_status_tells_of_an_upgrade_that_was_cut_off() -> None:
    engine = FakeEngine()
    up(engine)
    engine.create("tollgate-next", next(iter(engine.containers.values())).body)
    assert deployment(engine).status().is_cut_off


def test_down_takes_the_container_and_nothing_else() -> None:
    engine = FakeEngine()
    engine.entries, engine.sealed = 9, 7
    up(engine)
    done = deployment(engine).down()
    assert not engine.containers
    assert (done.entries, done.open_entries, done.exit_code) == (9, 2, 0)
    assert {mount.source for mount in done.plan.mounts} == {
        "/srv/license", "/srv/output", "tollgate-share", "tollgate-state",
    }  # fmt: skip


def test_what_is_not_there_is_told() -> None:
    for act in (deployment(FakeEngine()).down, deployment(FakeEngine()).status, lambda: upgrade(FakeEngine())):
        with pytest.raises(DeployError, match="there is no service 'tollgate'") as told:
            act()
        assert told.value.exit_code == 69


def test_an_archive_is_loaded_once(tmp_path: Path) -> None:
    from tests.unit.sidecar.deploy.test_archive import an_archive

    engine = FakeEngine(images=[OLD])
    path = an_archive(tmp_path / "image.tar", NEW.id.removeprefix("sha256:"))
    one = deployment(engine)
    one.up(ASKED, Source(archive=path), wait_seconds=20, is_agreed=False)
    assert engine.loaded == [path.read_bytes()]
    engine.images.append(NEW)
    assert not one.up(ASKED, Source(archive=path), wait_seconds=20, is_agreed=False).changed
    assert len(engine.loaded) == 1


@pytest.mark.parametrize(
    ("publish", "address", "url"),
    [
        ("0.0.0.0:5000", "unix:///var/run/docker.sock", "http://127.0.0.1:5000"),
        ("127.0.0.1:5077", "unix:///var/run/docker.sock", "http://127.0.0.1:5077"),
        ("0.0.0.0:80", "tcp://10.1.2.3:2376", "http://10.1.2.3:80"),
        ("0.0.0.0:80", "ssh://root@box.example:22", "http://box.example:80"),
        ("::1:5000", "unix:///x", "http://[::1]:5000"),
    ],
)
def test_the_address_that_is_told_leads_to_the_service(publish: str, address: str, url: str) -> None:
    engine = FakeEngine()
    plan = up(engine, asked=Asked(license="/l", output="/o", publish=publish, words=("eula=accept",))).plan
    assert service_url(plan, address) == url


def test_where_a_key_is_trusted_no_unsigned_image_is_taken(tmp_path: Path) -> None:
    from tests.unit.sidecar.deploy.test_archive import an_archive

    path = an_archive(tmp_path / "image.tar", NEW.id.removeprefix("sha256:"))
    fresh, pinned = FakeEngine(), FakeEngine()
    up(pinned)
    next(iter(pinned.containers.values())).body["Labels"]["tollgate.release-key"] = "ab" * 32
    for engine, trusted, words in ((fresh, {"ab" * 32}, ASKED), (pinned, None, Asked())):
        before = engine.changes
        act = deployment(engine).up if engine is fresh else deployment(engine).upgrade
        with pytest.raises(DeployError, match="is signed by nobody") as told:
            act(words, Source(archive=path, trusted=trusted), wait_seconds=20, is_agreed=False)
        assert (told.value.reason, told.value.exit_code) == ("release_unsigned", 65)
        assert (engine.changes, engine.loaded) == (before, [])
