"""The tables as Python builds them: what the native builders are held against."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from l4lb._native import algorithms
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


class NativeTables:
    def build_table(
        self, kind: TableKind, ids: Sequence[str], weights: Sequence[float], table_size: int, seed: int
    ) -> array[int]:
        return native_table(kind, ids, weights, table_size, seed)


def chi_square_limit(degrees: int, deviations: float = 6.0) -> float:
    """What a chi-square statistic exceeds by chance about once in 10**9 (Wilson and Hilferty's approximation, 1931)."""
    if degrees == 0:
        return 1e-9
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + deviations * part**0.5) ** 3)


def native_table(kind: TableKind, ids: Sequence[str], weights: Sequence[float], size: int, seed: int) -> array[int]:
    kinds = algorithms.TABLE_KINDS
    return algorithms.build_table(kinds[kind], [id_.encode() for id_ in ids], list(weights), size, seed)
