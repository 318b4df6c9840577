"""The pod of the Kubernetes manifests, run by podman as it is written.

What podman does not know is given another form first: a StatefulSet is its pod, and each folder of a claim is a claim
of its own. Namespace, Service, NetworkPolicy and disruption budget need a cluster: `tests/unit/test_manifests.py`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.appliance.conftest import Mounts, Vendor
from tests.appliance.engine import IMAGE, PROJECT, USER, Engine
from tests.appliance.test_image import PAGES, read_by_the_official_client
from tests.e2e.site import free_port, wait_until

FOLDER = PROJECT / "containers" / "kubernetes"
POD = "tollgate-pod-test"
PYTHON = "/opt/tollgate/current/bin/python"


def the_pod(port: int) -> dict[str, Any]:
    """The pod of the StatefulSet, with its port on this host."""
    template = yaml.safe_load((FOLDER / "stateful-set.yaml").read_text())["spec"]["template"]
    spec = template["spec"]
    claims: set[str] = set()
    owned = {volume["name"] for volume in spec["volumes"]}
    for one in [*spec["initContainers"], *spec["containers"]]:
        one["image"] = IMAGE
        for mount in one["volumeMounts"]:
            if mount["name"] not in owned:
                mount["name"] = "-".join(filter(None, [mount["name"], mount.pop("subPath", "")]))
                claims.add(mount["name"])
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            if "httpGet" in one.get(name, {}):
                del one[name]  # podman would ask by curl, which the image does not have
    spec["volumes"] += [
        {"name": name, "persistentVolumeClaim": {"claimName": f"{POD}-{name}"}} for name in sorted(claims)
    ]
    (web,) = [one for one in spec["containers"] if one["name"] == "web"]
    web["ports"][0]["hostPort"] = port
    web["ports"][0]["hostIP"] = "127.0.0.1"
    for volume in spec["volumes"]:
        if secret := volume.pop("secret", None):  # of which podman 4 would write the base64 as it is
            volume["configMap"] = {"name": secret["secretName"]}
    spec["restartPolicy"] = "OnFailure"  # with "Always" it would start what has ended well again, also at the beginning
    metadata = {
        **template["metadata"],
        "name": POD,
        # Podman would remove it at once, and sometimes does so before it has ended.
        "annotations": {"io.podman.annotations.init.container.type": "always"},
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


class Pod:
    """The running pod.

    Args:
        engine: Who runs it.
        folder: For the manifest.
        licence: The licence file.
    """

    def __init__(self, engine: Engine, folder: Path, licence: Path) -> None:
        self.engine = engine
        self.port = free_port()
        settings = yaml.safe_load((FOLDER / "settings.yaml").read_text())
        settings["data"]["Eula"] = "accept"
        licences = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "tollgate-license"},
            "data": {"license.dat": licence.read_text()},
        }
        self.manifest = folder / "pod.yaml"
        self.manifest.write_text(yaml.safe_dump_all([settings, licences, the_pod(self.port)]))

    def up(self) -> None:
        self.engine("kube", "play", self.manifest)

    def down(self) -> None:
        self.engine("kube", "down", self.manifest, check=False)

    def run(self, container: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self.engine("exec", f"{POD}-{container}", *words, check=False)

    def log(self, container: str) -> str:
        done = self.engine("logs", f"{POD}-{container}", check=False)
        return done.stdout + done.stderr

    def status(self) -> dict[str, Any]:
        try:
            return dict(requests.get(f"http://127.0.0.1:{self.port}/status", timeout=10).json())
        except requests.RequestException:
            return {"state": "no answer"}

    def require_pages(self, count: int) -> None:
        """What is shown of the ledger is up to a second old."""
        wait_until(lambda: self.status()["metering"]["pages"] == count, 10, f"{count} pages: {self.status()}")

    def wait_active(self) -> None:
        wait_until(
            lambda: self.status()["state"] == "ACTIVE",
            90,
            "\n".join(f"--- {one}\n{self.log(one)[-2000:]}" for one in ("web", "meter", "core")),
        )


@pytest.fixture(scope="module")
def pod(engine: Engine, vendor: Vendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    folder = tmp_path_factory.mktemp("pod")
    one = Pod(engine, folder, Mounts(folder, vendor).license / "license.dat")
    try:
        one.up()
        one.wait_active()
        yield one
    finally:
        one.down()
        volumes = engine("volume", "ls", "--quiet", check=False).stdout.split()
        ours = [name for name in volumes if name.startswith(POD)]
        engine("volume", "rm", "--force", *ours, "socket", "tmp", "tmp-core", "tollgate-license", check=False)


def test_a_page_is_read_by_the_official_client(pod: Pod, picture: Path) -> None:
    assert read_by_the_official_client(pod.port, picture)["status"] == "succeeded"
    pod.require_pages(PAGES)


def test_the_containers_are_as_closed_as_the_manifest_says(pod: Pod) -> None:
    for container in ("web", "meter", "core"):
        status = pod.run(container, PYTHON, "-c", "print(open('/proc/1/status').read())").stdout
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        assert f"Uid:\t{USER}\t" in status
        assert "Read-only file system" in pod.run(container, PYTHON, "-c", "open('/opt/x', 'w')").stderr
    private = ["/var/lib/ocr-meter/device.key", "/var/lib/sidecar/ledger.db"]
    look = f"import os; print(*map(os.path.exists, {private}))"
    seen = {one: pod.run(one, PYTHON, "-c", look).stdout.strip() for one in ("web", "meter", "core")}
    assert seen == {"web": "False True", "meter": "True True", "core": "False False"}


def test_who_sees_documents_can_make_no_socket(pod: Pod) -> None:
    """The core shares the pod's network; its workers are kept from using it by a filter of their own."""
    look = (
        "import glob; print(*[open(p).read().split('Seccomp:')[1].split()[0] + open(p[:-6] + 'comm').read().strip() "
        "for p in glob.glob('/proc/[0-9]*/status')])"
    )
    done = pod.run("core", PYTHON, "-c", look)
    told = pod.log("core")
    assert "readers of documents are confined" in told, told
    assert "system calls (those of a list)" in told, told
    filtered = [word[0] for word in done.stdout.split() if word[1:] in {"decoder", "python"}]
    assert sum(word[1:] == "decoder" for word in done.stdout.split()) >= 2, done.stdout
    assert "0" not in filtered, done.stdout


def test_probes_hold(pod: Pod) -> None:
    for container in ("meter", "core"):
        done = pod.run(container, "/opt/tollgate/current/bin/sidecar", "health", "--of", container)
        assert done.returncode == 0, done.stdout + done.stderr
    for path in ("/status", "/ready", "/ContainerLiveness"):
        assert requests.get(f"http://127.0.0.1:{pod.port}{path}", timeout=10).status_code == 200


def test_down_and_up_again_goes_on(pod: Pod, picture: Path) -> None:
    before = pod.status()["metering"]["pages"]
    pod.engine("pod", "stop", "--time", "30", POD)
    assert "window closed at shutdown" in pod.log("meter")
    pod.engine("pod", "start", POD)
    pod.wait_active()
    pod.require_pages(before)
    assert read_by_the_official_client(pod.port, picture)["status"] == "succeeded"
    (facts,) = json.loads(pod.engine("inspect", f"{POD}-meter").stdout)
    assert facts["State"]["Running"]
