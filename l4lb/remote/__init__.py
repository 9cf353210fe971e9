"""What a `Client` shows of another process: its pools, listeners and bans, its statistics and events."""

from l4lb.remote.views import (
    Asking,
    RemoteBackend,
    RemoteBans,
    RemoteListener,
    RemotePool,
    drain,
    drained,
    quoted,
)

__all__ = ["Asking", "RemoteBackend", "RemoteBans", "RemoteListener", "RemotePool", "drain", "drained", "quoted"]
