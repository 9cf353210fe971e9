"""Two policies that l4lb does not have, from a package of its own: a ranking and a table."""

from __future__ import annotations

from l4lb.policies import Candidate, Candidates, ranking_policy, table_policy


def price(backend: Candidate) -> float:
    """From the backend's tags, ``tags = { price = "0.12" }``; a backend without a price comes last."""
    return float(backend.tags.get("price", "inf"))


def by_price(candidates: Candidates) -> list[int]:
    """The cheapest first: the next one gets sessions only while the cheapest is full (max_sessions) or refuses."""
    return sorted(range(len(candidates.backends)), key=lambda index: price(candidates.backends[index]))


def jump_hash(key: int, buckets: int) -> int:
    """Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014."""
    bucket, jump = -1, 0
    while jump < buckets:
        bucket = jump
        key = (key * 2862933555777941757 + 1) & 0xFFFFFFFFFFFFFFFF
        jump = int((bucket + 1) * ((1 << 31) / ((key >> 33) + 1)))
    return bucket


def jump_table(candidates: Candidates) -> list[int]:
    """Fill every slot by jump hash: a backend added at the end of the order takes slots, and no other slot changes.

    Ignores weights.
    """
    count = len(candidates.backends)
    return [jump_hash(slot ^ candidates.hash_seed, count) for slot in range(candidates.table_size)]


cheapest = ranking_policy(by_price)
jump = table_policy(jump_table)
