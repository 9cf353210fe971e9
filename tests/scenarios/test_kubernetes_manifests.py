"""The manifests in contrib/kubernetes: by schemas of the keys that they use, and by what the image and l4lb want."""

from __future__ import annotations

import copy
import functools
import socket
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from l4lb import Config
from l4lb.version import __version__
from tests.support import forking
from tests.support.dockerfile import exec_form, instructions
from tests.support.kubernetes_objects import objects, validate_as_kubernetes_does, validated
from tests.support.programs import free_port, l4lb

MANIFESTS = Path("contrib/kubernetes")
WORKLOADS = ["DaemonSet", "Deployment"]
KINDS = {"Namespace", "ServiceAccount", "ClusterRole", "RoleBinding", "ConfigMap", "Service", "PodDisruptionBudget"}


@functools.cache
def documents() -> dict[str, Any]:
    """By their kinds, each with the keys of its kind and no others."""
    return objects(file.read_text() for file in sorted(MANIFESTS.glob("*.yaml")))


def configuration() -> str:
    text: str = documents()["ConfigMap"]["data"]["lb.toml"]
    return text


def pod_of(kind: str) -> dict[str, Any]:
    pod: dict[str, Any] = documents()[kind]["spec"]["template"]["spec"]
    return pod


def container_of(kind: str) -> dict[str, Any]:
    (container,) = pod_of(kind)["containers"]
    found: dict[str, Any] = container
    return found


def test_each_has_the_keys_of_its_kind_and_there_are_no_other_kinds() -> None:
    assert set(documents()) == KINDS | set(WORKLOADS)
    for one in documents().values():
        with pytest.raises(jsonschema_rs.ValidationError):
            validated(one | {"sepc": 1})


def test_kubernetes_own_schemas_accept_them() -> None:
    validate_as_kubernetes_does(documents().values())
    wrong = copy.deepcopy(documents()["Deployment"])
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(ValueError, match="livenessprobe"):
        validate_as_kubernetes_does([wrong])


def test_the_role_allows_what_discovery_asks_and_is_bound_to_the_account() -> None:
    found = documents()
    account = {"kind": "ServiceAccount", **found["ServiceAccount"]["metadata"]}
    assert found["RoleBinding"]["subjects"] == [account]
    assert found["RoleBinding"]["roleRef"]["name"] == found["ClusterRole"]["metadata"]["name"]
    (rule,) = found["ClusterRole"]["rules"]
    assert (rule["apiGroups"], rule["resources"]) == (["discovery.k8s.io"], ["endpointslices"])
    source = Config.loads(configuration()).pools["web"].discovery
    assert source is not None
    assert source.namespace == found["RoleBinding"]["metadata"]["namespace"]


@pytest.mark.parametrize("kind", WORKLOADS)
def test_the_pod_fits_the_configuration_and_the_image(kind: str) -> None:
    found, pod, container = documents(), pod_of(kind), container_of(kind)
    template, selector = found[kind]["spec"]["template"], found[kind]["spec"]["selector"]["matchLabels"]
    config = Config.loads(configuration())
    assert template["metadata"]["labels"] == selector
    assert pod["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert list(config.listeners["web"].bind) == [f":{ports['web']}"]
    assert container["env"] == [{"name": "L4LB_ADMIN", "value": config.admin.bind}]
    _, waits = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] >= int(waits) + config.global_.drain_timeout + 5
    assert container["image"] == f"l4lb:{__version__}"
    assert container["args"] == exec_form("CMD")
    assert [str(pod["securityContext"]["runAsUser"])] == [rest for word, rest in instructions() if word == "USER"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert mounts == {"config": "/etc/l4lb", "run": "/run/l4lb"}


def test_on_the_hosts_network_the_kubelet_asks_over_http() -> None:
    pod, container = pod_of("DaemonSet"), container_of("DaemonSet")
    assert pod["hostNetwork"] is True
    assert all(one["hostPort"] == one["containerPort"] for one in container["ports"])
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert Config.loads(configuration()).admin.bind == f"127.0.0.1:{ports['admin']}"
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"host": "127.0.0.1", "path": path, "port": ports["admin"]}


def test_on_the_pods_network_commands_ask() -> None:
    """The manifest's own, of an instance that is ready, and of one that is not there."""
    container = container_of("Deployment")
    assert "hostNetwork" not in pod_of("Deployment")
    assert all("hostPort" not in one for one in container["ports"])
    environment = {one["name"]: one["value"] for one in container["env"]}
    environment["L4LB_ADMIN"] = admin = f"127.0.0.1:{free_port()}"
    commands = [container[probe]["exec"]["command"] for probe in ("livenessProbe", "readinessProbe")]
    assert {command[0] for command in commands} == {"l4lb"}
    with socket.create_server(("127.0.0.1", 0)) as backend:
        address = f"127.0.0.1:{backend.getsockname()[1]}"
        with l4lb("serve", "--listen", "127.0.0.1:0", "--backend", address, "--admin", admin) as process:
            for event in ("admin listening", "backend up"):
                process.wait_for(event)
            assert [forking.run(*words, environment=environment).returncode for _, *words in commands] == [0, 0]
    assert [forking.run(*words, environment=environment).returncode for _, *words in commands] == [1, 1]


def test_the_service_and_the_budget_are_for_the_pods_of_the_deployment() -> None:
    found = documents()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"] == {"matchLabels": labels}
    ports = {one["name"]: one["containerPort"] for one in container_of("Deployment")["ports"]}
    assert {one["targetPort"]: one["port"] for one in found["Service"]["spec"]["ports"]} == ports
    assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] < found["Deployment"]["spec"]["replicas"]
    (apart,) = pod_of("Deployment")["affinity"]["podAntiAffinity"].values()
    assert apart[0]["podAffinityTerm"]["labelSelector"] == {"matchLabels": labels}


def test_l4lb_check_accepts_the_configuration(tmp_path: Path) -> None:
    """The only warning is that this is no cluster."""
    file = tmp_path / "lb.toml"
    file.write_text(configuration())
    done = forking.run("check", str(file), environment={"KUBERNETES_SERVICE_HOST": ""})
    assert (done.returncode, done.stdout) == (0, f"{file}: ok (1 listeners, 1 pools, 0 backends)\n")
    (warning,) = done.stderr.splitlines()
    assert "pools.web.discovery.endpoints" in warning
    assert "KUBERNETES_SERVICE_HOST is not set" in warning
    assert forking.run("check", str(file), environment={"KUBERNETES_SERVICE_HOST": "127.0.0.1"}).stderr == ""
