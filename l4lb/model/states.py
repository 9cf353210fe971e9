"""The enums of the product. The words are part of the public contract: all output uses them as they are."""

from __future__ import annotations

from enum import StrEnum


class Protocol(StrEnum):
    """Of a listener."""

    TCP = "tcp"
    UDP = "udp"


class AdminState(StrEnum):
    """What the operator wants from a backend. Never mixed with `Health`."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


class Health(StrEnum):
    """What checks observed about a backend. Never mixed with `AdminState`."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


class ProcessState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"


class DropReason(StrEnum):
    """Why a datagram was not forwarded. The order is the native enum's (`_dataplane/base/enums.pxd`); a test compares
    them."""

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
    DENIED = "denied"
    UNROUTED = "unrouted"
    KERNEL = "kernel"


class SourceLimit(StrEnum):
    """What of a source was at its limit. The order is the native enum's (`_dataplane/base/source_types.pxd`); a test
    compares them."""

    SESSIONS = "sessions"
    SESSION_RATE = "session_rate"
    BANDWIDTH = "bandwidth"


class ConnectFailure(StrEnum):
    """Why a connect to a backend failed. The order is the native enum's; a test compares them.

    `RESOURCES` is a local shortage, see `Shortage` and `l4lb.model.verdicts`: it says nothing about the backend.
    """

    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    RESET = "reset"
    RESOURCES = "resources"
    OTHER = "other"


class Shortage(StrEnum):
    """The local resource whose shortage prevented a connect to a backend. The order is the native enum's, from 1 on; a
    test compares them."""

    PORTS = "ports"
    ADDRESS = "source_address"
    FILES = "files"
    MEMORY = "memory"
    DENIED = "denied"
    FAMILY = "family"


class PathError(StrEnum):
    """What ICMP or this host's routes reported about datagrams to a backend. The order is the native enum's; a test
    compares them.

    `PROHIBITED` comes from ICMPv6 and routes only; over IPv4, prohibited and unreachable hosts look the same.
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
    ASKING = "asking"
    QUEUED = "queued"
    CONNECTING = "connecting"
    NEGOTIATING = "negotiating"
    PAUSING = "pausing"
    RELAYING = "relaying"
    RESETTING = "resetting"
    CLOSING = "closing"


class CloseReason(StrEnum):
    """Why a session ended. The order is the native enum's (`_dataplane/base/enums.pxd`); a test compares them."""

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
