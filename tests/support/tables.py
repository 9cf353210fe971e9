"""The tables as Python builds them: what the native builders are held against."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from l4lb import _algorithms
from l4lb.model.snapshot import TableKind
from l4lb.routing.maglev import maglev_slots
from l4lb.routing.rendezvous import rendezvous_slots
from l4lb.routing.ring import ring_slots

TWINS = {TableKind.MAGLEV: maglev_slots, TableKind.RING: ring_slots, TableKind.RENDEZVOUS: rendezvous_slots}


class PythonTables:
    def build_table(
        self, kind: TableKind, ids: Sequence[str], weights: Sequence[float], table_size: int, seed: int
    ) -> array[int]:
        return TWINS[kind](ids, weights, table_size, seed)


def native_table(kind: TableKind, ids: Sequence[str], weights: Sequence[float], size: int, seed: int) -> array[int]:
    kinds = _algorithms.TABLE_KINDS
    return _algorithms.build_table(kinds[kind], [id_.encode() for id_ in ids], list(weights), size, seed)
