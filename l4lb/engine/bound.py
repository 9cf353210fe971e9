"""How many sessions there may be at a time in the whole process: as configured, or what the host has for them."""

from __future__ import annotations

from l4lb import _fastpath
from l4lb.model.snapshot import Snapshot
from l4lb.net.limits import PortBound, smaller


class SessionBound:
    """`most` is configured (0: no bound), or with `ports`, the number of local ports, what file descriptors allow."""

    def __init__(self, plane: _fastpath.DataPlane, most: int, ports: int) -> None:
        self._plane = plane
        self._most = self.sessions = most
        self._ports = PortBound(ports) if ports else None

    def adapt(self, snapshot: Snapshot) -> None:
        """To the pools and backends that there are now."""
        if self._ports is not None:
            self._ports.see(snapshot.pools, snapshot.listeners)
            self.sessions = smaller(self._most, self._ports.sessions)
            self._plane.bound_sessions(self.sessions)

    @property
    def reason(self) -> str:
        if self._ports is None:
            return "max_sessions"
        return "file descriptors" if self.sessions == self._most else "local ports"
