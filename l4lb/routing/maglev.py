"""Maglev in Python: the oracle of the native builder (`_dataplane/tables/maglev.pxd`), and how to read it.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4. Each backend has
a permutation of the slots, given by an offset and a skip; backends take turns to claim their next free slot until the
table is full. A backend with half the largest weight gets every second turn.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import xxhash


def permutation(id_: str, table_size: int, seed: int) -> tuple[int, int]:
    """(offset, skip) of a backend. The two hashes are XXH64 with the seeds 2 * `seed` and 2 * `seed` + 1."""
    name = id_.encode()
    offset = xxhash.xxh64_intdigest(name, seed=2 * seed) % table_size
    skip = xxhash.xxh64_intdigest(name, seed=2 * seed + 1) % (table_size - 1) + 1
    return offset, skip


def fill(permutations: Sequence[tuple[int, int]], weights: Sequence[float], table_size: int) -> array[int]:
    """The table, as indices into `permutations`. `table_size` is prime; weights are above 0."""
    heaviest = max(weights)
    shares = [weight / heaviest for weight in weights]
    targets = [0.0] * len(weights)
    positions = [offset for offset, _ in permutations]
    slots: list[int] = [-1] * table_size
    filled, turn = 0, 0
    while True:
        turn += 1
        for index, (_, skip) in enumerate(permutations):
            if turn * shares[index] < targets[index]:
                continue
            targets[index] += 1.0
            while slots[positions[index]] >= 0:
                positions[index] = (positions[index] + skip) % table_size
            slots[positions[index]] = index
            filled += 1
            if filled == table_size:
                return array("I", slots)


def maglev_slots(ids: Sequence[str], weights: Sequence[float], table_size: int, seed: int) -> array[int]:
    """A table of indices into `ids`, which should be sorted so that every node builds the same."""
    return fill([permutation(id_, table_size, seed) for id_ in ids], weights, table_size)
