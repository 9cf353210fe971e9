"""Which backend a client gets, from which tier, and why: passes the published state and counters to
`routing.explain`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from l4lb.control.publishing.pools import PoolView, Table
from l4lb.model.snapshot import PoolSpec, TierSpec
from l4lb.model.stats import PoolStats
from l4lb.routing.candidates import Tier
from l4lb.routing.explain import (
    Candidate,
    Choice,
    Explained,
    explain_hash,
    explain_selection,
    explain_tiers,
    hash_of,
    load_limit,
)
from l4lb.routing.hashing import Endpoint


def _candidates(spec: PoolSpec, tier: TierSpec, stats: PoolStats) -> list[Candidate]:
    """For bounded_load, counts what load.pxd:tier_sessions counts."""
    backends = [spec.backends[index] for index in tier.usable]
    counts = [stats.backends[one.id].sessions_active if one.id in stats.backends else 0 for one in backends]
    total = sum(one.weight for one in backends)
    after = (sum(counts) if spec.further else stats.sessions_active) + 1
    return [
        Candidate(
            one.id,
            one.weight,
            count,
            load_limit(spec.bounded_load, after, one.weight, total, one.max_sessions),
            one.max_sessions,
        )
        for one, count in zip(backends, counts, strict=True)
    ]


def _not_before(seen: PoolView, tier: Tier) -> Iterator[str]:
    """Which unusable backends would come before those of `tier`, and why they are unusable."""
    for one in seen.backends:
        reason = seen.pool.passed_over.get(one.id)
        config = one.config
        here = config.priority == tier.priority and tier.other_zones and config.zone == tier.other_zones
        if reason and (config.priority < tier.priority or here):
            yield f"{one.id}: {reason}"


def explain(
    seen: PoolView,
    spec: PoolSpec,
    tables: Sequence[Table],
    client: tuple[Endpoint, Endpoint | None],
    stats: PoolStats,
) -> Explained:
    """What a worker would choose now for a client with these source and destination addresses.

    ValueError for an invalid address, and when the pool's hash_key needs a destination.
    """
    config, policy = seen.config, tables[0].policy
    hashed = 0
    if policy.hashes:
        prefixes = {"prefix_v4": config.hash_prefix_v4, "prefix_v6": config.hash_prefix_v6}
        source, destination = client
        hashed = hash_of(spec.hash_key, source, destination, seed=spec.hash_seed, **prefixes)
    choices: list[tuple[Tier, Choice]] = []
    for tier, served in zip(seen.tiers, spec.tiers, strict=True):
        candidates = _candidates(spec, served, stats)
        if policy.hashes:
            choices.append((tier, explain_hash(candidates, served.slots, hashed)))
        else:
            choices.append((tier, explain_selection(spec.selection, candidates)))
    return explain_tiers(choices, lambda tier: list(_not_before(seen, tier)))
