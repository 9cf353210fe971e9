"""The options of a pool, and all options together: each is in this folder once, with name, type, default and meaning.
What spans several options is checked in `rules/`.

The models are the public `Listener`, `Pool`, `Backend` and so on, and all of `Config` except how it is read; the JSON
Schema is made from them. Instances are immutable. Durations are in seconds, bandwidths in bytes a second, 0 where an
option is off.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from l4lb.config.options.base import Count, Line, Model, Name, listify, one_of, reject_bool
from l4lb.config.options.discovery import DiscoveryConfig
from l4lb.config.options.health import HealthConfig
from l4lb.config.options.listener import Listener
from l4lb.config.options.paths import Lines, Path, path_text
from l4lb.config.options.policies import policy_names
from l4lb.config.options.process import AdminConfig, FleetConfig, GlobalConfig, HooksConfig
from l4lb.config.options.proxy import Tlv
from l4lb.config.options.units import Duration, DurationOrOff
from l4lb.errors import Problem
from l4lb.model.hints import did_you_mean
from l4lb.model.states import AdminState, Protocol


def backend_table(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f'expected an address such as "10.0.0.1:{value}", or a table')
    return {"address": value} if isinstance(value, str) else value


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _prime(value: int) -> int:
    if not is_prime(value):
        raise ValueError("expected a prime number, such as 65537 or 655373")
    return value


BackendAddress = Annotated[str, one_of(("ip", "unix"), ranges=False)]


class Backend(Model):
    """One backend of a pool: ``Backend("10.0.0.1:80", weight=2)``."""

    first_option: ClassVar[str] = "address"
    address: BackendAddress = Field(
        description="host:port, [v6]:port or unix:/path; port 0: the one that the client asked"
    )
    weight: Annotated[int, BeforeValidator(reject_bool), Field(ge=0, le=65535)] = Field(
        default=1, description="share of new sessions; 0: none"
    )
    max_sessions: Count = Field(default=0, description="0: no limit")
    admin_state: AdminState = Field(default=AdminState.READY, description="what the operator wants at first")
    priority: Count = Field(
        default=0, description="0 goes first; a higher number serves when no backend of a lower one can"
    )
    id: Name = Field(default="", description="identity for hashing and statistics; the address by default")
    zone: Name = Field(default="", description="where it is, for the pool's zone")
    tags: dict[Name, Line] = Field(default_factory=dict, description="of the operator's own; shown in the status")

    @property
    def key(self) -> str:
        """Its identity: the id, or else the address."""
        return self.id or self.address


class PassiveConfig(Model):
    """Outlier detection from real traffic."""

    failures: Count = Field(
        default=5, description="connects that fail, or resets before the first byte, in a row; 0: off"
    )
    eject_for: Duration = Field(default=30.0, description="times the number of ejections, at most 10 of them")
    max_ejected_percent: Annotated[int, BeforeValidator(reject_bool), Field(ge=0, le=100)] = Field(
        default=50, description="of the ready backends; one usable backend is always left"
    )


class AgentConfig(Model):
    """HAProxy's agent-check text protocol."""

    port: Annotated[int, BeforeValidator(reject_bool), Field(ge=0, le=65535)] = Field(
        default=0, description="of each backend's host; 0: no agent"
    )
    interval: Duration = 2.0


def _known_policy(name: str) -> str:
    known = policy_names()
    if name not in known:
        close = did_you_mean(name, known)
        raise ValueError(f"expected {', '.join(repr(one) for one in known[:-1])} or {known[-1]!r}{close}")
    return name


Policy = Annotated[
    str, AfterValidator(_known_policy), Field(json_schema_extra=lambda schema: schema.update(enum=[*policy_names()]))
]


def load_factor(value: Any) -> Any:
    if value == "off":
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value == 0 or 1 < value <= 100):
        raise ValueError('expected "off" or a number above 1, up to 100, such as 1.25')
    return value


_NONE_NAMED: list[Any] = []  # the default of backends, which is this object


