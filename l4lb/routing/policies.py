"""The policies by name. Each turns the usable backends into a selection and its table; a new one is one function here,
or one module, and one entry in `POLICIES`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from l4lb.model.snapshot import Selection, TableKind
from l4lb.routing.ring import points_of
from l4lb.routing.round_robin import cycle


class TableBuilder(Protocol):
    """Builds the large tables; `l4lb.model.forwarder.Forwarder` has a native one."""

    def build_table(
        self, kind: TableKind, ids: Sequence[str], weights: Sequence[int], table_size: int, seed: int
    ) -> array[int]: ...


@dataclass(frozen=True, slots=True)
class Candidates:
    """The usable backends, sorted by id, and what their pool says of hashing."""

    ids: tuple[str, ...]
    weights: tuple[int, ...]
    table_size: int = 65537
    hash_seed: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """`selection` is what workers do with the table that `build` makes: indices into the candidates.

    `hashes`: clients are told apart by the pool's hash_key; otherwise a selection that hashes draws at random.
    """

    selection: Selection
    build: Callable[[Candidates, TableBuilder], array[int]]
    hashes: bool = False


def _cycle(candidates: Candidates, builder: TableBuilder) -> array[int]:
    """Each backend as often as its weight says."""
    return cycle(candidates.weights)


def _no_table(candidates: Candidates, builder: TableBuilder) -> array[int]:
    """Nothing to lay out: workers look at the backends themselves."""
    return array("I")


def _maglev(candidates: Candidates, builder: TableBuilder) -> array[int]:
    ids, weights = candidates.ids, candidates.weights
    return builder.build_table(TableKind.MAGLEV, ids, weights, candidates.table_size, candidates.hash_seed)


def _ring(candidates: Candidates, builder: TableBuilder) -> array[int]:
    ids, points = candidates.ids, points_of(candidates.weights)
    return builder.build_table(TableKind.RING, ids, points, candidates.table_size, candidates.hash_seed)


def _rendezvous(candidates: Candidates, builder: TableBuilder) -> array[int]:
    ids, weights = candidates.ids, candidates.weights
    return builder.build_table(TableKind.RENDEZVOUS, ids, weights, candidates.table_size, candidates.hash_seed)


POLICIES: dict[str, Policy] = {
    "round_robin": Policy(Selection.CURSOR, _cycle),
    "random": Policy(Selection.HASH, _cycle),
    "least_sessions": Policy(Selection.LEAST_SESSIONS, _no_table),
    "p2c": Policy(Selection.TWO_CHOICES, _cycle),
    "first": Policy(Selection.FIRST, _no_table),
    "maglev": Policy(Selection.HASH, _maglev, hashes=True),
    "ring": Policy(Selection.HASH, _ring, hashes=True),
    "rendezvous": Policy(Selection.HASH, _rendezvous, hashes=True),
}
