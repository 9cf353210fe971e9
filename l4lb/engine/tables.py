"""Large tables by the native algorithms. Holds nothing, needs no workers; any thread."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from l4lb._native import algorithms
from l4lb.model.snapshot import TableKind


class NativeTables:
    """`l4lb.routing.policies.TableBuilder`, outside the GIL."""

    def build_table(
        self, kind: TableKind, ids: Sequence[str], weights: Sequence[float], table_size: int, seed: int
    ) -> array[int]:
        names = [id_.encode() for id_ in ids]
        return algorithms.build_table(algorithms.TABLE_KINDS[kind], names, list(weights), table_size, seed)
