"""The URL of a fleet: ``etcd://HOST[:PORT][,HOST[:PORT]...]/PREFIX[?OPTION=VALUE&...]``, or ``etcds://`` for TLS. Pure.

It says where the configuration is, how etcd is reached, and where a copy is kept for when it is not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from l4lb.model.durations import parse_duration
from l4lb.net.services.etcd import Login
from l4lb.net.services.json_api import Access

SCHEMES = {"etcd": "http", "etcds": "https"}
OPTIONS = ("user", "password_file", "ca_file", "cert_file", "key_file", "timeout", "cache")
PORT = 2379
TIMEOUT_S = 5.0
TIMEOUT_MAX_S = 60.0
_EXPECTED = "expected etcd://HOST:2379/PREFIX, such as etcd://10.0.0.1:2379,10.0.0.2:2379/l4lb/prod"
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?::(?P<port>[0-9]{1,5}))?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._-]+)+")
_NODE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62})")


@dataclass(frozen=True, slots=True)
class Place:
    """`url` has no options; `prefix` ends with a slash. `cache` empty: no copy is kept."""

    url: str
    access: Access
    login: Login
    prefix: str
    cache: str = ""

    @property
    def config_name(self) -> str:
        """How messages call the configuration."""
        return f"{self.url}/config"

    @property
    def files(self) -> list[str]:
        """Those that are read each time that etcd is asked."""
        access = self.access
        return [path for path in (self.login.password_file, access.ca_file, access.cert_file, access.key_file) if path]


def is_url(text: str) -> bool:
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def parse_place(text: str) -> Place:
    """ValueError, which names what is wrong, and what was expected."""
    scheme, found, rest = text.partition("://")
    if not found or scheme not in SCHEMES:
        raise ValueError(f'"{text}": {_EXPECTED}')
    if "#" in rest:
        raise ValueError('"#": a fragment is not expected; write %23 in a value')
    rest, _, query = rest.partition("?")  # by hand: urlsplit takes no IPv6 address beside another host
    servers, slash, path = rest.partition("/")
    hosts, prefix = _hosts(servers), _prefix(slash + path)
    options = _options(query)
    _expect_together(options, secure=scheme == "etcds")
    endpoints = [f"{SCHEMES[scheme]}://{host}" for host in hosts]
    files = (options.get(name, "") for name in ("ca_file", "cert_file", "key_file"))
    access = Access(endpoints, _timeout(options), *files)
    login = Login(options.get("user", ""), options.get("password_file", ""))
    return Place(f"{scheme}://{','.join(hosts)}{prefix}", access, login, f"{prefix}/", options.get("cache", ""))


def parse_node(text: str) -> str:
    """The name of a node. ValueError."""
    if not _NODE.fullmatch(text):
        raise ValueError(f'"{text}": expected up to 63 letters, digits, dots, underscores and hyphens')
    return text


def _hosts(text: str) -> list[str]:
    if "@" in text:
        raise ValueError(f'"{text}": a user is given as ?user=NAME&password_file=FILE')
    return [_host(one) for one in text.split(",")]


def _host(text: str) -> str:
    found = _HOST.fullmatch(text)
    port = int(found["port"] or PORT) if found else 0
    if found is None or not 0 < port < 65536:
        raise ValueError(f'"{text}": expected HOST:PORT; {_EXPECTED}')
    return f"{found['host']}:{port}"


def _prefix(text: str) -> str:
    prefix = text.rstrip("/")
    if not prefix:
        raise ValueError(f"the prefix of the keys is missing: {_EXPECTED}")
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f'"{prefix}": expected names with slashes between them, such as /l4lb/prod')
    return prefix


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=20) if query else []
    except ValueError:
        raise ValueError(f'"?{query}": expected OPTION=VALUE, with & between several') from None
    for name, value in pairs:
        if name not in OPTIONS:
            raise ValueError(f'"{name}": unknown option; expected {", ".join(OPTIONS[:-1])} or {OPTIONS[-1]}')
        if name in options:
            raise ValueError(f'"{name}": given twice')
        if not value or "\0" in value:
            raise ValueError(f'"{name}": expected a value')
        options[name] = value
    return options


def _expect_together(options: dict[str, str], *, secure: bool) -> None:
    for name in ("ca_file", "cert_file", "key_file"):
        if name in options and not secure:
            raise ValueError(f'"{name}": only with etcds://')
    if "key_file" in options and "cert_file" not in options:
        raise ValueError('"key_file": only together with cert_file')
    if ("user" in options) != ("password_file" in options):
        raise ValueError('"user" and "password_file" are given together')


def _timeout(options: dict[str, str]) -> float:
    if "timeout" not in options:
        return TIMEOUT_S
    try:
        timeout_s = parse_duration(options["timeout"])
    except ValueError as error:
        raise ValueError(f'"timeout": {error}') from None
    if timeout_s > TIMEOUT_MAX_S:
        raise ValueError(f'"timeout": at most {TIMEOUT_MAX_S:g} s')
    return timeout_s
