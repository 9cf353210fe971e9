"""Sessions that are there now, between names and the numbers that workers know them by. Control thread only."""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Mapping, Sequence

from l4lb._native import specs, sweeps
from l4lb._native.reports import FoundSession, FoundSource
from l4lb.engine.records import Records, address_text, endpoint_text
from l4lb.errors import ChangeError
from l4lb.model.sessions import Session, SessionFilter, Source
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

    def listener_number(self, name: str) -> int:
        """0 for no name; ChangeError for one that nothing has."""
        return self._listener(name) if name else 0

    def filter(self, wanted: SessionFilter) -> specs.Filter:
        """ChangeError for a name that nothing has."""
        network = wanted.source
        return specs.Filter(
            session_id=wanted.id,
            listener_id=self.listener_number(wanted.listener),
            pool_slot=self._pool(wanted.pool) if wanted.pool else None,
            backend_ids=self._backends(wanted) if wanted.backends else None,
            source=network.network_address.packed if network else b"",
            source_bits=network.prefixlen if network else 0,
            source_port=wanted.source_port if network else 0,
            source_scope=wanted.source_scope if network else 0,
            tagged=wanted.tagged,
        )


def source(found: FoundSource, names: Names) -> Source:
    """`network` is of the address family's length, with the interface of a link-local one behind."""
    host = address_text(found.network + (found.scope_id.to_bytes(4, sys.byteorder) if found.scope_id else b""))
    whole = found.bits == 8 * len(found.network)
    return Source(
        listener=names.listener(found.listener_id),
        source=host if whole else f"{host}/{found.bits}",
        sessions_active=found.sessions,
        sessions_total=found.sessions_total,
        session_rate=found.session_rate,
        limited=found.limited,
        bytes_up=found.bytes_up,
        bytes_down=found.bytes_down,
    )


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

    def flows_matched(self) -> int:
        return 0

    def take_found(self) -> list[Session]:
        now_ns = time.monotonic_ns()
        found = sorted(self._native.take_found(), key=lambda one: one.started_ns)
        return [self._session(one, now_ns) for one in found[: self._limit]]

    def _session(self, found: FoundSession, now_ns: int) -> Session:
        return Session(
            id=found.session_id,
            protocol=Protocol.UDP if found.state > len(SessionState) else Protocol.TCP,
            listener=self._names.listener(found.listener_id),
            pool=self._names.pool(found.pool_slot),
            backend=self._names.backend(found.backend_id),
            client=endpoint_text(found.client, found.client_port),
            local=endpoint_text(found.local, found.local_port),
            state=_STATES[found.state - 1],
            age_s=max(now_ns - found.started_ns, 0) / 1e9,
            idle_s=found.idle_ms / 1e3,
            bytes_up=found.bytes_up,
            bytes_down=found.bytes_down,
            tagged=found.tagged,
        )
