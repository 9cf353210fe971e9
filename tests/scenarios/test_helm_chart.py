"""contrib/helm: what can be said of the chart without Helm, and what Helm makes of it where it is installed."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from l4lb.version import __version__
from tests.support import forking
from tests.support.helm import CHART, Helm, Refused, required
from tests.support.kubernetes_objects import OLDEST, TEXT, objects, one, validate_as_kubernetes_does

MANIFESTS = Path("contrib/kubernetes")
TEMPLATES = {file.name: file.read_text() for file in sorted((CHART / "templates").iterdir())}
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
INSIDE = {"kind": "Deployment", "hostNetwork": False, "nodeSelector": None}  # as deployment.yaml is
ON_NODES = {"kind": "Deployment"}
EVERY = INSIDE | {
    "replicas": 5, "adminPort": 9901, "adminTokenSecret": "no", "imagePullSecrets": ["pull"], "minReadySeconds": 1,
    "config": VALUES["config"].replace(":9900", ':9901"\ntoken_file = "/run/secrets/l4lb/token').replace("60s", "90s"),
    "ports": [
        {"name": "on", "port": 8443, "servicePort": 443, "protocol": "TCP"},
        {"name": "dns", "port": 5353, "protocol": "UDP"},
    ],
    "image": {"repository": "registry:5000/l4lb", "tag": "1", "pullPolicy": "Always"}, "discoveryNamespaces": ["123"],
    "preStopSeconds": 20, "terminationGracePeriodSeconds": 120, "podDisruptionBudget": {"maxUnavailable": 2},
    "service": {"type": "ClusterIP", "annotations": {"a/b": "true"}}, "nodeSelector": {"l4lb": None, "edge": "yes"},
    "tolerations": [{"key": "edge", "operator": "Exists"}], "resources": {"limits": {"cpu": "2"}},
}  # fmt: skip


def paths(values: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{above}{key}"
        if isinstance(value, dict):
            yield from paths(value, f"{above}{key}.")


def used() -> set[str]:
    return {path for text in TEMPLATES.values() for path in re.findall(r"\.Values\.([\w.]+)", text)}


def value_at(path: str) -> Any:
    found = VALUES
    for key in path.split("."):
        found = found[key]
    return found


def changed(path: str, value: Any) -> dict[str, Any]:
    """The values with another one at `path`."""
    values: dict[str, Any] = copy.deepcopy(VALUES)
    found = values
    *above, last = path.split(".")
    for key in above:
        found = found[key]
    found[last] = value
    return values


# ---- without Helm ----


def test_the_chart_has_the_keys_of_one_and_is_of_this_version() -> None:
    keys = ("apiVersion", "name", "description", "type", "version", "appVersion", "kubeVersion")
    said = yaml.safe_load((CHART / "Chart.yaml").read_text())
    jsonschema_rs.validate(one(**dict.fromkeys(keys, TEXT)), said)
    assert (said["apiVersion"], said["name"], said["type"]) == ("v2", CHART.name, "application")
    assert said["version"] == said["appVersion"] == __version__
    assert said["kubeVersion"] == f">={OLDEST}.0-0"


def test_the_default_values_are_as_their_schema_says() -> None:
    jsonschema_rs.validate(SCHEMA, VALUES)
    assert set(SCHEMA["properties"]) == {*VALUES, "global"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("nosuch", 1), ("image.tagg", "1"), ("service.nosuch", 1), ("podDisruptionBudget.minAvailable", 1),
        ("resources.request", {}), ("kind", "Pod"), ("replicas", 0), ("hostNetwork", "yes"), ("config", " \n"),
        ("adminPort", 65536), ("ports", []), ("ports", [{"name": "admin", "port": 1, "protocol": "TCP"}]),
        ("ports", [{"name": "Web", "port": 1, "protocol": "TCP"}]), ("ports", [{"name": "web", "port": 1}]),
        ("ports", [{"name": "web", "port": 1, "protocol": "TCP", "hostPort": 1}]), ("image.tag", "a b"),
        ("discoveryNamespaces", ["Shop"]), ("adminTokenSecret", "a b"), ("preStopSeconds", "10s"),
        ("service.type", "ExternalName"), ("nodeSelector", {"l4lb": True}), ("tolerations", [{"keys": "a"}]),
        ("resources", {"limits": {"memory": "1 GB"}}),
    ],
)  # fmt: skip
def test_the_schema_refuses(path: str, value: Any) -> None:
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(SCHEMA, changed(path, value))


def test_templates_use_each_value_and_no_others() -> None:
    there = set(paths(VALUES))
    assert used() - there == set()
    above = {path.rpartition(".")[0] for path in used()}
    unused = {path for path in there if not any(f"{path}.".startswith(f"{value}.") for value in used())}
    assert unused == above - {""}


def test_what_templates_begin_they_end_and_what_they_include_is_there() -> None:
    for text in TEMPLATES.values():
        words = re.findall(r"{{-? *(if|range|with|define|end)\b", text)
        assert words.count("end") * 2 == len(words)
    defined = re.findall(r'define "([^"]+)"', TEMPLATES["_helpers.tpl"])
    assert {name for text in TEMPLATES.values() for name in re.findall(r'include "([^"]+)"', text)} == set(defined)


def test_the_default_configuration_is_that_of_the_manifests_and_l4lb_check_accepts_it(tmp_path: Path) -> None:
    manifest = yaml.safe_load((MANIFESTS / "config.yaml").read_text())
    assert VALUES["config"] == manifest["data"]["lb.toml"]
    file = tmp_path / "lb.toml"
    file.write_text(VALUES["config"])
    done = forking.run("check", str(file), environment={"KUBERNETES_SERVICE_HOST": "127.0.0.1"})
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_has_each_value_with_its_default() -> None:
    """But for the default of what takes more than a line."""
    _, chart = Path("docs/kubernetes.md").read_text(encoding="utf-8").split("\n## The chart\n")
    said = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \|", chart.split("\n## ")[0], re.MULTILINE))
    assert set(said) == used()
    for path in used() - {"config", "ports", "nodeSelector", "resources"}:
        assert yaml.safe_load(said[path].strip("`")) == value_at(path), path


# ---- with Helm ----


@pytest.fixture
def helm() -> Helm:
    return required()


def made(helm: Helm, **values: Any) -> dict[str, Any]:
    """By their kinds, each with the keys of its kind and no others."""
    return objects([helm.render(values)])


def plain(found: Any) -> Any:
    """Without what only a chart has: labels of the release, checksums, how images are pulled."""
    if isinstance(found, list):
        return [plain(item) for item in found]
    if not isinstance(found, dict):
        return found
    names = {"app.kubernetes.io/instance", "imagePullPolicy", "checksum/config"}
    return {key: plain(value) for key, value in found.items() if key not in names}


def spec(found: dict[str, Any], kind: str) -> Any:
    return plain(found[kind]["spec"])


def test_helm_lint_says_nothing_against_it(helm: Helm) -> None:
    helm.lint()


def test_it_is_the_manifests(helm: Helm) -> None:
    manifests = objects(file.read_text() for file in sorted(MANIFESTS.glob("*.yaml")))
    nodes, inside = made(helm), made(helm, **INSIDE)
    common = {"ConfigMap", "ServiceAccount", "Role", "RoleBinding"}
    assert set(nodes) == common | {"DaemonSet"}
    assert set(inside) == common | {"Deployment", "Service", "PodDisruptionBudget"}
    assert nodes["ConfigMap"]["data"] == manifests["ConfigMap"]["data"]
    assert spec(nodes, "DaemonSet") == spec(manifests, "DaemonSet")
    for kind in ("Deployment", "Service", "PodDisruptionBudget"):
        assert spec(inside, kind) == spec(manifests, kind)
    assert nodes["Role"]["rules"] == manifests["ClusterRole"]["rules"]
    assert nodes["RoleBinding"]["subjects"] == manifests["RoleBinding"]["subjects"]
    for kind in ("Role", "RoleBinding"):
        assert nodes[kind]["metadata"]["namespace"] == manifests["RoleBinding"]["metadata"]["namespace"]
    assert nodes["RoleBinding"]["roleRef"]["name"] == nodes["Role"]["metadata"]["name"]


@pytest.mark.parametrize("values", [{}, ON_NODES, INSIDE, EVERY], ids=["default", "nodes", "inside", "every"])
def test_kubernetes_own_schemas_accept_what_it_makes(values: dict[str, Any], helm: Helm) -> None:
    validate_as_kubernetes_does(made(helm, **values).values())


def test_a_deployment_on_the_nodes_network_has_one_pod_on_a_node(helm: Helm) -> None:
    """The ports of the node are the old pod's until it has ended."""
    found = spec(made(helm, **ON_NODES), "Deployment")
    assert found["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert list(found["template"]["spec"]["affinity"]["podAntiAffinity"]) == [
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    nodes = spec(made(helm), "DaemonSet")
    assert found["template"]["spec"]["containers"] == nodes["template"]["spec"]["containers"]


def test_every_value_arrives(helm: Helm) -> None:
    found = made(helm, **EVERY)
    deployment, service = found["Deployment"]["spec"], found["Service"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert (deployment["replicas"], deployment["minReadySeconds"]) == (5, 1)
    assert found["ConfigMap"]["data"] == {"lb.toml": EVERY["config"]}
    assert (container["image"], container["imagePullPolicy"]) == ("registry:5000/l4lb:1", "Always")
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert (pod["nodeSelector"], pod["tolerations"]) == ({"edge": "yes"}, [{"key": "edge", "operator": "Exists"}])
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment == {"L4LB_ADMIN": "127.0.0.1:9901", "L4LB_TOKEN_FILE": "/run/secrets/l4lb/token"}
    assert pod["volumes"][-1] == {"name": "token", "secret": {"secretName": "no"}}
    assert container["volumeMounts"][-1]["mountPath"] == "/run/secrets/l4lb"
    assert [(one["name"], one["containerPort"], one["protocol"]) for one in container["ports"]] == [
        ("on", 8443, "TCP"), ("dns", 5353, "UDP"),
    ]  # fmt: skip
    assert [(one["targetPort"], one["port"]) for one in service["spec"]["ports"]] == [("on", 443), ("dns", 5353)]
    assert service["metadata"]["annotations"] == {"a/b": "true"}
    assert service["spec"]["type"] == "ClusterIP"
    assert "externalTrafficPolicy" not in service["spec"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "20"]
    assert pod["terminationGracePeriodSeconds"] == 120
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "1Gi"}
    assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 2
    assert found["RoleBinding"]["metadata"]["namespace"] == "123"


def test_a_change_of_the_configuration_and_no_other_changes_the_checksum(helm: Helm) -> None:
    def checksum(**values: Any) -> str:
        template = made(helm, **values)["DaemonSet"]["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/config"]
        return found

    assert re.fullmatch("[0-9a-f]{64}", checksum())
    assert checksum(minReadySeconds=9) == checksum()
    assert checksum(config=VALUES["config"] + "# changed\n") != checksum()


@pytest.mark.parametrize("config", ["  [admin]\nbind = '1'", '[a]\r\n\tb = "{{ .Values.kind }}: |"', "# \u00fc"])
def test_the_configuration_is_passed_on_as_it_is(config: str, helm: Helm) -> None:
    config += '\nbind = "127.0.0.1:9900"'
    assert made(helm, config=config)["ConfigMap"]["data"] == {"lb.toml": config}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"nosuch": 1}, "nosuch"),
        ({"adminPort": 9901}, 'config: expected bind = "127.0.0.1:9901" in [admin], as adminPort says'),
        ({"config": VALUES["config"].replace("127.0.0.1", "0.0.0.0")}, 'config: expected bind = "127.0.0.1:9900"'),
        ({"preStopSeconds": 11}, "terminationGracePeriodSeconds: expected at least 76: preStopSeconds, drain_timeout"),
        ({"config": VALUES["config"].replace("60s", "600s")}, "terminationGracePeriodSeconds: expected at least 615"),
        ({"adminTokenSecret": "admin"}, 'config: expected token_file = "/run/secrets/l4lb/token" in [admin]'),
    ],
)
def test_helm_refuses(values: dict[str, Any], said: str, helm: Helm) -> None:
    with pytest.raises(Refused) as refusal:
        helm.render(values)
    assert said in str(refusal.value)
