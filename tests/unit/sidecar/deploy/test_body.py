"""A plan as the engine's JSON, and back; the limits that every container has."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.deploy.body import chown_body, container_body, plan_of, task_body
from sidecar.deploy.decisions import differences
from sidecar.deploy.plan import Asked, Mount, Plan
from sidecar.settings import load_settings
from tests.fakes.container_engine import FakeEngine
from tests.unit.sidecar.deploy.test_plan import GIVEN, a_plan

SECRET = "apikey=4f1d-secret"


def described(plan: Plan) -> dict[str, Any]:
    engine = FakeEngine()
    return engine.describe(engine.create(plan.name, container_body(plan)))


PATHS = st.from_regex(r"/[a-z ä]{1,20}", fullmatch=True)
PLANS = st.builds(
    lambda licenses, output, state, memory, cpus, port, value: a_plan(
        Asked(
            license=licenses,
            output=output,
            state=state,
            memory=f"{memory}m",
            cpus=cpus,
            publish=f"127.0.0.1:{port}",
            words=("eula=accept", f"apikey={value}"),
        )
    ),
    PATHS,
    PATHS,
    st.sampled_from(["/srv/state", "volume"]),
    st.integers(2048, 16384),
    st.sampled_from([0.5, 1, 1.5, 4]),
    st.integers(1, 65535),
    st.text(st.characters(codec="utf-8", exclude_characters="\0\"'\n"), min_size=1).filter(
        lambda text: text == text.strip()
    ),
)


@given(PLANS)
def test_a_container_tells_how_it_was_made(plan: Plan) -> None:
    there = plan_of(json.loads(json.dumps(described(plan))))
    assert there == plan
    assert there is not None
    assert differences(plan, there) == []


def test_every_limit_is_there() -> None:
    body = container_body(a_plan())
    host = body["HostConfig"]
    assert body["User"] == "65532:65532"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Memory"] == host["MemorySwap"] == 8 * 2**30
    assert host["NanoCpus"] == 4_000_000_000
    assert host["PidsLimit"] == 512
    assert list(host["Tmpfs"]) == ["/tmp"]
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}}
    assert host["RestartPolicy"]["Name"] == "always"
    assert list(host["PortBindings"]) == list(body["ExposedPorts"]) == ["5000/tcp"]
    assert (body["StopSignal"], body["StopTimeout"]) == ("SIGTERM", 30)
    assert body["Healthcheck"]["Test"] == ["CMD", "sidecar", "health"]
    assert "NetworkMode" not in host


def test_a_folder_that_is_missing_is_not_made_by_the_engine() -> None:
    kinds = {one["Target"]: one["Type"] for one in container_body(a_plan())["HostConfig"]["Mounts"]}
    assert kinds == {"/license": "bind", "/output": "bind", "/share": "volume", "/var/lib/sidecar": "volume"}


def test_secrets_are_no_words_of_a_command() -> None:
    plan = a_plan(replace(GIVEN, words=("eula=accept", SECRET)))
    for body in (container_body(plan), task_body(plan, ["sidecar", "diagnose"])):
        assert "ApiKey=4f1d-secret" in body["Env"]
        assert "4f1d" not in json.dumps({name: value for name, value in body.items() if name != "Env"})


def test_a_service_with_a_licence_folder_is_disconnected_whatever_else_is_given() -> None:
    plan = a_plan(replace(GIVEN, words=(*GIVEN.words, "billing=https://vendor.example", SECRET)))
    for body in (container_body(plan), task_body(plan, ["sidecar", "diagnose"])):
        environ = dict(one.split("=", 1) for one in body["Env"])
        settings = load_settings((), environ={**environ, "SIDECAR_CONFIG": "/dev/null"})
        assert (str(settings.license_directory), settings.is_connected) == ("/license", False)


def test_a_connected_service_is_told_so_and_reads_back_as_it_was_made() -> None:
    words = (*GIVEN.words, "sidecar:mode=connected", "billing=https://vendor.example", SECRET)
    plan = a_plan(replace(GIVEN, license=None, words=words))
    body = container_body(plan)
    environ = dict(one.split("=", 1) for one in body["Env"])
    assert load_settings((), environ={**environ, "SIDECAR_CONFIG": "/dev/null"}).is_connected
    assert "/license" not in {one["Target"] for one in body["HostConfig"]["Mounts"]}
    there = plan_of(described(plan))
    assert there is not None
    assert differences(plan, there) == []


def test_a_task_has_the_same_limits_and_no_network() -> None:
    body = task_body(a_plan(), ["sidecar", "diagnose", "--json"])
    service = container_body(a_plan())
    assert {name: service["HostConfig"][name] for name in body["HostConfig"] if name != "NetworkMode"} == {
        name: value for name, value in body["HostConfig"].items() if name != "NetworkMode"
    }
    assert body["HostConfig"]["NetworkMode"] == "none"
    assert plan_of(body | {"Config": {"Labels": body["Labels"]}}) is None


def test_giving_a_folder_takes_one_right_and_one_folder() -> None:
    body = chown_body(a_plan(replace(GIVEN, words=("eula=accept", SECRET))), "/srv/output")
    assert (body["User"], body["Env"]) == ("0:0", [])
    assert body["HostConfig"]["CapDrop"] == ["ALL"]
    assert body["HostConfig"]["CapAdd"] == ["CHOWN", "DAC_READ_SEARCH"]
    assert body["HostConfig"]["NetworkMode"] == "none"
    assert [one["Source"] for one in body["HostConfig"]["Mounts"]] == ["/srv/output"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("Config", "User"), "0:0"),
        (("HostConfig", "ReadonlyRootfs"), False),
        (("HostConfig", "Privileged"), True),
        (("HostConfig", "CapDrop"), []),
        (("HostConfig", "CapAdd"), ["NET_ADMIN"]),
        (("HostConfig", "SecurityOpt"), []),
    ],
)
def test_a_wall_that_is_missing_is_a_difference(path: tuple[str, str], value: object) -> None:
    plan = a_plan()
    told = described(plan)
    told[path[0]][path[1]] = value
    there = plan_of(told)
    assert there is not None
    assert differences(plan, there) == ["limits of another version of this command"]


def test_podman_tells_processors_as_a_quota() -> None:
    told = described(a_plan())
    told["HostConfig"] |= {"NanoCpus": 0, "CpuQuota": 150_000, "CpuPeriod": 100_000}
    there = plan_of(told)
    assert there is not None
    assert there.nano_cpus == 1_500_000_000


def test_volumes_that_the_image_asks_for_are_no_difference() -> None:
    plan = a_plan()
    told = described(plan)
    told["Mounts"].append({"Type": "volume", "Name": "f00", "Destination": "/run/sidecar", "RW": True})
    there = plan_of(told)
    assert there == plan


def test_differences_name_what_changed_and_no_value_of_a_setting() -> None:
    before = a_plan(replace(GIVEN, words=("eula=accept", SECRET)))
    after = replace(
        before,
        image_id="sha256:3",
        reference="tollgate:3",
        publish="127.0.0.1:80",
        memory_bytes=4 * 2**30,
        nano_cpus=10**9,
        restart="no",
        mounts=(*before.mounts[1:], Mount(target="/license", source="/other", read_only=True)),
        settings=(("ApiKey", "another"), ("Eula", "accept")),
        release_key="ab",
    )
    assert differences(after, before) == [
        "image localhost/tollgate:1 → tollgate:3",
        "address 0.0.0.0:5000 → 127.0.0.1:80",
        "memory 8 GiB → 4 GiB",
        "processors 4 → 1",
        "restart policy always → no",
        "/license /srv/license → /other",
        "settings ApiKey",
        "the key that bundles are believed by",
    ]
