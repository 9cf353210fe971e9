"""Sessions that are there now, between names and the numbers that workers know them by. Control thread only."""

from __future__ import annotations

import socket
import time
from array import array
from collections.abc import Mapping

from l4lb import _sweeps
from l4lb.errors import ChangeError
from l4lb.model.sessions import Session, SessionFilter
from l4lb.model.states import Protocol, SessionState

_STATES = tuple(SessionState)


def endpoint_text(packed: bytes, port: int) -> str:
    if not packed:
        return "unix:"
    if len(packed) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, packed)}:{port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]:{port}"


class Names:
    """Of what the data plane has numbers for: `names` by kind and number, `places` of backends (pool and id) by theirs,
    `slots` of the pools that there are. They are the forwarder's."""

    def __init__(
        self,
        names: Mapping[tuple[str, int], str],
        places: Mapping[int, tuple[str, str]],
        slots: Mapping[str, int],
    ) -> None:
        self._names = names
        self._places = places
        self._slots = slots

    def name(self, kind: str, number: int) -> str:
        return self._names.get((kind, number), "")

    def _number(self, kind: str, name: str) -> int:
        """The latest that has or had this name; ChangeError when none ever had."""
        numbers = [number for (what, number), known in self._names.items() if (what, known) == (kind, name)]
        if not numbers:
            raise ChangeError("not_found", f'no {kind} "{name}"', kind)
        return numbers[-1]

    def _backends(self, wanted: SessionFilter) -> array[int]:
        pairs = set(wanted.backends)
        found = [number for number, (pool, id_) in self._places.items() if {(pool, id_), ("", id_)} & pairs]
        if not found:
            raise ChangeError("not_found", f'no backend "{wanted.backends[0][1]}"', "backend")
        return array("I", found)

    def fields(self, wanted: SessionFilter) -> dict[str, object]:
        """As `_sweeps.Sweep` takes it. ChangeError for a name that nothing has."""
        fields: dict[str, object] = {"session_id": wanted.id}
        if wanted.listener:
            fields["listener_id"] = self._number("listener", wanted.listener)
        if wanted.pool:
            slot = self._slots.get(wanted.pool)
            fields["pool_slot"] = self._number("pool", wanted.pool) if slot is None else slot
        if wanted.backends:
            fields["backend_ids"] = self._backends(wanted)
        if wanted.source is not None:
            network = wanted.source
            fields["source"] = (network.network_address.packed, network.prefixlen, wanted.source_port)
        return fields


class SessionSweep:
    """`l4lb.model.sessions.Sweep`."""

    def __init__(self, native: _sweeps.Sweep, names: Names, limit: int) -> None:
        self._native = native
        self._names = names
        self._limit = limit

    def over(self) -> bool:
        return self._native.over()

    def matched(self) -> int:
        return self._native.matched()

    def take_found(self) -> list[Session]:
        now_ns = time.monotonic_ns()
        found = sorted(self._native.take_found(), key=lambda fields: fields[9])
        return [self._session(fields, now_ns) for fields in found[: self._limit]]

    def _session(self, fields: _sweeps.FoundFields, now_ns: int) -> Session:
        id_, listener, pool, backend, client, client_port, local, local_port, state, started_ns, *rest = fields
        idle_ms, bytes_up, bytes_down = rest
        return Session(
            id_,
            Protocol.TCP,
            self._names.name("listener", listener),
            self._names.name("pool", pool),
            self._names.name("backend", backend),
            endpoint_text(client, client_port),
            endpoint_text(local, local_port),
            _STATES[state - 1],
            max(now_ns - started_ns, 0) / 1e9,
            idle_ms / 1e3,
            bytes_up,
            bytes_down,
        )
