"""The one function through which everything that changes routing goes: state in, snapshot out, published.

Control thread only. Bursts of changes within one turn of the loop become one snapshot; a table is built again only when
its candidates have changed.
"""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

from l4lb.config import Listener
from l4lb.control.state import ListenerState, PoolState, State
from l4lb.errors import ConfigError, Problem
from l4lb.model.forwarder import Forwarder
from l4lb.model.snapshot import BackendSpec, HashKey, Keepalive, ListenerSpec, PoolSpec, Selection, Snapshot
from l4lb.model.states import ProcessState
from l4lb.routing.candidates import Rules, Standing, candidacy
from l4lb.routing.explain import Candidate, Choice, explain_hash, explain_selection, hash_of
from l4lb.routing.hashing import Endpoint
from l4lb.routing.policies import POLICIES, Candidates


@dataclass(slots=True)
class _Table:
    """A pool's table as its policy built it, over the candidates, and the same over all backends of the pool."""

    candidates: Candidates
    policy: str
    slots: array[int]
    digest: str
    chosen: list[int] | None = None
    pool_slots: array[int] = field(default_factory=lambda: array("I"))

    def over_pool(self, chosen: list[int]) -> array[int]:
        """The slots as indices into the pool's backends; `chosen` are the candidates' indices there."""
        if self.chosen != chosen:
            self.chosen = chosen
            self.pool_slots = array("I", [chosen[slot] for slot in self.slots])
        return self.pool_slots


def _digest(policy: str, candidates: Candidates, slots: array[int]) -> str:
    """Equal on every node with equal input: SHA-256 of policy, seed, ids, weights and table."""
    text = repr((policy, candidates.hash_seed, candidates.ids, candidates.weights))
    return hashlib.sha256(text.encode() + slots.tobytes()).hexdigest()


def _keepalive(config: Listener) -> Keepalive | None:
    keepalive = config.keepalive
    return Keepalive(keepalive.idle, keepalive.interval, keepalive.count) if keepalive else None


def _burst(config: Listener) -> int:
    return config.session_burst or max(1, round(config.session_rate / 10))


def listener_spec(state: ListenerState) -> ListenerSpec:
    config = state.config
    return ListenerSpec(
        name=state.name,
        bind=state.bind,
        pool=config.pool,
        protocol=config.protocol,
        backlog=config.backlog,
        nodelay=config.nodelay,
        idle_timeout_s=config.idle_timeout,
        half_close_timeout_s=config.half_close_timeout,
        max_session_duration_s=config.max_session_duration,
        keepalive=_keepalive(config),
        user_timeout_s=config.user_timeout,
        fast_open=config.fast_open,
        defer_accept_s=config.defer_accept,
        transparent=config.transparent,
        splice=config.splice,
        max_sessions=config.max_sessions,
        session_rate=config.session_rate,
        session_burst=_burst(config),
        bandwidth_up=config.bandwidth_up,
        bandwidth_down=config.bandwidth_down,
        total_bandwidth_up=config.total_bandwidth_up,
        total_bandwidth_down=config.total_bandwidth_down,
    )


