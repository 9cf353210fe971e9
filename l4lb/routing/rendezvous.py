"""Rendezvous hashing in Python: the oracle of `_dataplane/tables/rendezvous.pxd`, and how to read it.

Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998; weights by logarithm as in
Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005. Every slot goes to the backend with the least
cost for it, so the loss of a backend moves its own slots and no other.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import log

import xxhash

from l4lb.routing.hashing import random_draw


def cost(id_hash: int, weight: float, slot: int) -> float:
    """An exponential draw of rate `weight`."""
    return -log(((random_draw(id_hash, slot + 1) >> 11) + 0.5) / 2**53) / weight


def rendezvous_slots(ids: Sequence[str], weights: Sequence[float], table_size: int, seed: int) -> array[int]:
    """A table of indices into `ids`; weights are above 0."""
    hashes = [xxhash.xxh64_intdigest(id_.encode(), seed=seed) for id_ in ids]
    indices = range(len(ids))
    return array("I", (min(indices, key=lambda i: cost(hashes[i], weights[i], slot)) for slot in range(table_size)))
