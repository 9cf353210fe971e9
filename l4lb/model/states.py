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
    """Why a datagram was not passed on. The order is the native enum's (`_dataplane/enums.pxd`); a test holds them
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

    `LOCAL` is this host's own: no port left, a firewall, no such source address.
    """

    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    RESET = "reset"
    LOCAL = "local"
    OTHER = "other"


class SessionState(StrEnum):
    """Where a session is in its life. The order is the native enum's (`_dataplane/enums.pxd`), from 1 on."""

    READING = "reading"
    QUEUED = "queued"
    CONNECTING = "connecting"
    PAUSING = "pausing"
    RELAYING = "relaying"
    RESETTING = "resetting"
    CLOSING = "closing"


class CloseReason(StrEnum):
    """Why a session ended. The order is the native enum's (`_dataplane/enums.pxd`); a test holds them together."""

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
