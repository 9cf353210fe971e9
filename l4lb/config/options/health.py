"""The options of health checks, and which of them each type of check has."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from l4lb.config.options.base import Model, PositiveCount, argv, listify
from l4lb.config.options.callables import health_check_names
from l4lb.config.options.patterns import parse_bytes, parse_pattern
from l4lb.config.options.units import Duration
from l4lb.model.hints import did_you_mean
from l4lb.model.states import Health
from l4lb.net.address import parse_address

_TLS = ("server_name", "verify")
_HTTP = ("method", "path", "host", "headers", "expect_status", "expect_body")
OPTIONS: dict[str, tuple[str, ...]] = {  # by type: what only some types have
    "none": (),
    "tcp": ("send_proxy",),
    "send_expect": ("send_proxy", "send", "expect"),
    "tls": ("send_proxy", *_TLS),
    "http": ("send_proxy", *_HTTP),
    "https": ("send_proxy", *_HTTP, *_TLS),
    "udp": ("send", "expect"),
    "dns": ("name", "record", "transport"),
    "redis": ("send_proxy",),
    "postgres": ("send_proxy", "user"),
    "exec": ("command",),
    "python": ("callable", "options"),
}
_REQUIRED = {"dns": "name", "exec": "command", "python": "callable"}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_PRINTABLE = re.compile(r"[\x21-\x7e]*")
_STATUS = re.compile(r"([1-5]\d\d)(?:-([1-5]\d\d))?")
_STATUS_EXPECTED = 'expected a status such as 200, a range such as "200-399", or a list of them'
OWN_HEADERS = {"host": "use host", "connection": "it is always close", "content-length": "a check sends no body"}


def _type(name: str) -> str:
    known = [*OPTIONS, *health_check_names()]
    if name not in known:
        raise ValueError(f"expected one of {', '.join(known)}{did_you_mean(name, known)}")
    return name


def _each(check: Callable[[str], object]) -> AfterValidator:
    """Every text of a tuple, or the one, must pass `check`."""

    def check_all(value: Any) -> Any:
        for text in (value,) if isinstance(value, str) else value:
            check(text)
        return value

    return AfterValidator(check_all)


def _statuses(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str | list | tuple):
        raise ValueError(_STATUS_EXPECTED)
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


def _status(text: str) -> None:
    match = _STATUS.fullmatch(text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise ValueError(_STATUS_EXPECTED)


def _path(text: str) -> None:
    if not text.startswith("/") or not _PRINTABLE.fullmatch(text):
        raise ValueError('expected a path such as "/health", without blanks')


def _host(text: str) -> None:
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("expected a host name, with or without a port")


def _headers(value: dict[str, str]) -> dict[str, str]:
    for name, content in value.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f'"{name}" is not the name of a header')
        if name.lower() in OWN_HEADERS:
            raise ValueError(f'"{name}" cannot be set: {OWN_HEADERS[name.lower()]}')
        if re.search(r"[\r\n\0]", content):
            raise ValueError(f'"{name}": a header is one line')
    return value


def _verify(value: bool | str) -> bool | str:
    if isinstance(value, str) and not os.access(value, os.R_OK):
        raise ValueError("cannot be read; expected true, false or a file of CA certificates")
    return value


def _record(text: str) -> str:
    import dns.exception
    import dns.rdatatype

    try:
        dns.rdatatype.from_text(text)
    except (dns.exception.DNSException, ValueError):
        raise ValueError('expected a type of record such as "A", "AAAA" or "SOA"') from None
    return text


def query_name(text: str) -> str:
    import dns.exception
    import dns.name

    try:
        dns.name.from_text(text)
    except (dns.exception.DNSException, UnicodeError) as error:
        raise ValueError(f"not a name of DNS: {error}") from None
    return text


def _text_or_list(description: str) -> WithJsonSchema:
    return WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], "description": description}
    )


CheckType = Annotated[
    str,
    AfterValidator(_type),
    WithJsonSchema({"anyOf": [{"enum": list(OPTIONS)}, {"type": "string"}], "description": "what a check does"}),
]
Sent = Annotated[
    tuple[str, ...], BeforeValidator(listify), _each(parse_bytes), _text_or_list('text or "hex:...", one a step')
]
Expected = Annotated[
    tuple[str, ...],
    BeforeValidator(listify),
    _each(parse_pattern),
    _text_or_list('text, "hex:..." or "regex:...", one a step'),
]
Statuses = Annotated[
    tuple[str, ...],
    BeforeValidator(_statuses),
    _each(_status),
    WithJsonSchema({"type": ["integer", "string", "array"], "description": _STATUS_EXPECTED}),
]


class HealthConfig(Model):
    """How the backends of a pool are checked."""

    type: CheckType = "tcp"
    interval: Duration = 2.0
    fast_interval: Duration = Field(default=1.0, description="between checks while the state is changing")
    down_interval: Duration = Field(default=5.0, description="between checks while it is down")
    timeout: Duration = 1.0
    rise: PositiveCount = Field(default=2, description="passed checks in a row that bring a backend up")
    fall: PositiveCount = Field(default=3, description="failed checks in a row that take it down")
    initial: Health = Field(default=Health.UNKNOWN, description="before the first check, which decides if unknown")
    address: str = Field(default="", description="check this address or :port instead of the backend's own")
    send_proxy: bool = Field(default=False, description="begin the check's connection with a PROXY v2 LOCAL header")
    send: Sent = ()
    expect: Expected = ()
    server_name: Annotated[str, _each(_host)] = Field(default="", description="the name to ask for (SNI)")
    verify: Annotated[bool | str, AfterValidator(_verify)] = Field(
        default=False, description="check the certificate: against the system's CAs, or those of this file"
    )
    method: Literal["GET", "HEAD"] = Field(default="GET", description="of the request")
    path: Annotated[str, _each(_path)] = Field(default="/", description="of the request")
    host: Annotated[str, _each(_host)] = Field(default="", description="empty: the address")
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = Field(
        default_factory=dict, description="more headers of the request"
    )
    expect_status: Statuses = ("200-399",)
    expect_body: Annotated[str, _each(parse_pattern)] = Field(
        default="", description='text, "hex:..." or "regex:..." that must be in the first 64 KiB of the body'
    )
    name: Annotated[str, AfterValidator(lambda text: text and query_name(text))] = Field(
        default="", description="the name to query"
    )
    record: Annotated[str, AfterValidator(lambda text: text if text == "A" else _record(text))] = Field(
        default="A", description="the type of record to query"
    )
    transport: Literal["udp", "tcp"] = Field(default="udp", description="udp turns to tcp for a truncated answer")
    user: str = Field(default="postgres", min_length=1, max_length=63, description="who to begin a session as")
    command: Annotated[tuple[str, ...], BeforeValidator(argv)] = Field(
        default=(), description="the program and its arguments"
    )
    callable: str = Field(default="", description="package.module:function")
    options: dict[str, Any] = Field(default_factory=dict, description="for python and for types of other packages")

    def __hash__(self) -> int:
        """Of what can be hashed: headers and options are tables. Checkers are found by their settings."""
        return hash((self.type, self.address, self.interval, self.timeout, self.path, self.send, self.command))

    @model_validator(mode="after")
    def _check_address(self) -> HealthConfig:
        if self.address:
            address = parse_address(self.address)
            if address.kind == "fd" or address.is_range:
                raise ValueError('address: expected "host:port" or ":port"')
        return self

    @model_validator(mode="after")
    def _check_required(self) -> HealthConfig:
        required = _REQUIRED.get(self.type, "")
        if required and not getattr(self, required):
            raise ValueError(f'type "{self.type}" needs {required}')
        if self.type == "send_expect" and not any((*self.send, *self.expect)):
            raise ValueError('type "send_expect" needs send, expect or both')
        return self
