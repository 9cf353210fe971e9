"""The options of discovery, and which of them each type of source has."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from l4lb.config.options.base import Model, Name, argv, listify
from l4lb.config.options.callables import discovery_names
from l4lb.config.options.health import query_name
from l4lb.config.options.units import Duration, DurationOrZero
from l4lb.model.hints import did_you_mean
from l4lb.net.querying import server_of

_TLS = ("ca_file", "cert_file", "key_file")
OPTIONS: dict[str, tuple[str, ...]] = {  # by type: what only some types have
    "file": ("path", "format"),
    "exec": ("command", "format", "interval", "timeout"),
    "dns": ("name", "port", "family", "servers", "timeout"),
    "srv": ("name", "family", "servers", "timeout"),
    "etcd": ("endpoints", "prefix", "user", "password_file", *_TLS, "timeout"),
    "consul": (
        "service",
        "tags",
        "passing",
        "datacenter",
        "namespace",
        "partition",
        "stale",
        "wait",
        "endpoints",
        "token_file",
        *_TLS,
        "timeout",
    ),
    "kubernetes": ("service", "namespace", "port", "endpoints", "token_file", *_TLS, "timeout"),
}
REQUIRED: dict[str, tuple[str, ...]] = {
    "file": ("path",),
    "exec": ("command",),
    "dns": ("name", "port"),
    "srv": ("name",),
    "etcd": ("endpoints", "prefix"),
    "consul": ("service",),
    "kubernetes": ("service",),
}
_ENDPOINT = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?/?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # of DNS, as RFC 1123 has it
NAME_EXPECTED = "expected letters, digits and hyphens, at most 63"
WAIT_MAX_S = 600.0  # Consul waits no longer
HOLD_DOWN_S = {"dns": 30.0, "srv": 30.0}  # the default where it is not 0


def known_types() -> list[str]:
    return [*OPTIONS, *discovery_names()]


def _type(name: str) -> str:
    if name and name not in known_types():
        raise ValueError(f"expected one of {', '.join(known_types())}{did_you_mean(name, known_types())}")
    return name


SourceType = Annotated[
    str,
    AfterValidator(_type),
    WithJsonSchema({"anyOf": [{"enum": list(OPTIONS)}, {"type": "string"}], "description": "where backends come from"}),
]


def _server(text: str) -> str:
    server_of(text)
    return text


def _endpoint(text: str) -> str:
    if not _ENDPOINT.fullmatch(text):
        raise ValueError('expected a URL such as "http://10.0.0.1:2379"')
    return text


def _wait(seconds: float) -> float:
    if not 1 <= seconds <= WAIT_MAX_S:
        raise ValueError('expected "1s" to "10m"')
    return seconds


Endpoint = Annotated[str, AfterValidator(_endpoint)]


def _port(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("expected a number from 1 to 65535, or the name of a port")
    if isinstance(value, int) and not 0 <= value <= 65535:
        raise ValueError("expected 1 to 65535")
    if isinstance(value, str) and not _LABEL.fullmatch(value):
        raise ValueError(f'{NAME_EXPECTED}, such as "http"')
    return value


Port = Annotated[
    int | str,
    BeforeValidator(_port),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0, "maximum": 65535}, {"type": "string"}]}),
]
NameServer = Annotated[str, AfterValidator(_server)]


class DiscoveryConfig(Model):
    """Where a pool's backends come from, besides those that it names itself."""

    type: SourceType = ""
    hold_down: DurationOrZero = Field(
        default=0.0,
        description="how long a backend stays that the source no longer names; 30s for dns and srv, unless given",
    )
    path: str = Field(default="", description="of a file that is watched")
    format: Literal["auto", "lines", "json", "toml"] = Field(
        default="auto", description="auto: by the end of the path, .json or .toml, else lines"
    )
    command: Annotated[tuple[str, ...], BeforeValidator(argv)] = Field(
        default=(), description="the program that prints the backends, and its arguments"
    )
    interval: Duration = Field(default=30.0, description="from one end of the program to its next start")
    timeout: Duration = Field(default=10.0, description="how long an answer may take")
    name: Annotated[str, AfterValidator(lambda text: text and query_name(text))] = Field(
        default="", description="to ask DNS for"
    )
    port: Port = Field(default=0, description="of every backend; kubernetes: or its name, 0: the only one")
    family: Literal["any", "ipv4", "ipv6"] = Field(default="any", description="dns, srv: which addresses")
    servers: Annotated[tuple[NameServer, ...], BeforeValidator(listify)] = Field(
        default=(), description="IP addresses of name servers; none: those of /etc/resolv.conf"
    )
    endpoints: Annotated[tuple[Endpoint, ...], BeforeValidator(listify)] = Field(
        default=(), description="URLs of servers, asked in turn; none: consul's agent here, kubernetes' cluster around"
    )
    prefix: str = Field(default="", description="of the keys, one for each backend")
    service: Name = Field(default="", description="its instances are the backends")
    tags: Annotated[tuple[Name, ...], BeforeValidator(listify)] = Field(
        default=(), description="that an instance must have, all of them"
    )
    passing: bool = Field(default=False, description="only instances whose checks all pass, none that warns")
    datacenter: Name = Field(default="", description="none: that of the server which is asked")
    namespace: Name = Field(default="", description="none: default")
    partition: Name = Field(default="", description="none: default")
    stale: bool = Field(default=False, description="any server may answer, and what is a moment old counts")
    wait: Annotated[Duration, AfterValidator(_wait)] = Field(
        default=10.0, description="how long the server may wait for a change before it answers, at most 10m"
    )
    token_file: str = Field(default="", description="has the token; none: no token")
    user: str = Field(default="", description="of etcd's authentication")
    password_file: str = Field(default="", description="has the user's password")
    ca_file: str = Field(default="", description="of CA certificates for https; none: the system's")
    cert_file: str = Field(default="", description="of the client's own certificate for https; none: it has none")
    key_file: str = Field(default="", description="of the key of cert_file, where that does not have it")
    options: dict[str, Any] = Field(default_factory=dict, description="for types of other packages")

    @model_validator(mode="before")
    @classmethod
    def _hold_down_of_type(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind in HOLD_DOWN_S and "hold_down" not in data:
            return {**data, "hold_down": HOLD_DOWN_S[kind]}
        return data


def is_label(text: str) -> bool:
    """As names of Kubernetes' services, namespaces and ports are."""
    return _LABEL.fullmatch(text) is not None
