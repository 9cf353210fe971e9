"""Schemas of the objects that `contrib/` has for Kubernetes: of the keys that they use, and of no others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jsonschema_rs
import pytest
import yaml

OLDEST = "1.25"  # of Kubernetes
TEXT, NUMBER, BOOL = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}


def one(**keys: Any) -> dict[str, Any]:
    """An object with these keys and no others; those whose names end with _ may be missing."""
    properties = {key.rstrip("_"): schema for key, schema in keys.items()}
    required = [key for key in keys if not key.endswith("_")]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def some(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema, "minItems": 1}


def either(*schemas: dict[str, Any]) -> dict[str, Any]:
    return {"oneOf": list(schemas)}


LABELS = {"type": "object", "additionalProperties": TEXT}
QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[0-9]+(m|[KMG]i)?$"}}
META = one(name=TEXT, namespace_=TEXT, labels_=LABELS, annotations_=LABELS)
PROTOCOL = {"enum": ["TCP", "UDP"]}
EXEC = one(command=some(TEXT))
ASKED = {"periodSeconds": NUMBER, "timeoutSeconds": NUMBER, "failureThreshold": NUMBER}
PROBE = either(one(httpGet=one(host=TEXT, path=TEXT, port=NUMBER), **ASKED), one(exec=EXEC, **ASKED))
CONTAINER = one(
    name=TEXT, image=TEXT, imagePullPolicy_={"enum": ["IfNotPresent", "Always", "Never"]}, args=some(TEXT),
    env=some(one(name=TEXT, value=TEXT)), livenessProbe=PROBE, readinessProbe=PROBE,
    ports=some(one(name=TEXT, containerPort=NUMBER, hostPort_=NUMBER, protocol=PROTOCOL)),
    lifecycle=one(preStop=one(exec=EXEC)),
    resources=one(requests=QUANTITIES, limits=QUANTITIES),
    securityContext=one(
        allowPrivilegeEscalation=BOOL, readOnlyRootFilesystem=BOOL, capabilities=one(drop=some(TEXT), add_=some(TEXT))
    ),
    volumeMounts=some(one(name=TEXT, mountPath=TEXT, readOnly_=BOOL)),
)  # fmt: skip
TERM = one(topologyKey=TEXT, labelSelector=one(matchLabels=LABELS))
AFFINITY = one(
    podAntiAffinity=either(
        one(preferredDuringSchedulingIgnoredDuringExecution=some(one(weight=NUMBER, podAffinityTerm=TERM))),
        one(requiredDuringSchedulingIgnoredDuringExecution=some(TERM)),
    )
)
TOLERATION = one(key_=TEXT, operator_={"enum": ["Exists", "Equal"]}, value_=TEXT, effect_=TEXT)
POD = one(
    serviceAccountName=TEXT, hostNetwork_=BOOL, dnsPolicy_={"enum": ["ClusterFirstWithHostNet"]}, affinity_=AFFINITY,
    nodeSelector_=LABELS, tolerations_=some(TOLERATION), imagePullSecrets_=some(one(name=TEXT)),
    terminationGracePeriodSeconds=NUMBER, containers=some(CONTAINER),
    securityContext=one(runAsNonRoot=BOOL, runAsUser=NUMBER, runAsGroup=NUMBER, seccompProfile=one(type=TEXT)),
    volumes=some(
        one(name=TEXT, configMap_=one(name=TEXT), emptyDir_=one(medium=TEXT, sizeLimit=TEXT),
            secret_=one(secretName=TEXT))
    ),
)  # fmt: skip
SELECTOR, ROLLING = one(matchLabels=LABELS), {"enum": ["RollingUpdate"]}
TEMPLATE = one(metadata=one(labels=LABELS, annotations=LABELS), spec=POD)
DAEMONSET = one(
    selector=SELECTOR, minReadySeconds=NUMBER, template=TEMPLATE,
    updateStrategy=one(type=ROLLING, rollingUpdate=one(maxUnavailable=NUMBER)),
)  # fmt: skip
DEPLOYMENT = one(
    replicas=NUMBER, selector=SELECTOR, minReadySeconds=NUMBER, template=TEMPLATE,
    strategy=one(type=ROLLING, rollingUpdate=one(maxSurge=NUMBER, maxUnavailable=NUMBER)),
)  # fmt: skip
SERVICE = one(
    type={"enum": ["LoadBalancer", "NodePort", "ClusterIP"]}, selector=LABELS,
    externalTrafficPolicy_={"enum": ["Local", "Cluster"]},
    ports=some(one(name=TEXT, port=NUMBER, targetPort=TEXT, protocol=PROTOCOL)),
)  # fmt: skip
RBAC = "rbac.authorization.k8s.io/v1"
BINDING = {
    "roleRef": one(apiGroup=TEXT, kind={"enum": ["ClusterRole", "Role"]}, name=TEXT),
    "subjects": some(one(kind={"enum": ["ServiceAccount"]}, name=TEXT, namespace=TEXT)),
}
RULE = one(apiGroups=some(TEXT), resources=some(TEXT), verbs=some({"enum": ["get", "list", "watch"]}))
KINDS: dict[tuple[str, str], dict[str, Any]] = {
    ("v1", "Namespace"): {},
    ("v1", "ServiceAccount"): {},
    ("v1", "ConfigMap"): {"data": LABELS},
    ("v1", "Service"): {"spec": SERVICE},
    ("apps/v1", "DaemonSet"): {"spec": DAEMONSET},
    ("apps/v1", "Deployment"): {"spec": DEPLOYMENT},
    ("policy/v1", "PodDisruptionBudget"): {"spec": one(maxUnavailable=NUMBER, selector=SELECTOR)},
    (RBAC, "ClusterRole"): {"rules": some(RULE)},
    (RBAC, "Role"): {"rules": some(RULE)},
    (RBAC, "RoleBinding"): BINDING,
}


def schema_of(version: str, kind: str) -> dict[str, Any]:
    return one(apiVersion={"const": version}, kind={"const": kind}, metadata=META, **KINDS[version, kind])


def validated(found: dict[str, Any]) -> dict[str, Any]:
    """The object itself; jsonschema_rs.ValidationError for a key or a value that none of its kind has here."""
    jsonschema_rs.validate(schema_of(found["apiVersion"], found["kind"]), found)
    return found


def objects(texts: Iterable[str]) -> dict[str, Any]:
    """Those of YAML documents, by kind: there is one of each."""
    found = [one for text in texts for one in yaml.safe_load_all(text) if one is not None]
    kinds = {one["kind"]: validated(one) for one in found}
    assert len(kinds) == len(found), [one["kind"] for one in found]
    return kinds


def validate_as_kubernetes_does(found: Iterable[dict[str, Any]]) -> None:
    """By the schemas of Kubernetes' own API, strictly, for the oldest version that the chart takes and the newest that
    is known. ValueError for what they refuse. Without the package that has them the test is skipped."""
    package = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is missing: see `make charts`")
    for one in found:
        for version in (OLDEST, package.latest_version()):
            try:
                package.validate(one, version, strict=True)
            except package.ValidationError as error:
                raise ValueError(f"Kubernetes {version}: {one['kind']}: {error.message}") from error
