"""A consistent-hashing ring in Python: the oracle of `_dataplane/tables/ring.pxd`, and how to read it.

Karger et al., "Consistent Hashing and Random Trees", STOC 1997. Each backend has 160 points per unit of its weight, as
in ketama; a slot of the table belongs to the first point at or after its place on the ring.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Sequence

import xxhash

from l4lb.routing.hashing import random_draw

POINTS_A_WEIGHT = 160
MAX_POINTS = 1 << 20
RING = (1 << 64) - 1


def points_of(weights: Sequence[float]) -> list[int]:
    """Points of each backend, halved until their sum is small enough, so that a small change rarely changes all."""
    points = [int(POINTS_A_WEIGHT * weight) for weight in weights]
    halvings = 0
    while sum(points) >> halvings > MAX_POINTS:
        halvings += 1
    return [max(1, count >> halvings) for count in points]


def ring_slots(ids: Sequence[str], points: Sequence[float], table_size: int, seed: int) -> array[int]:
    """A table of indices into `ids`; `points` is the number for each id."""
    ring = sorted(
        (random_draw(xxhash.xxh64_intdigest(id_.encode(), seed=seed), number), index)
        for index, id_ in enumerate(ids)
        for number in range(1, int(points[index]) + 1)
    )
    step = RING // table_size
    return array("I", (ring[bisect.bisect_left(ring, (slot * step, 0)) % len(ring)][1] for slot in range(table_size)))
