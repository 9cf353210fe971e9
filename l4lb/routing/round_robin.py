"""Weighted round robin, laid out once as a cycle that workers walk with a shared cursor.

The cycle is made by earliest deadline first: the k-th turn of a backend of weight w is due at (k + 1/2) / w, which
spaces every backend's turns evenly. After the sum of the weights everything repeats.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence
from functools import reduce
from math import gcd

MAX_CYCLE = 65536


def reduced(weights: Sequence[int]) -> list[int]:
    """The smallest weights in the same proportion; scaled down, and at least 1, when the cycle would be too long."""
    divisor = reduce(gcd, weights)
    smallest = [weight // divisor for weight in weights]
    total = sum(smallest)
    if total <= MAX_CYCLE:
        return smallest
    return [max(1, weight * MAX_CYCLE // total) for weight in smallest]


def cycle(weights: Sequence[int]) -> array[int]:
    """One whole cycle of indices into `weights`, all above 0."""
    shares = reduced(weights)
    if len(set(shares)) == 1:
        return array("I", range(len(shares)))
    turns = [(0.5 / share, index) for index, share in enumerate(shares)]
    heapq.heapify(turns)
    slots = array("I")
    for _ in range(sum(shares)):
        due, index = turns[0]
        slots.append(index)
        heapq.heapreplace(turns, (due + 1 / shares[index], index))
    return slots
