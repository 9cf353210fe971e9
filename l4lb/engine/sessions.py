"""Sessions that are there now, between names and the numbers that workers know them by. Control thread only."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping, Sequence

from l4lb._native import sweeps
from l4lb.engine.records import Records, endpoint_text
from l4lb.errors import ChangeError
from l4lb.model.sessions import Session, SessionFilter
from l4lb.model.states import Protocol, SessionState

_STATES = (*SessionState, SessionState.RELAYING)  # the last is a session of UDP


def _latest(numbers: Sequence[int], kind: str, name: str) -> int:
    """The latest that has or had this name; ChangeError when none ever had."""
    if not numbers:
        raise ChangeError("not_found", f'no {kind} "{name}"', kind)
    return numbers[-1]


class Names:
    """Of what the data plane has numbers for: `records` knows them, `slots` are those of the pools that there are. They
    are the forwarder's."""

    def __init__(self, records: Records, slots: Mapping[str, int]) -> None:
        self._records = records
        self._slots = slots

    def listener(self, number: int) -> str:
        return self._records.listeners.get(number, ("", ""))[0]

    def pool(self, slot: int) -> str:
        return self._records.pools.get(slot, "")

    def backend(self, number: int) -> str:
        return self._records.backends.get(number, ("", ""))[1]

    def _listener(self, name: str) -> int:
        numbers = [number for number, (known, _) in self._records.listeners.items() if known == name]
        return _latest(numbers, "listener", name)

    def _pool(self, name: str) -> int:
        if name in self._slots:
            return self._slots[name]
        return _latest([slot for slot, known in self._records.pools.items() if known == name], "pool", name)

    def _backends(self, wanted: SessionFilter) -> array[int]:
        pairs = set(wanted.backends)
        places = self._records.backends.items()
        found = [number for number, (pool, id_) in places if {(pool, id_), ("", id_)} & pairs]
        if not found:
            raise ChangeError("not_found", f'no backend "{wanted.backends[0][1]}"', "backend")
        return array("I", found)

    def fields(self, wanted: SessionFilter) -> dict[str, object]:
        """As `sweeps.Sweep` takes it. ChangeError for a name that nothing has."""
        fields: dict[str, object] = {"session_id": wanted.id}
        if wanted.listener:
            fields["listener_id"] = self._listener(wanted.listener)
        if wanted.pool:
            fields["pool_slot"] = self._pool(wanted.pool)
        if wanted.backends:
            fields["backend_ids"] = self._backends(wanted)
        if wanted.source is not None:
            network = wanted.source
            fields["source"] = (network.network_address.packed, network.prefixlen, wanted.source_port)
            fields["source_scope"] = wanted.source_scope
        return fields


class SessionSweep:
    """`l4lb.model.sessions.Sweep`."""

    def __init__(self, native: sweeps.Sweep, names: Names, limit: int) -> None:
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

    def _session(self, fields: sweeps.FoundFields, now_ns: int) -> Session:
        id_, listener, pool, backend, client, client_port, local, local_port, state, started_ns, *rest = fields
        idle_ms, bytes_up, bytes_down = rest
        return Session(
            id_,
            Protocol.UDP if state > len(SessionState) else Protocol.TCP,
            self._names.listener(listener),
            self._names.pool(pool),
            self._names.backend(backend),
            endpoint_text(client, client_port),
            endpoint_text(local, local_port),
            _STATES[state - 1],
            max(now_ns - started_ns, 0) / 1e9,
            idle_ms / 1e3,
            bytes_up,
            bytes_down,
        )
