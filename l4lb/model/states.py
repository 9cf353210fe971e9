"""The enums of the product. The words are the public contract's: everything prints them as they are."""

from __future__ import annotations

from enum import StrEnum


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"


class AdminState(StrEnum):
    """What the operator wants of a backend. Never mixed with `Health`."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


class Health(StrEnum):
    """What was observed of a backend. Never mixed with `AdminState`."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


class ProcessState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"


class DropReason(StrEnum):
    """Why a datagram was not passed on. The order is the native enum's (`_dataplane/base/enums.pxd`); a test holds them
    together."""

    TOO_LARGE = "too_large"
    NO_BACKEND = "no_backend"
    RATE_LIMITED = "rate_limited"
    MAX_SESSIONS = "max_sessions"
    RESOURCES = "resources"
    DRAINING = "draining"
    BANDWIDTH = "bandwidth"
    NOT_SENT = "not_sent"
    ANSWER_NOT_SENT = "answer_not_sent"
    LATE = "late"
    PROXY_HEADER = "proxy_header"
    KERNEL = "kernel"


class ConnectFailure(StrEnum):
    """What a connect to a backend failed of. The order is the native enum's; a test holds them together.

    `RESOURCES` is this host's own want, see `Shortage` and `l4lb.model.verdicts`: it says nothing of the backend.
    """

    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    RESET = "reset"
    RESOURCES = "resources"
    OTHER = "other"


class Shortage(StrEnum):
    """What of this host's own was short, so that a backend could not be asked. The order is the native enum's, from 1
    on; a test holds them together."""

    PORTS = "ports"
    ADDRESS = "source_address"
    FILES = "files"
    MEMORY = "memory"
    DENIED = "denied"
    FAMILY = "family"


class PathError(StrEnum):
    """What ICMP, or this host's own routes, said of datagrams to a backend. The order is the native enum's; a test
    holds them together.

    `PROHIBITED` is of ICMPv6 and of routes; of IPv4 what a host prohibits cannot be told from one that is unreachable.
    """

    REFUSED = "refused"
    HOST_UNREACHABLE = "host_unreachable"
    NET_UNREACHABLE = "net_unreachable"
    PROHIBITED = "prohibited"
    TOO_LARGE = "too_large"
    PROTOCOL = "protocol"


class SessionState(StrEnum):
    """Where a session is in its life. The order is the native enum's (`_dataplane/base/enums.pxd`), from 1 on."""

    READING = "reading"
    QUEUED = "queued"
    CONNECTING = "connecting"
    PAUSING = "pausing"
    RELAYING = "relaying"
    RESETTING = "resetting"
    CLOSING = "closing"


class CloseReason(StrEnum):
    """Why a session ended. The order is the native enum's (`_dataplane/base/enums.pxd`); a test holds them together."""

    NORMAL = "normal"
    CLIENT_ABORT = "client_abort"
    BACKEND_ABORT = "backend_abort"
    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    HALF_CLOSE_TIMEOUT = "half_close_timeout"
    MAX_DURATION = "max_duration"
    NO_BACKEND = "no_backend"
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    DENIED = "denied"
    RATE_LIMITED = "rate_limited"
    PROXY_HEADER_ERROR = "proxy_header_error"
    BACKEND_DOWN = "backend_down"
    ADMIN = "admin"
    DRAIN = "drain"
    SHUTDOWN = "shutdown"
    RESOURCE_LIMIT = "resource_limit"
    INTERNAL_ERROR = "internal_error"
