"""Every option, once: name, type, default, meaning. What spans several options is checked in `rules/`.

These models are the public `Listener`, `Pool`, `Backend` and so on, and all of `Config` except how it is read; the JSON
Schema is made from them. Instances are immutable. Durations are in seconds, bandwidths in bytes a second, 0 where an
option is off.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from l4lb.config.options.access import Access, AccessEntry
from l4lb.config.options.base import Count, Line, Model, Name, PositiveCount, listify, reject_bool
from l4lb.config.options.health import HealthConfig
from l4lb.config.options.hints import did_you_mean
from l4lb.config.options.paths import Lines, Path, path_text
from l4lb.config.options.policies import policy_names
from l4lb.config.options.proxy import Network, Tlv
from l4lb.config.options.reporting import (
    AccessLogTarget,
    DatagramAddress,
    DatagramAddressOrOff,
    LogTarget,
    MetricPrefix,
)
from l4lb.config.options.units import Bandwidth, Duration, DurationOrOff, Rate
from l4lb.errors import Problem
from l4lb.model.states import AdminState, Protocol
from l4lb.net.address import parse_address
from l4lb.net.output.syslog import Facility


def _one_of(kinds: tuple[str, ...], *, ranges: bool) -> AfterValidator:
    def check(text: str) -> str:
        address = parse_address(text)
        if address.kind not in kinds:
            raise ValueError(f'"{address.kind}:" addresses cannot be used here')
        if address.is_range and not ranges:
            raise ValueError("a range of ports is for listeners; here it is one port")
        return text

    return AfterValidator(check)


UDP_IDLE_S = 30.0


def _off_to_none(value: Any) -> Any:
    return None if value == "off" else value


def _backend_table(value: Any) -> Any:
    return {"address": value} if isinstance(value, str) else value


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _prime(value: int) -> int:
    if not is_prime(value):
        raise ValueError("expected a prime number, such as 65537 or 655373")
    return value


ListenAddress = Annotated[str, _one_of(("ip", "unix", "fd"), ranges=True)]
BackendAddress = Annotated[str, _one_of(("ip", "unix"), ranges=False)]
AdminAddress = Annotated[str, AfterValidator(lambda text: text if text in ("off", "") else _admin_address(text))]


def _admin_address(text: str) -> str:
    address = parse_address(text)
    if address.kind == "fd" or address.is_range:
        raise ValueError('expected "unix:/path", "host:port" or "off"')
    return text


class GlobalConfig(Model):
    workers: Annotated[int, BeforeValidator(reject_bool), Field(ge=1, le=64)] | Literal["auto"] = Field(
        default="auto", description="worker threads; auto: one per usable CPU (cgroup quota and affinity respected)"
    )
    worker_affinity: bool = Field(
        default=False, description="pin worker i to the i-th usable CPU and steer connections there"
    )
    busy_poll: DurationOrOff = Field(
        default=0.0, description="look for events so long before sleeping: latency for CPU"
    )
    max_sessions: PositiveCount | Literal["auto"] = Field(
        default="auto", description="sessions of the whole process; auto: from RLIMIT_NOFILE and local ports"
    )
    drain_timeout: Duration = Field(default=30.0, description="how long sessions may go on after SIGTERM")
    log: LogTarget = Field(default="stderr", description="stderr, /path (opened again at SIGUSR1) or syslog")
    state_file: Line = Field(
        default="", description="file in which runtime changes survive a restart; empty: they do not"
    )
    user: Name = Field(default="", description="who to become once everything is bound; empty: stay who started it")
    group: Name = Field(default="", description="with which group; empty: the user's own")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = Field(default="text", description="of log and access_log")
    access_log: AccessLogTarget = Field(
        default="off", description="a line a session: off, stdout, /path (opened again at SIGUSR1) or syslog"
    )
    syslog: DatagramAddress = Field(
        default="unix:/dev/log", description="of log and access_log: unix:/path, or host:port by UDP; RFC 5424"
    )
    syslog_facility: Facility = "daemon"
    statsd: DatagramAddressOrOff = Field(default="off", description="send metrics to host:port or unix:/path")
    statsd_format: Literal["statsd", "datadog"] = Field(
        default="statsd", description="labels as parts of the name, or as Datadog's tags"
    )
    statsd_interval: Duration = 10.0
    statsd_prefix: MetricPrefix = "l4lb"
    statsd_tags: dict[Name, Name] = Field(default_factory=dict, description="of every metric; datadog only")
    hash_seed: Annotated[int, BeforeValidator(reject_bool), Field(ge=0, lt=2**63)] = Field(
        default=0, description="the same on every node gives the same tables on every node"
    )


class AdminConfig(Model):
    bind: AdminAddress = Field(
        default="",
        description="unix:/path, host:port or off; empty: /run/l4lb/admin.sock as root, else below XDG_RUNTIME_DIR",
    )
    token_file: Line = Field(default="", description="file with the bearer token; required for TCP beyond loopback")
    dashboard: bool = Field(default=True, description="serve the dashboard at /")


class KeepaliveConfig(Model):
    """TCP keepalive on both sides of a session."""

    idle: Duration = 60.0
    interval: Duration = 10.0
    count: Annotated[int, BeforeValidator(reject_bool), Field(ge=1, le=127)] = 6


class Listener(Model):
    bind: Annotated[list[ListenAddress], BeforeValidator(listify), Field(min_length=1)]
    protocol: Protocol = Protocol.TCP
    pool: str
    accept_proxy: Literal["off", "v1", "v2", "any"] = Field(
        default="off", description="expect a PROXY header of this version before the bytes of each client"
    )
    proxy_trusted: Annotated[list[Network], BeforeValidator(listify)] = Field(
        default_factory=list, description="from whom, as CIDRs; others are reset. Unix clients are trusted"
    )
    proxy_timeout: Duration = Field(default=5.0, description="from accept until the header is complete")
    allow: Annotated[list[AccessEntry], BeforeValidator(listify)] = Field(
        default_factory=list, description="CIDRs, or file:/path with one a line; empty: whom deny does not name"
    )
    deny: Annotated[list[AccessEntry], BeforeValidator(listify)] = Field(
        default_factory=list, description="the same; the longest prefix that matches decides, deny wins a tie"
    )
    deny_action: Literal["reset", "drop", "close"] = Field(
        default="reset", description="what a refused client sees; drop: no answer at all, as always with udp"
    )
    max_sessions: Count = Field(
        default=0, description="0: no limit of its own; at it tcp resets new clients, udp ends the idlest session"
    )
    idle_timeout: DurationOrOff = Field(default=600.0, description="10m for tcp, 30s for udp, unless given")
    half_close: bool = Field(
        default=True, description="false: the first FIN ends both sides, after the bytes before it"
    )
    half_close_timeout: DurationOrOff = Field(
        default=60.0, description="once one side has ended: time without progress"
    )
    max_session_duration: DurationOrOff = 0.0
    backlog: Annotated[int, BeforeValidator(reject_bool), Field(ge=1, le=2**31 - 1)] = 4096
    nodelay: bool = True
    keepalive: Annotated[KeepaliveConfig | None, BeforeValidator(_off_to_none)] = Field(
        default=None, description="off, or { idle, interval, count }; both sides"
    )
    user_timeout: DurationOrOff = Field(default=0.0, description="TCP_USER_TIMEOUT, both sides")
    fast_open: Count = Field(default=0, description="length of the TCP Fast Open queue; 0: off")
    defer_accept: DurationOrOff = Field(default=0.0, description="accept only once the client has sent something")
    transparent: bool = Field(default=False, description="accept for addresses that are not this host's (TPROXY)")
    splice: Literal["auto", "always", "off"] = "auto"
    session_rate: Rate = Field(default=0.0, description="new sessions a second; faster ones are reset")
    session_burst: Count = Field(
        default=0, description="sessions above the rate at once; 0: a tenth of a second's worth"
    )
    bandwidth_up: Bandwidth = Field(default=0.0, description="of each session, client to backend")
    bandwidth_down: Bandwidth = Field(default=0.0, description="of each session, backend to client")
    total_bandwidth_up: Bandwidth = Field(default=0.0, description="of all its sessions together, client to backend")
    total_bandwidth_down: Bandwidth = Field(default=0.0, description="of all its sessions together, backend to client")
    udp_responses: Count | Literal["none"] = Field(
        default=0,
        description='end the session after so many answers to each datagram; 0: by idle_timeout; "none": one-way',
    )
    udp_requests: Count = Field(default=0, description="begin a new session after so many datagrams of the client")
    udp_gro: bool = Field(default=True, description="take many datagrams of a client from the kernel as one")
    _access: Access = PrivateAttr(default=Access())

    @property
    def access(self) -> Access:
        return self._access

    @property
    def drops(self) -> bool:
        """Whether the kernel drops the SYNs of refused clients."""
        return self.protocol is Protocol.TCP and self.deny_action == "drop"

    @model_validator(mode="after")
    def _read_lists(self) -> Self:
        self._access = Access.of(self.allow, self.deny)
        return self

    def with_lists_read(self) -> Listener:
        """The listener with its files as they are now: itself when none has changed. ValueError as `Access.of`."""
        if self._access.is_current():
            return self
        copy = self.model_copy()
        copy._access = Access.of(self.allow, self.deny)
        return copy

    @model_validator(mode="before")
    @classmethod
    def _idle_of_udp(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("protocol") == Protocol.UDP and "idle_timeout" not in data:
            return {**data, "idle_timeout": UDP_IDLE_S}
        return data


class Backend(Model):
    address: BackendAddress
    weight: Annotated[int, BeforeValidator(reject_bool), Field(ge=0, le=65535)] = Field(
        default=1, description="share of new sessions; 0: none"
    )
    max_sessions: Count = Field(default=0, description="0: no limit")
    admin_state: AdminState = AdminState.READY
    priority: Count = Field(
        default=0, description="0 goes first; a higher number serves when no backend of a lower one can"
    )
    id: Name = Field(default="", description="identity for hashing and statistics; the address by default")
    zone: Name = Field(default="", description="where it is, for the pool's zone")
    tags: dict[Name, Line] = Field(default_factory=dict, description="of the operator's own; shown in the status")

    @property
    def key(self) -> str:
        return self.id or self.address


class PassiveConfig(Model):
    """Outlier detection from real traffic."""

    failures: Count = Field(
        default=5, description="connects that fail, or resets before the first byte, in a row; 0: off"
    )
    eject_for: Duration = Field(default=30.0, description="times the number of ejections, at most 10 of them")
    max_ejected_percent: Annotated[int, BeforeValidator(reject_bool), Field(ge=0, le=100)] = 50


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


def _load_factor(value: Any) -> Any:
    if value == "off":
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value == 0 or 1 < value <= 100):
        raise ValueError('expected "off" or a number above 1, up to 100, such as 1.25')
    return value


class Pool(Model):
    policy: Policy = "round_robin"
    hash_key: Literal["source_ip", "source_ip_port", "destination", "session", "quic_cid"] = Field(
        default="source_ip",
        description="what tells clients apart; session: source, destination and protocol; quic_cid, of udp: the QUIC "
        "connection id, also when a client comes from another address",
    )
    hash_prefix_v4: Annotated[int, BeforeValidator(reject_bool), Field(ge=0, le=32)] = 32
    hash_prefix_v6: Annotated[int, BeforeValidator(reject_bool), Field(ge=0, le=128)] = 128
    table_size: Annotated[int, BeforeValidator(reject_bool), Field(ge=3, le=5000011), AfterValidator(_prime)] = 65537
    bounded_load: Annotated[float, BeforeValidator(_load_factor)] = Field(
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
        default="", description="connect from this IP address; client: from the client's own (transparent)"
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
    backends: Annotated[
        list[Annotated[Backend, BeforeValidator(_backend_table)]], BeforeValidator(listify), Field(min_length=1)
    ]
    on_backend_down: Literal["keep", "drain", "reset"] = Field(
        default="keep", description="what becomes of its established sessions; drain: reset after drain_timeout"
    )
    on_backend_removed: Literal["keep", "drain", "reset"] = "drain"
    health: HealthConfig = HealthConfig()
    passive: PassiveConfig = PassiveConfig()
    agent: AgentConfig = AgentConfig()

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

    global_: GlobalConfig = Field(default_factory=GlobalConfig, alias="global")
    admin: AdminConfig = Field(default_factory=AdminConfig)
    listeners: dict[Name, Listener] = Field(default_factory=dict)
    pools: dict[Name, Pool] = Field(default_factory=dict)

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
        return {listener.protocol for listener in self.listeners.values() if listener.pool == pool}

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
