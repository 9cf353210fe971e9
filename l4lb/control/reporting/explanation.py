"""Which backend a client gets, and why, as the outside sees it: of a running instance, or of a configuration alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from l4lb.config import Config, Listener
from l4lb.config.options.patterns import parse_bytes
from l4lb.control.publishing.explaining import explain
from l4lb.control.publishing.listeners import route_specs
from l4lb.control.publishing.pools import LaidOut, lay_out
from l4lb.control.reporting import shapes
from l4lb.control.state.state import PoolState, initial_state
from l4lb.errors import ConfigError
from l4lb.model.states import Health
from l4lb.model.stats import PoolStats
from l4lb.net.address import parse_endpoint
from l4lb.routing.explain import Explained
from l4lb.routing.policies import TableBuilder
from l4lb.routing.routes import Facts, Later, failing, find, target


def explanation(pool: PoolState, source: str, said: Explained, slow: Mapping[str, str]) -> shapes.Explanation:
    """For JSON. `pool` is as `said` had it; `slow`: in words, by backend."""
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
        "candidates": [
            {"id": one.id, "full": one.full, "tier": str(tier), "slow": slow.get(one.id, "")}
            for tier, one in said.order
        ],
        "passed_over": dict(pool.passed_over),
        "table_digest": pool.table_digest,
    }


def listener_explanation(
    name: str, listener: Listener, facts: Facts, explained: Callable[[str], shapes.Explanation], refusing: str = ""
) -> shapes.ListenerExplanation:
    """For JSON. `explained`: of a pool; `refusing`: why the listener accepts nobody. ValueError for an address that is
    none."""
    specs = route_specs(listener)
    found = find(specs, facts)
    assert not isinstance(found, Later), "everything is known"
    taken = None if found is None else listener.routes[found]
    before = listener.routes if found is None else listener.routes[:found]
    return {
        "listener": name,
        "refusing": refusing,
        "route": None if found is None else found + 1,
        "conditions": {} if taken is None else taken.conditions,
        "split": {} if taken is None else taken.split,
        "passed": [
            {"number": number, "pools": route.pools, "condition": failing(specs[number - 1], facts)}
            for number, route in enumerate(before, 1)
        ],
        "backend": explained(listener.pool if found is None else target(specs[found], facts.source)),
    }


def facts_of(source: str, sni: str | None, alpn: Sequence[str], first: str) -> Facts:
    """What an operator says of a client; `first` as in `starts_with`. ValueError for what is no address or no bytes."""
    host, _ = parse_endpoint(source)
    named = sni if sni is not None else ("" if alpn else None)
    return Facts(host, parse_bytes(first) if first else b"", named, tuple(one.encode() for one in alpn))


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
    return explanation(state.pools[name], source, said, {})


def explain_listener_config(
    config: Config, name: str, facts: Facts, source: str, to: str, builder: TableBuilder
) -> shapes.ListenerExplanation:
    """The same for a client of a listener, which its routes may send elsewhere."""
    listener = config.listeners[name]
    return listener_explanation(name, listener, facts, lambda pool: explain_config(config, pool, source, to, builder))


def _laid_out(config: Config, pool: PoolState, builder: TableBuilder) -> LaidOut:
    laid_out = lay_out(pool, config.global_.hash_seed, time.monotonic(), builder)
    if pool.policy_error:
        raise ConfigError([config.problem(("pools", pool.name, "policy"), pool.policy_error)])
    return laid_out
