"""The options of the process: `[global]` and `[admin]`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from l4lb.config.options.base import Count, Line, Model, Name, PositiveCount, listify, reject_bool
from l4lb.config.options.reporting import (
    AccessLogTarget,
    DatagramAddress,
    DatagramAddressOrOff,
    LogTarget,
    MetricPrefix,
)
from l4lb.config.options.units import Duration, DurationOrOff
from l4lb.net.address import parse_address
from l4lb.net.output.syslog import Facility


def _admin_address(text: str) -> str:
    address = parse_address(text)
    if address.kind == "fd" or address.is_range:
        raise ValueError('expected "unix:/path", "host:port" or "off"')
    return text


AdminAddress = Annotated[str, AfterValidator(lambda text: text if text in ("off", "") else _admin_address(text))]


class GlobalConfig(Model):
    """The process: its workers, limits, logs and reports."""

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
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="of this level and above"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="of log and access_log")
    access_log: AccessLogTarget = Field(
        default="off",
        description="a line a session: off, stdout, /path (opened again at SIGUSR1), syslog or plugin:NAME",
    )
    access_log_options: dict[str, Any] = Field(default_factory=dict, description="of plugin:NAME, the plug-in's own")
    syslog: DatagramAddress = Field(
        default="unix:/dev/log", description="of log and access_log: unix:/path, or host:port by UDP; RFC 5424"
    )
    syslog_facility: Facility = Field(default="daemon", description="of RFC 5424")
    backend_histograms: Count = Field(
        default=500,
        description="backends of a pool up to which metrics have histograms of each one's times; 0: none",
    )
    statsd: DatagramAddressOrOff = Field(default="off", description="send metrics to host:port or unix:/path")
    statsd_format: Literal["statsd", "datadog"] = Field(
        default="statsd", description="labels as parts of the name, or as Datadog's tags"
    )
    statsd_interval: Duration = 10.0
    statsd_prefix: MetricPrefix = Field(default="l4lb", description="what the names of metrics begin with")
    statsd_tags: dict[Name, Name] = Field(default_factory=dict, description="of every metric; datadog only")
    kernel_pin: bool = Field(
        default=False,
        description="a crash leaves forwarding in the kernel as it is, until the next start",
    )
    hash_seed: Annotated[int, BeforeValidator(reject_bool), Field(ge=0, lt=2**63)] = Field(
        default=0, description="the same on every node gives the same tables on every node"
    )


class HooksConfig(Model):
    """A module of the operator's own that is asked about sessions, or told of those that have ended."""

    module: Name = Field(
        default="",
        description="package.module, whose on_session is asked about each new TCP session, and whose on_close gets the "
        "record of each session that has ended",
    )
    deadline: Duration = Field(default=0.05, description="how long a session waits for the answer of on_session")
    on_error: Literal["accept", "reject"] = Field(
        default="accept", description="what becomes of a session whose hook is late, raises or answers nonsense"
    )
    listeners: Annotated[list[Name], BeforeValidator(listify)] = Field(
        default_factory=list, description='which ones; empty: all with engine = "proxy", for on_session those of TCP'
    )


class AdminConfig(Model):
    """Where the admin API and the dashboard are."""

    bind: AdminAddress = Field(
        default="",
        description="unix:/path, host:port or off; empty: /run/l4lb/admin.sock as root, else below XDG_RUNTIME_DIR",
    )
    token_file: Line = Field(
        default="",
        description="bearer tokens, a line each: TOKEN [NAME [admin | read-only]]; required for TCP beyond loopback",
    )
    dashboard: bool = Field(default=True, description="serve the dashboard at /")


class FleetConfig(Model):
    """What the nodes of a fleet share, in a configuration that is in etcd; elsewhere it has no effect."""

    node_ttl: Annotated[Duration, Field(ge=2, le=3600)] = Field(
        default=10.0, description="how long after a crash the others take a node for alive; from its next start on"
    )
    bans: Literal["shared", "own"] = Field(
        default="shared", description="shared: a ban of one node holds on all of them"
    )
    health: Literal["own", "majority"] = Field(
        default="own", description="majority: a backend is up or down as most of three nodes or more see it"
    )
    limits: Literal["own", "divided"] = Field(
        default="own",
        description="divided: those of listeners, and max_sessions of backends, are of all live nodes together",
    )
