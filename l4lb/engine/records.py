"""Records of ended sessions: from the data plane's rings to `SessionRecord`, with numbers replaced by names.

The names are written on the control thread, records are taken on one other; each dict is touched by single operations.
"""

from __future__ import annotations

import socket
import sys

from l4lb import _fastpath
from l4lb.model.states import CloseReason
from l4lb.model.stats import SessionRecord

_CLOSE_REASONS = tuple(CloseReason)
_PLACES_MAX = 4096  # a listener has few addresses; one that is transparent may have any number


def address_text(packed: bytes) -> str:
    """4 bytes or 16; 20 with the number of the interface behind, of a link-local one; none of a unix socket."""
    if not packed:
        return "unix:"
    if len(packed) == 20:
        interface = _interface(int.from_bytes(packed[16:], sys.byteorder))
        return f"{socket.inet_ntop(socket.AF_INET6, packed[:16])}%{interface}"
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def endpoint_text(packed: bytes, port: int) -> str:
    host = address_text(packed)
    if not packed:
        return host
    return f"{host}:{port}" if len(packed) == 4 else f"[{host}]:{port}"


def _interface(number: int) -> str:
    """Its name; its number when it is gone."""
    try:
        return socket.if_indextoname(number)
    except OSError:
        return str(number)


class Records:
    """`listeners`: by id, the name and what a client of its unix socket came to; `pools`: by slot; `backends`: by id,
    the pool and what it is called there."""

    def __init__(self, plane: _fastpath.DataPlane) -> None:
        self._plane = plane
        self.listeners: dict[int, tuple[str, str]] = {}
        self.pools: dict[int, str] = {}
        self.backends: dict[int, tuple[str, str]] = {}
        self._places: dict[tuple[bytes, int], str] = {}

    def name_listener(self, id_: int, name: str, addresses: tuple[str, ...]) -> None:
        unix = next((one for one in addresses if one.startswith("unix:")), "unix:")
        self.listeners[id_] = (name, unix)

    def take(self, limit: int) -> list[SessionRecord]:
        """At most `limit` of each worker."""
        return [self._record(ended) for ended in self._plane.take_records(limit)]

    def place(self, packed: bytes, port: int) -> str:
        """Where a client connected to."""
        text = self._places.get((packed, port))
        if text is None:
            text = endpoint_text(packed, port)
            if len(self._places) >= _PLACES_MAX:
                self._places.clear()
            self._places[packed, port] = text
        return text

    def _record(self, ended: _fastpath.EndedSession) -> SessionRecord:
        listener, unix = self.listeners.get(ended.listener_id, ("", "unix:"))
        pool, backend = self.backends.get(ended.backend_id) or (self.pools.get(ended.pool_slot, ""), "")
        local, sni = ended.local, ended.sni
        return SessionRecord(
            ended.session_id,
            listener,
            pool,
            backend,
            address_text(ended.client),
            ended.client_port,
            self.place(local, ended.local_port) if local else unix,
            ended.started_s,
            ended.connect_s,
            ended.duration_s,
            ended.bytes_up,
            ended.bytes_down,
            ended.attempts,
            _CLOSE_REASONS[ended.close_reason],
            ended.spliced,
            sni.decode("ascii", "replace") if sni else "",
            ended.tagged,
        )
