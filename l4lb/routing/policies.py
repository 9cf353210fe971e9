"""The policies by name. Each turns the usable backends of a tier into a selection and its table.

A new one is one function here, or one module, and one entry in `POLICIES`; or an entry point of the group
``l4lb.policies`` in another package, made with `table_policy` or `ranking_policy`. They may be called on any thread.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from l4lb.model.snapshot import Selection, TableKind
from l4lb.routing.ring import points_of
from l4lb.routing.round_robin import cycle
from l4lb.routing.slow_start import STEPS

MAX_SLOTS = 5_000_011  # the largest table_size
SMALLEST_TABLE = 2  # a prime, as all are


class TableBuilder(Protocol):
    """Builds the large tables; `l4lb.model.forwarder.Forwarding` has a native one."""

    def build_table(
        self, kind: TableKind, ids: Sequence[str], weights: Sequence[float], table_size: int, seed: int
    ) -> array[int]: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A usable backend. `weight` is above 0, and while it starts slowly a part of what is configured; `position` is
    its place in the configuration."""

    id: str
    weight: float = 1.0
    position: int = 0
    address: str = ""
    zone: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The usable backends of one tier of a pool (see `candidates.Tier`), at least one, sorted by id so that every node
    sees the same; and the pool's settings for hashing."""

    backends: tuple[Candidate, ...]
    table_size: int = 65537
    hash_seed: int = 0

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the backends, in their order."""
        return tuple(backend.id for backend in self.backends)

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the backends, in their order."""
        return tuple(backend.weight for backend in self.backends)


@dataclass(frozen=True, slots=True)
class Policy:
    """`selection` says how workers use the table that `build` makes: indices into the candidates, for `Selection.FIRST`
    in the order in which they are filled.

    `hashes`: the pool's hash_key distinguishes clients; otherwise a selection that hashes draws at random.
    """

    selection: Selection
    build: Callable[[Candidates, TableBuilder], array[int]]
    hashes: bool = False


def _cycle(candidates: Candidates, builder: TableBuilder) -> array[int]:
    """Each backend as often as its weight says."""
    return cycle([max(1, round(weight * STEPS)) for weight in candidates.weights])


def _no_table(candidates: Candidates, builder: TableBuilder) -> array[int]:
    """No table: workers compare the backends themselves."""
    return array("I")


def _as_configured(candidates: Candidates, builder: TableBuilder) -> array[int]:
    order = sorted(range(len(candidates.backends)), key=lambda index: candidates.backends[index].position)
    return array("I", order)


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
    "peak_ewma": Policy(Selection.PEAK_EWMA, _cycle),
    "first": Policy(Selection.FIRST, _as_configured),
    "maglev": Policy(Selection.HASH, _maglev, hashes=True),
    "ring": Policy(Selection.HASH, _ring, hashes=True),
    "rendezvous": Policy(Selection.HASH, _rendezvous, hashes=True),
}


# ---- policies of other packages ----


def _checked(given: Sequence[int], count: int, what: str) -> array[int]:
    """ValueError unless `given` are indices into `count` candidates."""
    try:
        slots = array("I", given)
    except (TypeError, OverflowError, ValueError) as error:
        raise ValueError(f"{what}: expected indices of candidates, from 0: {error}") from None
    if not 0 < len(slots) <= MAX_SLOTS:
        raise ValueError(f"{what}: {len(slots)} entries, expected 1 to {MAX_SLOTS}")
    if max(slots) >= count:
        raise ValueError(f"{what}: index {max(slots)}, but there are {count} candidates")
    return slots


def table_policy(build: Callable[[Candidates], Sequence[int]], *, hashes: bool = True) -> Policy:
    """A policy that lays the candidates out in a table: `build` returns their indices, slot by slot.

    A client gets slot number hash % length, where the hash is that of the pool's hash_key, or with ``hashes=False``
    drawn at random for each session; when the backend there is full or refuses, other slots are tried. Equal input
    must give an equal table, or nodes differ. What `build` raises is reported; the pool then uses round robin.
    """

    def checked(candidates: Candidates, builder: TableBuilder) -> array[int]:
        return _checked(build(candidates), len(candidates.backends), "table")

    return Policy(Selection.HASH, checked, hashes)


def ranking_policy(rank: Callable[[Candidates], Sequence[int]]) -> Policy:
    """A policy that ranks the candidates: `rank` returns their indices, the first choice first.

    Each session goes to the first of them that has a place and does not refuse; omitted candidates get none.
    """

    def checked(candidates: Candidates, builder: TableBuilder) -> array[int]:
        order = _checked(rank(candidates), len(candidates.backends), "ranking")
        if len(set(order)) != len(order):
            raise ValueError("ranking: expected each candidate at most once")
        return order

    return Policy(Selection.FIRST, checked)
