"""Sessions of UDP that move to another process, between names and the data plane's numbers. Control thread only."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from l4lb import _fastpath
from l4lb._native import migration, snapshots
from l4lb._native.flow_state import FlowState
from l4lb.engine.fields import listener_terms
from l4lb.engine.listening import Listening
from l4lb.engine.records import Records
from l4lb.model.forwarder import ExportedSession, QuicIds
from l4lb.model.snapshot import ListenerSpec


class Owners(NamedTuple):
    """What a session that arrives belongs to. `measured`: its pool goes by how fast backends answer."""

    listener: snapshots.ListenerLive
    spec: ListenerSpec
    pool: snapshots.PoolLive
    backend: snapshots.BackendLive
    measured: bool


class Migration:
    """All arguments are the forwarder's."""

    def __init__(self, plane: _fastpath.DataPlane, listening: Listening, records: Records) -> None:
        self._plane = plane
        self._listening = listening
        self._records = records

    def begin_export(self) -> None:
        self._plane.hold_udp(True)
        self._plane.begin_export()

    def exported_sessions(self, *, anyway: bool) -> list[ExportedSession] | None:
        if not anyway and not self._plane.export_over():
            return None
        places = self._listening.places_by_fd()
        found = []
        for one in self._plane.take_exported():
            if (place := places.get(one.fd)) is None:  # its listener is on its way out
                os.close(one.link_fd)
                continue
            pool, backend = self._records.backends[one.backend_id]
            found.append(ExportedSession(one.link_fd, *place, pool, backend, one.state.as_json()))
        return found

    def quic_ids(self, pools: Mapping[str, snapshots.PoolLive]) -> list[QuicIds]:
        numbered = self._records.backends.items()
        return [
            QuicIds(name, *known, {number: id_ for number, (pool, id_) in numbered if pool == name})
            for name, live in pools.items()
            if (known := migration.quic_ids(live)) is not None
        ]

    def know(self, ids: QuicIds, pool: snapshots.PoolLive, backends: Iterable[str]) -> None:
        """Ids of another process, before `import_sessions`."""
        there = set(backends)
        here = {id_: number for number, (name, id_) in self._records.backends.items() if name == ids.pool}
        found = {number: here[id_] for number, id_ in ids.backends.items() if id_ in there}
        with contextlib.suppress(ValueError, OverflowError):  # of a version that keeps them otherwise
            migration.restore_quic_ids(pool, ids.seed, ids.lengths, ids.entries, found)

    def import_sessions(
        self, sessions: Sequence[ExportedSession], owners_of: Callable[[ExportedSession], Owners | None]
    ) -> int:
        workers = self._listening.workers_by_place()
        imports: dict[int, migration.Imports] = {}
        counts: Counter[int] = Counter()
        for session in sessions:
            place = workers.get((session.place, session.position))
            if place is None or not _add(imports, *place, session, owners_of(session)):
                os.close(session.fd)
                continue
            counts[place[0]] += 1
        for worker, batch in imports.items():
            if not self._plane.import_sessions(worker, batch):
                del counts[worker]  # it hangs, and has not taken those before
        self._plane.hold_udp(False)
        return counts.total()


def _add(
    imports: dict[int, migration.Imports], worker: int, fd: int, session: ExportedSession, owners: Owners | None
) -> bool:
    """False when it cannot continue: its owners are not there, or this version does not know its state."""
    if owners is None:
        return False
    batch = imports.setdefault(worker, migration.Imports())
    try:
        batch.add(
            listener=owners.listener,
            pool=owners.pool,
            backend=owners.backend,
            terms=listener_terms(owners.spec),
            measured=owners.measured,
            fd=fd,
            link_fd=session.fd,
            state=FlowState.from_json(session.about),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return False
    return True
