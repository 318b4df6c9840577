"""What service is wanted, from what was given, what there is, and what the host has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.deploy.plan import Asked, Plan, plan_for, read_publish, read_size, size_text
from sidecar.errors import DeployError, SettingsError
from tests.fakes.container_engine import GIB, HOST, NEW, OLD

GIVEN = Asked(license="/srv/license", output="/srv/output", words=("eula=accept",))


def a_plan(asked: Asked = GIVEN, **others: Any) -> Plan:
    return plan_for("tollgate", asked, **{"image": OLD, "engine": HOST, **others})


def test_what_is_not_said_has_a_default() -> None:
    plan = a_plan()
    assert (plan.publish, plan.memory_bytes, plan.nano_cpus) == ("0.0.0.0:5000", 8 * GIB, 4_000_000_000)
    assert [(one.target, one.source, one.read_only) for one in plan.mounts] == [
        ("/license", "/srv/license", True),
        ("/output", "/srv/output", False),
        ("/share", "tollgate-share", False),
        ("/var/lib/sidecar", "tollgate-state", False),
    ]
    assert plan.settings == (("Eula", "accept"),)


@pytest.mark.parametrize(("host", "memory"), [(64, 8), (9, 8), (6, 5), (4, 3)])
def test_memory_that_is_not_said_leaves_the_host_some(host: int, memory: int) -> None:
    assert a_plan(engine=replace(HOST, memory_bytes=host * GIB)).memory_bytes == memory * GIB


def test_what_is_not_said_later_stays() -> None:
    before = a_plan(replace(GIVEN, memory="4g", cpus=1.5, publish="127.0.0.1:80", words=("eula=accept", "apikey=k")))
    after = a_plan(Asked(words=("core:workers=2",)), image=NEW, before=before, release_key="")
    assert after == replace(
        before,
        image_id=NEW.id,
        reference=NEW.reference,
        settings=(("ApiKey", "k"), ("Core__Workers", "2"), ("Eula", "accept")),
    )


def test_settings_are_spelled_as_the_service_reads_them() -> None:
    words = ("EULA=accept", "core__languages=deu+eng", 'http_proxy="http://u:p@proxy:3128"', "New:Setting=1")
    assert a_plan(replace(GIVEN, words=words)).settings == (
        ("Core__Languages", "deu+eng"),
        ("Eula", "accept"),
        ("HTTP_PROXY", "http://u:p@proxy:3128"),
        ("new__setting", "1"),
    )


def test_podman_starts_after_a_boot_only_what_runs_always() -> None:
    assert a_plan().restart == "always"
    assert a_plan(engine=replace(HOST, kind="docker")).restart == "unless-stopped"


CONNECTED = ("eula=accept", "sidecar:mode=connected", "billing=https://vendor.example", "apikey=k")


def test_a_connected_service_needs_no_folder_of_licences() -> None:
    plan = a_plan(replace(GIVEN, license=None, words=CONNECTED))
    assert [one.target for one in plan.mounts] == ["/output", "/share", "/var/lib/sidecar"]
    assert a_plan(replace(GIVEN, words=CONNECTED)).source("/license") == "/srv/license"
    assert a_plan(Asked(words=("core:workers=2",)), before=plan).mounts == plan.mounts
    with pytest.raises(DeployError, match="licence files is not given"):
        a_plan(Asked(words=("sidecar:mode=",)), before=plan)


@pytest.mark.parametrize("missing", ["billing", "apikey"])
def test_a_connected_service_that_lacks_half_of_what_it_needs_is_not_made(missing: str) -> None:
    words = tuple(word for word in CONNECTED if not word.startswith(missing))
    with pytest.raises(SettingsError, match="(?i)" + missing):
        a_plan(replace(GIVEN, license=None, words=words))


@pytest.mark.parametrize(
    ("changes", "cause", "code"),
    [
        ({"license": None}, "licence files is not given", 64),
        ({"output": None}, "usage records is not given", 64),
        ({"output": "output"}, "wants an absolute path", 64),
        ({"state": "a/b"}, "or the name of a volume", 64),
        ({"publish": "5000x"}, "wants PORT or ADDRESS:PORT", 64),
        ({"publish": "0"}, "wants PORT or ADDRESS:PORT", 64),
        ({"publish": "host:70000"}, "wants PORT or ADDRESS:PORT", 64),
        ({"memory": "much"}, "no size", 64),
        ({"memory": "512m"}, "too little", 64),
        ({"memory": "17g"}, "17 GiB of memory are wanted, the engine's host has 16 GiB", 69),
        ({"cpus": 5}, "5 processors are wanted, the engine's host has 4", 69),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], cause: str, code: int) -> None:
    with pytest.raises(DeployError, match=cause) as told:
        a_plan(replace(GIVEN, **changes))
    assert told.value.exit_code == code
    assert told.value.next_step


@pytest.mark.parametrize(
    "folder",
    [
        "/",
        "//",
        "//etc",
        "/.",
        "/srv/..",
        "/srv/../etc",
        "/srv",
        "/etc/",
        "/usr/share/x",
        "/home",
        "/home/anna",
        "/var/lib",
    ],
)
@pytest.mark.parametrize("which", ["license", "output", "state", "share"])
def test_the_hosts_own_folders_are_not_given_away(which: str, folder: str) -> None:
    with pytest.raises(DeployError, match="the host's own") as told:
        a_plan(replace(GIVEN, **{which: folder}))
    assert told.value.exit_code == 64


@pytest.mark.parametrize("folder", ["/srv/x", "/data", "/home/anna/output", "/var/lib/tollgate/output", "/mnt/nas/ocr"])
def test_a_folder_for_it_alone_is_taken(folder: str) -> None:
    assert a_plan(replace(GIVEN, output=f"{folder}/")).source("/output") == folder


@pytest.mark.parametrize(
    ("word", "cause", "code"),
    [
        ("eula=no", "not 'accept'", 64),
        ("Mounts:License=/x", "not for a container", 64),
        ("Sidecar__Listen=0.0.0.0:1", "not for a container", 64),
        ("DownloadLicense=True", "not for a container", 64),
        ("Core:Workers=many", "wants a whole number", 65),
        ("words", "not a setting", 64),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(word: str, cause: str, code: int) -> None:
    with pytest.raises(SettingsError, match=cause) as told:
        a_plan(replace(GIVEN, words=("eula=accept", word)))
    assert told.value.exit_code == code
    assert told.value.next_step


@pytest.mark.parametrize(
    ("image", "engine", "reason"),
    [
        (replace(OLD, architecture="arm64"), HOST, "architecture"),
        (replace(OLD, architecture=""), HOST, "architecture"),
        (OLD, replace(HOST, architecture="aarch64"), "architecture"),
        (replace(OLD, version=""), HOST, "image_foreign"),
        (OLD, replace(HOST, memory_bytes=GIB), "memory"),
    ],
)
def test_a_wrong_image_or_host_is_refused(image: Any, engine: Any, reason: str) -> None:
    with pytest.raises(DeployError) as told:
        a_plan(image=image, engine=engine)
    assert told.value.reason == reason
    assert told.value.next_step


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "x" * 64])
def test_a_name_that_no_container_can_have_is_refused(name: str) -> None:
    with pytest.raises(DeployError, match="no name"):
        plan_for(name, GIVEN, image=OLD, engine=HOST)


@pytest.mark.parametrize(
    ("text", "full"),
    [("80", "0.0.0.0:80"), ("127.0.0.1:80", "127.0.0.1:80"), ("[::1]:80", "::1:80"), (":80", "0.0.0.0:80")],
)
def test_an_address_is_told_in_full(text: str, full: str) -> None:
    assert read_publish(text) == full


@given(st.integers(0, 2**50))
def test_a_size_that_is_told_can_be_read(count: int) -> None:
    told = size_text(count).replace("bytes", "")
    assert abs(read_size(told) - count) <= count * 0.06


@pytest.mark.parametrize(("text", "count"), [("8g", 8 * GIB), ("8GiB", 8 * GIB), ("1.5 g", 3 * GIB // 2), ("10", 10)])
def test_sizes(text: str, count: int) -> None:
    assert read_size(text) == count
