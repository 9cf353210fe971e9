"""The manifests in contrib/kubernetes: by schemas of the keys that they use, and by what the image and l4lb want."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from l4lb import Config
from tests.support.dockerfile import exec_form, instructions

MANIFESTS = Path("contrib/kubernetes")
TEXT, NUMBER, BOOL = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}


def one(**keys: Any) -> dict[str, Any]:
    """An object with these keys and no others; those whose names end with _ may be missing."""
    properties = {key.rstrip("_").replace("__", "/"): schema for key, schema in keys.items()}
    required = [key.replace("__", "/") for key in keys if not key.endswith("_")]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def some(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema, "minItems": 1}


LABELS = {"type": "object", "additionalProperties": TEXT}
QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[0-9]+(m|[KMG]i)?$"}}
META = one(name=TEXT, namespace_=TEXT, labels_=LABELS)
PROBE = one(httpGet=one(host=TEXT, path=TEXT, port=NUMBER), periodSeconds=NUMBER, timeoutSeconds=NUMBER,
            failureThreshold=NUMBER)  # fmt: skip
CONTAINER = one(
    name=TEXT, image=TEXT, args=some(TEXT), livenessProbe=PROBE, readinessProbe=PROBE,
    ports=some(one(name=TEXT, containerPort=NUMBER, hostPort=NUMBER, protocol={"enum": ["TCP", "UDP"]})),
    lifecycle=one(preStop=one(exec=one(command=some(TEXT)))),
    resources=one(requests=QUANTITIES, limits=QUANTITIES),
    securityContext=one(
        allowPrivilegeEscalation=BOOL, readOnlyRootFilesystem=BOOL, capabilities=one(drop=some(TEXT), add_=some(TEXT))
    ),
    volumeMounts=some(one(name=TEXT, mountPath=TEXT, readOnly_=BOOL)),
)  # fmt: skip
POD = one(
    serviceAccountName=TEXT, hostNetwork=BOOL, dnsPolicy={"enum": ["ClusterFirstWithHostNet"]}, nodeSelector=LABELS,
    terminationGracePeriodSeconds=NUMBER, containers=some(CONTAINER),
    securityContext=one(runAsNonRoot=BOOL, runAsUser=NUMBER, runAsGroup=NUMBER, seccompProfile=one(type=TEXT)),
    volumes=some(one(name=TEXT, configMap_=one(name=TEXT), emptyDir_=one(medium=TEXT, sizeLimit=TEXT))),
)  # fmt: skip
DAEMONSET = one(
    selector=one(matchLabels=LABELS), minReadySeconds=NUMBER,
    updateStrategy=one(type={"enum": ["RollingUpdate"]}, rollingUpdate=one(maxUnavailable=NUMBER)),
    template=one(metadata=one(labels=LABELS, annotations=LABELS), spec=POD),
)  # fmt: skip
RBAC = "rbac.authorization.k8s.io/v1"
SUBJECT = one(kind={"enum": ["ServiceAccount"]}, name=TEXT, namespace=TEXT)
RULE = one(apiGroups=some(TEXT), resources=some(TEXT), verbs=some({"enum": ["get", "list", "watch"]}))
KINDS: dict[tuple[str, str], dict[str, Any]] = {
    ("v1", "Namespace"): {},
    ("v1", "ServiceAccount"): {},
    ("v1", "ConfigMap"): {"data": LABELS},
    ("apps/v1", "DaemonSet"): {"spec": DAEMONSET},
    (RBAC, "ClusterRole"): {"rules": some(RULE)},
    (RBAC, "RoleBinding"): {"roleRef": one(apiGroup=TEXT, kind=TEXT, name=TEXT), "subjects": some(SUBJECT)},
}


def documents() -> dict[str, Any]:
    """By their kinds."""
    found = [one for file in sorted(MANIFESTS.glob("*.yaml")) for one in yaml.safe_load_all(file.read_text())]
    kinds = {one["kind"]: one for one in found}
    assert len(kinds) == len(found)
    return kinds


@pytest.mark.parametrize(("version", "kind"), KINDS)
def test_each_has_the_keys_of_its_kind_and_no_others(version: str, kind: str) -> None:
    schema = one(apiVersion={"const": version}, kind={"const": kind}, metadata=META, **KINDS[version, kind])
    jsonschema_rs.validate(schema, documents()[kind])
    wrong = documents()[kind] | {"sepc": 1}
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(schema, wrong)


def test_there_are_no_other_kinds_and_names_fit() -> None:
    found = documents()
    assert {(one["apiVersion"], kind) for kind, one in found.items()} == set(KINDS)
    pod = found["DaemonSet"]["spec"]["template"]
    assert pod["metadata"]["labels"] == found["DaemonSet"]["spec"]["selector"]["matchLabels"]
    account = {"kind": "ServiceAccount", **found["ServiceAccount"]["metadata"]}
    assert found["RoleBinding"]["subjects"] == [account]
    assert found["RoleBinding"]["roleRef"]["name"] == found["ClusterRole"]["metadata"]["name"]
    assert pod["spec"]["serviceAccountName"] == account["name"]
    (rule,) = found["ClusterRole"]["rules"]
    assert (rule["apiGroups"], rule["resources"]) == (["discovery.k8s.io"], ["endpointslices"])


def test_the_configuration_is_one_and_the_pod_fits_it_and_the_image() -> None:
    found = documents()
    config = Config.loads(found["ConfigMap"]["data"]["lb.toml"])
    pod = found["DaemonSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert config.admin.bind == f"127.0.0.1:{ports['admin']}"
    assert list(config.listeners["web"].bind) == [f":{ports['web']}"]
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"host": "127.0.0.1", "path": path, "port": ports["admin"]}
    _, waits = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] >= int(waits) + config.global_.drain_timeout + 5
    assert container["args"] == exec_form("CMD")
    assert [str(pod["securityContext"]["runAsUser"])] == [rest for word, rest in instructions() if word == "USER"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert mounts == {"config": "/etc/l4lb", "run": "/run/l4lb"}
    source = config.pools["web"].discovery
    assert source is not None
    assert source.namespace == found["RoleBinding"]["metadata"]["namespace"]
