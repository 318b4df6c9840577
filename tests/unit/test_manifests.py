"""Compose file and Kubernetes manifests: valid by the real schemas, their settings exist, as closed as they say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from check_jsonschema.cli import main as check_jsonschema
from click.testing import CliRunner

from sidecar.settings import is_setting

FOLDER = Path(__file__).resolve().parents[2] / "containers"
COMPOSE = FOLDER / "compose.yaml"
CONNECTED = FOLDER / "compose.connected.yaml"
MANIFESTS = sorted(path for path in (FOLDER / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
COMMANDS = ("web", "meter", "core")  # in one order: processes of one run collect tests alike
STATE, KEY, KNOWN = "/var/lib/sidecar", "/var/lib/ocr-meter", "/var/lib/ocr-core"
OLDEST_KUBERNETES, NEWEST_KUBERNETES = "1.27", "1.37"


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    return dict(manifest("stateful-set.yaml")["spec"]["template"]["spec"])


def manifest(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "kubernetes" / name).read_text()))


def connected_manifest() -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "kubernetes-connected" / "kustomization.yaml").read_text()))


def containers(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in [*pod["initContainers"], *pod["containers"]]}


def targets(volumes: list[str]) -> dict[str, bool]:
    """Where a service of the compose file has something mounted, and whether it may write there."""
    found = {}
    for volume in volumes:
        target = re.sub(r"\$\{[^}]*\}", "folder", volume).split(":")
        found[target[1]] = target[2:] != ["ro"]
    return found


# ---- valid ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [COMPOSE, CONNECTED], ids=lambda file: file.name)
def test_the_compose_file_is_one_by_its_schema(file: Path) -> None:
    done = CliRunner().invoke(check_jsonschema, ["--builtin-schema", "vendor.compose-spec", str(file)])
    assert done.exit_code == 0, done.output


def test_connected_mode_gives_the_meter_alone_a_network_and_the_key(services: dict[str, dict[str, Any]]) -> None:
    connected = yaml.safe_load(CONNECTED.read_text())["services"]
    assert set(connected) == set(services)
    assert {name for name, one in connected.items() if "network_mode" in one or "networks" in one} == {"meter"}
    assert {name for name, one in connected.items() if "ApiKey" in one["environment"]} == {"meter"}
    assert {one["environment"]["Sidecar__Mode"] for one in connected.values()} == {"connected"}
    assert all(is_setting(name) for one in connected.values() for name in one["environment"])


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, NEWEST_KUBERNETES])
def test_connected_mode_on_kubernetes_gives_the_meter_the_key_and_opens_two_places(version: str) -> None:
    base = {path.name: yaml.safe_load(path.read_text()) for path in MANIFESTS}
    patches = [yaml.safe_load(one["patch"]) for one in connected_manifest()["patches"]]
    assert connected_manifest()["resources"] == ["../kubernetes"]
    named = {(one["kind"], one["metadata"]["name"]) for one in base.values()}
    assert {(one["kind"], one["metadata"]["name"]) for one in patches} <= named
    settings, pod, policy = patches
    assert settings["data"] == {"Sidecar__Mode": "connected"}
    (meter,) = pod["spec"]["template"]["spec"]["containers"]
    assert meter["name"] == "meter"
    assert {one["name"] for one in meter["env"]} == {"Billing", "ApiKey"}
    assert all(set(one["valueFrom"]) == {"secretKeyRef"} for one in meter["env"])
    assert all(is_setting(one["name"]) for one in meter["env"])
    assert len(policy["spec"]["egress"]) == 2
    assert all(rule["to"] and rule["ports"] for rule in policy["spec"]["egress"])
    whole = base["network-policy.yaml"]
    whole["spec"]["egress"] = policy["spec"]["egress"]
    kubernetes_validate.validate(whole, version, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
def test_kustomize_makes_the_connected_manifests() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER / "kubernetes-connected")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
    assert len(made) == len(MANIFESTS)
    told = {
        one["name"]: {entry["name"] for entry in one.get("env", ())}
        for one in containers(made["StatefulSet"]["spec"]["template"]["spec"]).values()
    }
    assert told == {"migrate": set(), "web": set(), "meter": {"Billing", "ApiKey"}, "core": set()}
    assert made["ConfigMap"]["data"]["Sidecar__Mode"] == "connected"
    assert len(made["NetworkPolicy"]["spec"]["egress"]) == 2
    for one in made.values():
        kubernetes_validate.validate(one, NEWEST_KUBERNETES, strict=True)


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, NEWEST_KUBERNETES])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_ones_by_the_api_of_kubernetes(path: Path, version: str) -> None:
    kubernetes_validate.validate(yaml.safe_load(path.read_text()), version, strict=True)


def test_all_manifests_are_applied() -> None:
    assert sorted(manifest("kustomization.yaml")["resources"]) == [path.name for path in MANIFESTS]


def test_what_belongs_together_finds_each_other(pod: dict[str, Any]) -> None:
    labels = manifest("stateful-set.yaml")["spec"]["template"]["metadata"]["labels"]
    assert manifest("service.yaml")["spec"]["selector"] == labels
    for name in ("network-policy.yaml", "disruption-budget.yaml"):
        spec = manifest(name)["spec"]
        assert (spec.get("podSelector") or spec["selector"])["matchLabels"] == labels
    volumes = {volume["name"] for volume in pod["volumes"]} | {
        claim["metadata"]["name"] for claim in manifest("stateful-set.yaml")["spec"]["volumeClaimTemplates"]
    }
    assert {mount["name"] for one in containers(pod).values() for mount in one["volumeMounts"]} == volumes
    for one in containers(pod).values():
        assert one["envFrom"] == [{"configMapRef": {"name": manifest("settings.yaml")["metadata"]["name"]}}]


# ---- settings -------------------------------------------------------------------------------------------------------


def test_settings_exist_and_are_the_same_for_all(services: dict[str, dict[str, Any]]) -> None:
    environments = [one["environment"] for one in services.values()]
    assert all(one == environments[0] for one in environments)
    kubernetes = manifest("settings.yaml")["data"]
    for name in [*environments[0], *kubernetes]:
        assert is_setting(name), name
        assert ":" not in name
    same = set(environments[0]) & set(kubernetes) - {"Eula"}
    assert {name: environments[0][name] for name in same} == {name: kubernetes[name] for name in same}
    assert len(same) >= 6


def test_nobody_accepts_the_terms_for_the_user(services: dict[str, dict[str, Any]]) -> None:
    assert services["web"]["environment"]["Eula"].startswith("${EULA:?")
    assert manifest("settings.yaml")["data"]["Eula"] == ""


# ---- closed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["migrate", *COMMANDS])
def test_every_service_is_closed_and_bounded(services: dict[str, dict[str, Any]], name: str) -> None:
    one = services[name]
    assert one["command"] == [name]
    assert one["user"] == "65532:65532"
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges"]
    assert one["mem_limit"]
    assert one["pids_limit"]
    assert "privileged" not in one
    assert (one.get("network_mode") == "none") == (name != "web")
    assert ("ports" in one) == (name == "web")


@pytest.mark.parametrize("name", ["migrate", *COMMANDS])
def test_every_container_of_the_pod_fits_the_restricted_profile(pod: dict[str, Any], name: str) -> None:
    one = containers(pod)[name]
    assert one["args"] == [name]
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} <= set(one["resources"])
    context = pod["securityContext"]
    assert (context["runAsNonRoot"], context["runAsUser"], context["fsGroup"]) == (True, 65532, 65532)
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert pod["automountServiceAccountToken"] is False
    assert not any("hostPath" in volume for volume in pod["volumes"])


def test_nothing_leaves_the_pod() -> None:
    spec = manifest("network-policy.yaml")["spec"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    assert spec["egress"] == []


def test_each_process_gets_of_the_state_what_it_needs(services: dict[str, dict[str, Any]], pod: dict[str, Any]) -> None:
    composed = {name: targets(one["volumes"]) for name, one in services.items()}
    in_pod = {
        name: {mount["mountPath"]: not mount.get("readOnly", False) for mount in one["volumeMounts"]}
        for name, one in containers(pod).items()
    }
    for by_name in (composed, in_pod):
        assert [name for name, mounts in by_name.items() if KEY in mounts] == ["meter"]
        assert STATE not in by_name["core"]
        assert "/output" not in by_name["core"]
        assert [name for name in COMMANDS if by_name[name].get(KNOWN)] == ["meter"]
        assert [name for name in COMMANDS if by_name[name]["/license"]] == []
        assert [name for name in COMMANDS if by_name[name].get("/output")] == ["meter"]
        assert by_name["core"]["/share"] is False


def test_the_core_shares_no_folder_that_it_may_write_but_the_socket_s(pod: dict[str, Any]) -> None:
    writable = {
        name: {(mount["name"], mount.get("subPath")) for mount in one["volumeMounts"] if not mount.get("readOnly")}
        for name, one in containers(pod).items()
    }
    assert {volume for volume, _ in writable["core"] & writable["web"]} == {"socket"}
    assert not writable["core"] & (writable["meter"] | writable["migrate"])


def test_probes_ask_what_the_contract_names(pod: dict[str, Any]) -> None:
    found = containers(pod)
    paths = {found["web"][probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"/status", "/ready", "/ContainerLiveness"}
    for name in ("meter", "core"):
        assert found[name]["livenessProbe"]["exec"]["command"][-2:] == ["--of", name]


def test_there_is_time_to_close_the_window(services: dict[str, dict[str, Any]], pod: dict[str, Any]) -> None:
    assert services["meter"]["stop_grace_period"] == "30s"
    assert pod["terminationGracePeriodSeconds"] >= 30


def test_nothing_keeps_an_engine_from_starting_again_what_died(services: dict[str, dict[str, Any]]) -> None:
    assert not any("depends_on" in one for one in services.values())
    assert {services[name]["restart"] for name in COMMANDS} == {"unless-stopped"}
