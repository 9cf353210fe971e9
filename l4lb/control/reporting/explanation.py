"""Which backend a client gets, and why, as the outside sees it: of a running instance, or of a configuration alone."""

from __future__ import annotations

import time

from l4lb.config import Config
from l4lb.control.publishing.explaining import explain
from l4lb.control.publishing.pools import LaidOut, lay_out
from l4lb.control.reporting import shapes
from l4lb.control.state.state import PoolState, initial_state
from l4lb.errors import ConfigError
from l4lb.model.states import Health
from l4lb.model.stats import PoolStats
from l4lb.net.address import parse_endpoint
from l4lb.routing.explain import Explained
from l4lb.routing.policies import TableBuilder


def explanation(pool: PoolState, source: str, said: Explained) -> shapes.Explanation:
    """For JSON. `pool` is as `said` had it."""
    choice = said.choice
    return {
        "pool": pool.name,
        "policy": pool.config.policy,
        "source": source,
        "chosen": choice.chosen or None,
        "tier": None if said.tier is None else str(said.tier),
        "why": said.why,
        "how": choice.how,
        "hash": None if choice.hash is None else f"{choice.hash:016x}",
        "slot": choice.slot,
        "candidates": [{"id": one.id, "full": one.full, "tier": str(tier)} for tier, one in said.order],
        "passed_over": dict(pool.passed_over),
        "table_digest": pool.table_digest,
    }


def explain_config(config: Config, name: str, source: str, to: str, builder: TableBuilder) -> shapes.Explanation:
    """What an instance of `config` would answer without sessions, if every backend of the pool were up.

    Looks no backend's name up: who gets a client does not depend on it. ConfigError for what would keep an instance
    from starting: a listener's name that does not resolve, a policy that fails, of whichever pool. ValueError for an
    address that is none, KeyError for a pool that is not there.
    """
    state = initial_state(config)
    for backend in state.pools[name].backends.values():
        backend.health, backend.unresolved = Health.UP, ""
    laid_out = {pool.name: _laid_out(config, pool, builder) for pool in state.pools.values()}[name]
    client = (parse_endpoint(source), parse_endpoint(to) if to else None)
    said = explain(laid_out.seen, laid_out.spec, laid_out.tables, client, PoolStats())
    return explanation(state.pools[name], source, said)


def _laid_out(config: Config, pool: PoolState, builder: TableBuilder) -> LaidOut:
    laid_out = lay_out(pool, config.global_.hash_seed, time.monotonic(), builder)
    if pool.policy_error:
        raise ConfigError([config.problem(("pools", pool.name, "policy"), pool.policy_error)])
    return laid_out