class Pool(Model):
    """A named group of backends and how one of them is chosen: ``Pool(["10.0.0.1:80"], policy="maglev")``."""

    first_option: ClassVar[str] = "backends"
    policy: Policy = Field(default="round_robin", description="how a backend is chosen")
    hash_key: Literal["source_ip", "source_ip_port", "destination", "session", "quic_cid"] = Field(
        default="source_ip",
        description="what tells clients apart; session: source, destination and protocol; quic_cid, of udp: the QUIC "
        "connection id, also when a client comes from another address",
    )
    hash_prefix_v4: Annotated[int, BeforeValidator(reject_bool), Field(ge=0, le=32)] = Field(
        default=32, description="bits of a source that are hashed"
    )
    hash_prefix_v6: Annotated[int, BeforeValidator(reject_bool), Field(ge=0, le=128)] = Field(
        default=128, description="bits of a source that are hashed"
    )
    table_size: Annotated[int, BeforeValidator(reject_bool), Field(ge=3, le=5000011), AfterValidator(_prime)] = Field(
        default=65537, description="slots of the table of maglev; a prime number"
    )
    bounded_load: Annotated[float, BeforeValidator(load_factor)] = Field(
        default=0.0,
        description="of policies that hash: a backend's sessions, at most so many times the average",
    )
    slow_start: DurationOrOff = Field(
        default=0.0, description="how long the share of a backend that came back grows to its weight"
    )
    send_proxy: Literal["off", "v1", "v2"] = Field(
        default="off", description="begin each connection with a PROXY header that names the client"
    )
    send_proxy_tlvs: list[Tlv] = Field(
        default_factory=list,
        description="of v2: crc32c, unique_id, authority, alpn, netns, received; or { type = 0xE4, value = text }",
    )
    source_address: str = Field(
        default="",
        description="connect from this IP address; client: from the client's own (transparent); by nat in the kernel:"
        " backends see this address",
    )
    connect_timeout: Duration = 5.0
    connect_attempts: Annotated[int, BeforeValidator(reject_bool), Field(ge=1, le=65535)] = Field(
        default=3, description="each on another backend while there is one"
    )
    retry_pause: DurationOrOff = Field(
        default=0.0, description="wait before the next connect attempt when no other backend is left to try"
    )
    queue_size: Count = Field(default=0, description="clients that may wait when every backend is at max_sessions")
    queue_timeout: Duration = 5.0
    panic_threshold: Annotated[int, BeforeValidator(reject_bool), Field(ge=0, le=100)] = Field(
        default=0, description="percent of the ready backends: while fewer are not down, health is ignored"
    )
    when_all_down: Literal["reject", "use_all"] = Field(
        default="reject", description="use_all: health is ignored when every backend is down"
    )
    zone: str = Field(
        default="", description="in each priority its backends go first, while half of its weight or more is up"
    )
    discovery: DiscoveryConfig | None = Field(default=None, description="where more backends come from")
    backends: Annotated[list[Annotated[Backend, BeforeValidator(backend_table)]], BeforeValidator(listify)] = Field(
        default_factory=lambda: _NONE_NAMED, description="may be missing with discovery"
    )
    on_backend_down: Literal["keep", "drain", "reset"] = Field(
        default="keep", description="what becomes of its established sessions; drain: reset after drain_timeout"
    )
    on_backend_removed: Literal["keep", "drain", "reset"] = Field(
        default="drain", description="what becomes of the sessions of a backend that is removed"
    )
    health: HealthConfig = Field(default=HealthConfig(), description="how its backends are checked")
    passive: PassiveConfig = Field(default=PassiveConfig(), description="outlier detection from real traffic")
    agent: AgentConfig = Field(default=AgentConfig(), description="HAProxy's agent-check text protocol")

    @field_validator("backends", mode="wrap")
    @classmethod
    def _check_some(cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Without discovery there must be some; after `discovery`, which is known here unless it is broken."""
        needed = info.data.get("discovery", value) is None
        if value is _NONE_NAMED:
            if needed:
                raise PydanticCustomError("missing", "expected a value")
            return []
        backends = check(value)
        if needed and not backends:
            raise PydanticCustomError("too_short", "expected at least one")
        return backends

    @model_validator(mode="after")
    def _check_source(self) -> Pool:
        if self.source_address not in ("", "client"):
            try:
                ipaddress.ip_address(self.source_address)
            except ValueError:
                raise ValueError(
                    f'source_address: "{self.source_address}" is not an IP address, nor "client"'
                ) from None
        return self


class Options(Model):
    """A whole configuration, whatever it was read from."""

    global_: GlobalConfig = Field(
        default_factory=GlobalConfig, alias="global", description="the process: workers, limits, logs, reports"
    )
    admin: AdminConfig = Field(default_factory=AdminConfig, description="the admin API and the dashboard")
    fleet: FleetConfig = Field(default_factory=FleetConfig, description="what the nodes of a fleet share")
    hooks: HooksConfig = Field(default_factory=HooksConfig, description="a module of the operator's own")
    listeners: dict[Name, Listener] = Field(default_factory=dict, description="by name: where clients are accepted")
    pools: dict[Name, Pool] = Field(default_factory=dict, description="by name: groups of backends")

    _lines: Lines | None = PrivateAttr(default=None)
    _file: str = PrivateAttr(default="")
    _flags: dict[Path, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _no_checks_of_udp(self) -> Self:
        """A pool that only UDP listeners use is not checked unless it says how: there is no handshake to look at."""
        for name, pool in self.pools.items():
            if self.protocols_of(name) == {Protocol.UDP} and "type" not in pool.health.model_fields_set:
                health = pool.health.model_copy(update={"type": "none"})
                self.pools[name] = pool.model_copy(update={"health": health})
        return self

    def protocols_of(self, pool: str) -> set[Protocol]:
        """Of the listeners that use a pool."""
        return {listener.protocol for listener in self.listeners.values() if pool in listener.pools}

    def came_from(self, file: str, lines: Lines | None, flags: dict[Path, str]) -> None:
        """Note for messages where it was read: the file and its lines, and the flag that each changed path is from."""
        self._file, self._lines, self._flags = file, lines, flags

    @property
    def file(self) -> str:
        """Where it was loaded from; empty when it was not."""
        return self._file

    def problem(self, path: Path, message: str) -> Problem:
        """What is wrong with the value at `path`, with the file and line, or the flag, that it came from."""
        for end in range(len(path), 0, -1):
            if path[:end] in self._flags:
                return Problem(self._flags[path[:end]], message)
        line = self.line_of(*path)
        return Problem(path_text(path), message, self._file if line else "", line)

    def line_of(self, *path: str | int) -> int:
        """The line of a key in the file that this was loaded from; 0 when there is none."""
        return self._lines.line_of(path) if self._lines is not None else 0