class Reconciler:
    """Turns `state` into snapshots for `forwarder`."""

    def __init__(self, state: State, forwarder: Forwarder) -> None:
        self.version = 0
        self._state = state
        self._forwarder = forwarder
        self._tables: dict[str, _Table] = {}
        self._published: tuple[tuple[PoolSpec, ...], tuple[ListenerSpec, ...]] | None = None
        self._requested = False

    def request(self) -> None:
        """Reconcile once in this turn of the loop, however often this is called."""
        if not self._requested:
            self._requested = True
            asyncio.get_running_loop().call_soon(self.reconcile)

    def reconcile(self) -> None:
        """Publish the snapshot that the state asks for, unless it is the published one already.

        ConfigError, with its place, when a listener cannot be had.
        """
        self._requested = False
        pools = tuple(self._pool_spec(pool) for pool in self._state.pools.values())
        draining = self._state.process is ProcessState.DRAINING
        listeners = () if draining else tuple(listener_spec(one) for one in self._state.listeners.values())
        if (pools, listeners) == self._published:
            return
        try:
            self._forwarder.publish(Snapshot(self.version + 1, pools, listeners))
        except ConfigError as error:
            raise ConfigError([self._placed(problem) for problem in error.problems]) from error
        self.version += 1
        self._published = (pools, listeners)

    def _placed(self, problem: Problem) -> Problem:
        return self._state.config.problem(tuple(problem.path.split(".")), problem.message)

    def _pool_spec(self, pool: PoolState) -> PoolSpec:
        backends = list(pool.backends.values())
        chosen = self._usable(pool)
        policy = POLICIES[pool.config.policy]
        if policy.selection is Selection.FIRST:
            chosen.sort(key=lambda index: backends[index].position)
        table = self._table(pool, chosen)
        pool.table_digest = table.digest
        pool.usable = table.candidates.ids
        config = pool.config
        return PoolSpec(
            name=pool.name,
            selection=policy.selection,
            backends=tuple(
                BackendSpec(one.id, one.address, one.config.weight, one.config.max_sessions) for one in backends
            ),
            usable=tuple(chosen),
            slots=table.over_pool(chosen),
            connect_timeout_s=config.connect_timeout,
            connect_attempts=config.connect_attempts,
            queue_size=config.queue_size,
            queue_timeout_s=config.queue_timeout,
            source=pool.source,
            hash_seed=self._state.config.global_.hash_seed,
            hash_key=HashKey(config.hash_key) if policy.hashes else HashKey.RANDOM,
            hash_prefix_v4=config.hash_prefix_v4,
            hash_prefix_v6=config.hash_prefix_v6,
        )

    def explain(
        self, pool: PoolState, source: Endpoint, destination: Endpoint | None, sessions: Mapping[str, int]
    ) -> Choice:
        """What a worker would choose for that client now; `sessions` are the active ones by backend.

        ValueError for an address that is none, and when the pool's hash_key needs a destination.
        """
        config, policy = pool.config, POLICIES[pool.config.policy]
        spec = self._pool_spec(pool)
        candidates = [
            Candidate(one.id, one.weight, sessions.get(one.id, 0), one.max_sessions)
            for one in (spec.backends[index] for index in spec.usable)
        ]
        if not policy.hashes:
            return explain_selection(policy.selection, candidates)
        prefixes = {"prefix_v4": config.hash_prefix_v4, "prefix_v6": config.hash_prefix_v6}
        hashed = hash_of(spec.hash_key, source, destination, seed=spec.hash_seed, **prefixes)
        return explain_hash(candidates, self._tables[pool.name].slots, hashed)

    def _usable(self, pool: PoolState) -> list[int]:
        """Indices of the usable backends; why the others are not is kept with the pool."""
        config = pool.config
        standings = [
            Standing(one.config.weight, one.admin_state, one.health, one.config.priority, one.config.zone)
            for one in pool.backends.values()
        ]
        found = candidacy(standings, Rules(config.panic_threshold, config.when_all_down == "use_all", config.zone))
        ids = list(pool.backends)
        pool.passed_over = {ids[index]: reason for index, reason in found.passed_over.items()}
        return found.usable

    def _table(self, pool: PoolState, chosen: list[int]) -> _Table:
        backends = list(pool.backends.values())
        candidates = Candidates(
            tuple(backends[index].id for index in chosen),
            tuple(backends[index].config.weight for index in chosen),
            pool.config.table_size,
            self._state.config.global_.hash_seed,
        )
        known = self._tables.get(pool.name)
        if known is not None and (known.candidates, known.policy) == (candidates, pool.config.policy):
            return known
        policy = pool.config.policy
        slots = POLICIES[policy].build(candidates, self._forwarder) if chosen else array("I")
        table = _Table(candidates, policy, slots, _digest(policy, candidates, slots))
        self._tables[pool.name] = table
        return table
