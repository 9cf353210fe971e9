"""The options of a listener."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, WithJsonSchema, model_validator

from l4lb.config.options.access import Access, AccessEntry, PerSourceConfig
from l4lb.config.options.base import Count, Model, Name, addresses, listify, one_of, reject_bool
from l4lb.config.options.proxy import Network
from l4lb.config.options.routes import Route
from l4lb.config.options.units import Bandwidth, Duration, DurationOrOff, Rate
from l4lb.model.states import Protocol

UDP_IDLE_S = 30.0
GUE_PORT = 6080  # IANA
_SCHEMA = "^(ipip|gue(:[0-9]{1,5})?)$"
_GUE = re.compile(r"gue(?::([0-9]{1,5}))?")
ListenAddress = Annotated[str, one_of(("ip", "unix", "fd"), ranges=True)]


def off_to_none(value: Any) -> Any:
    return None if value == "off" else value


def gue_port_of(encapsulation: str) -> int:
    """0: it is ipip. ValueError for what is no encapsulation."""
    if encapsulation == "ipip":
        return 0
    match = _GUE.fullmatch(encapsulation)
    port = int(match[1] or GUE_PORT) if match is not None else 0
    if not 0 < port < 65536:
        raise ValueError('expected "ipip", "gue" or "gue:PORT", with a port of 1 to 65535')
    return port


def _encapsulation(text: str) -> str:
    gue_port_of(text)
    return text


Encapsulation = Annotated[str, AfterValidator(_encapsulation), WithJsonSchema({"type": "string", "pattern": _SCHEMA})]


class KeepaliveConfig(Model):
    """TCP keepalive on both sides of a session."""

    idle: Duration = 60.0
    interval: Duration = 10.0
    count: Annotated[int, BeforeValidator(reject_bool), Field(ge=1, le=127)] = Field(
        default=6, description="probes without an answer that end a session"
    )


class Listener(Model):
    """Where clients are accepted, and which pool they go to: ``Listener("0.0.0.0:443", pool="web")``."""

    first_option: ClassVar[str] = "bind"
    bind: Annotated[list[ListenAddress], BeforeValidator(addresses), Field(min_length=1)] = Field(
        description="an address or a list: host:port, :port (v4, v6), host:8000-8010, unix:/path, unix:@name, fd:NAME"
    )
    protocol: Protocol = Field(default=Protocol.TCP, description="of its clients and their backends")
    pool: str = Field(description="where clients go whom no route takes")
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
    backlog: Annotated[int, BeforeValidator(reject_bool), Field(ge=1, le=2**31 - 1)] = Field(
        default=4096, description="connections that may wait to be accepted; the kernel has a limit too, somaxconn"
    )
    nodelay: bool = Field(default=True, description="TCP_NODELAY, both sides")
    keepalive: Annotated[KeepaliveConfig | None, BeforeValidator(off_to_none)] = Field(
        default=None, description="off, or { idle, interval, count }; both sides"
    )
    user_timeout: DurationOrOff = Field(default=0.0, description="TCP_USER_TIMEOUT, both sides")
    fast_open: Count = Field(default=0, description="length of the TCP Fast Open queue; 0: off")
    defer_accept: DurationOrOff = Field(default=0.0, description="accept only once the client has sent something")
    transparent: bool = Field(default=False, description="accept for addresses that are not this host's (TPROXY)")
    splice: Literal["auto", "always", "off"] = Field(
        default="auto", description="bulk goes through a pipe in the kernel"
    )
    session_rate: Rate = Field(default=0.0, description="new sessions a second; faster ones are reset")
    session_burst: Count = Field(
        default=0, description="sessions above the rate at once; 0: a tenth of a second's worth"
    )
    bandwidth_up: Bandwidth = Field(default=0.0, description="of each session, client to backend")
    bandwidth_down: Bandwidth = Field(default=0.0, description="of each session, backend to client")
    total_bandwidth_up: Bandwidth = Field(default=0.0, description="of all its sessions together, client to backend")
    total_bandwidth_down: Bandwidth = Field(default=0.0, description="of all its sessions together, backend to client")
    per_source: PerSourceConfig = Field(default=PerSourceConfig(), description="limits of each source of clients")
    routes: list[Route] = Field(
        default_factory=list, description="clients for other pools; the first that takes a client, else pool"
    )
    when_no_backend: Literal["accept", "refuse"] = Field(
        default="accept",
        description="while no pool of the listener has a usable backend; accept: clients, and reset them; refuse: do "
        "not listen, for a tier above to see",
    )
    udp_responses: Count | Literal["none"] = Field(
        default=0,
        description='end the session after so many answers to each datagram; 0: by idle_timeout; "none": one-way',
    )
    udp_requests: Count = Field(default=0, description="begin a new session after so many datagrams of the client")
    udp_gro: bool = Field(default=True, description="take many datagrams of a client from the kernel as one")
    engine: Literal["proxy", "kernel"] = Field(
        default="proxy", description="kernel: packets are forwarded there, no connection ends here"
    )
    mode: Literal["nat", "dsr", "tunnel"] = Field(
        default="nat",
        description="of kernel; nat: backends answer by way of this host; dsr: directly, they have the listener's "
        "address and are on the same link; tunnel: directly, from anywhere, they have the address and open the tunnel",
    )
    encapsulation: Encapsulation = Field(
        default="ipip", description="of tunnel: ipip, gue (UDP port 6080) or gue:PORT, which backends open"
    )
    attach: Literal["auto", "tcx", "native", "generic"] = Field(
        default="auto", description="of kernel: where packets are taken; native and generic: by XDP"
    )
    devices: Annotated[list[Name], BeforeValidator(listify)] = Field(
        default_factory=list, description="of kernel: by which packets come in, from clients and backends; none: all"
    )
    _access: Access = PrivateAttr(default=Access())

    @property
    def access(self) -> Access:
        """`allow` and `deny`, compiled, as their files were when they were read."""
        return self._access

    @property
    def drops(self) -> bool:
        """Whether the kernel drops the SYNs of refused clients."""
        return self.protocol is Protocol.TCP and self.deny_action == "drop"

    @property
    def pools(self) -> list[str]:
        """All that its clients may go to; its own first."""
        return list(dict.fromkeys([self.pool, *(pool for route in self.routes for pool in route.pools)]))

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
