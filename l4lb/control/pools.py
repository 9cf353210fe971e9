"""From a pool's state to what a snapshot says of it, in three steps: who is usable, their table, the whole.

The first and the last run on the control loop. Tables are built from plain data alone, on any thread: they may take
long, and the loop has other things to do.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass

from l4lb.config import Pool
from l4lb.config.policies import find_policy
from l4lb.config.proxy import OwnTlv
from l4lb.control.state import BackendState, PoolState
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import BackendSpec, HashKey, PoolSpec, ProxySend, Selection
from l4lb.model.states import AdminState, Health
from l4lb.net.environment import namespace_name
from l4lb.routing.candidates import EJECTED, Rules, Standing, candidacy
from l4lb.routing.policies import POLICIES, Candidate, Candidates, Policy, TableBuilder
from l4lb.routing.slow_start import share, wait_s

_NETNS = 0x30  # the type of its TLV, PROXY 2.2.7


@dataclass(frozen=True, slots=True)
class Order:
    """A table to be built: equal orders have equal tables. `candidates` may be none."""

    policy: str
    candidates: Candidates


@dataclass(frozen=True, slots=True)
class Table:
    """`slots` index the candidates. `error`: why the policy could not lay them out, so that they serve in turn."""

    order: Order
    policy: Policy
    slots: array[int]
    digest: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool at one moment: its settings and backends, which of them are usable, and why the others are not.

    What it names may change meanwhile in `pool`; the view does not.
    """

    pool: PoolState
    config: Pool
    source: SocketAddress | None
    backends: tuple[BackendState, ...]
    specs: tuple[BackendSpec, ...]
    usable: tuple[int, ...]
    passed_over: dict[str, str]
    order: Order


def _weight(pool: PoolState, backend: BackendState, now: float) -> float:
    """What holds at `now` (monotonic): the configured weight, or a part of it by the agent's word and slow_start."""
    weight = backend.config.weight * backend.agent.percent / 100
    duration_s = pool.config.slow_start
    if not duration_s or backend.returned_at is None:
        return weight
    return weight * share(now - backend.returned_at, duration_s)


def next_step_s(pool: PoolState, now: float) -> float:
    """How long until a weight grows again; 0 when none does."""
    duration_s = pool.config.slow_start
    if not duration_s:
        return 0.0
    returned = [one.returned_at for one in pool.backends.values() if one.returned_at is not None]
    return min((wait for at in returned if (wait := wait_s(now - at, duration_s)) > 0), default=0.0)


def _told(backend: BackendState, reason: str, now: float) -> str:
    """Why it is passed over, with what is known of it."""
    if reason == EJECTED and backend.ejection is not None:
        return f"{reason} for {max(0, round(backend.ejection.until - now))} s more, by failures of real traffic"
    said = backend.agent
    if reason.startswith("health") and said.health is Health.DOWN and backend.health is not Health.DOWN:
        return "agent: down" + (f" ({said.remark})" if said.remark else "")
    if reason.startswith("admin state") and backend.admin_state is AdminState.READY:
        return f"agent: {said.admin_state}" + (f" ({said.remark})" if said.remark else "")
    if reason == "weight 0" and backend.config.weight:
        return "agent: 0%"
    return reason


def _resumes(backend: BackendState) -> bool:
    """Whether what it has begun may go on there in a new session, though new ones of others go elsewhere."""
    return backend.wanted is not AdminState.MAINT and backend.observed is not Health.DOWN


def view(pool: PoolState, hash_seed: int, now: float) -> PoolView:
    """`pool` as it is now."""
    config, backends = pool.config, list(pool.backends.values())
    weights = tuple(_weight(pool, one, now) for one in backends)
    standings = [
        Standing(weight, one.wanted, one.observed, one.config.priority, one.config.zone, one.ejected)
        for one, weight in zip(backends, weights, strict=True)
    ]
    found = candidacy(standings, Rules(config.panic_threshold, config.when_all_down == "use_all", config.zone))
    candidates = tuple(
        Candidate(one.id, weights[index], one.position, one.config.address, one.config.zone, one.config.tags)
        for index, one in enumerate(backends)
        if index not in found.passed_over
    )
    order = Order(config.policy, Candidates(candidates, config.table_size, hash_seed))
    passed_over = {
        backends[index].id: _told(backends[index], reason, now) for index, reason in found.passed_over.items()
    }
    specs = tuple(
        BackendSpec(one.id, one.address, weight, one.max_sessions, index in found.usable or _resumes(one))
        for index, (one, weight) in enumerate(zip(backends, weights, strict=True))
    )
    return PoolView(pool, config, pool.source, tuple(backends), specs, tuple(found.usable), passed_over, order)


def _digest(order: Order, slots: array[int]) -> str:
    """Equal on every node with equal input: SHA-256 of policy, seed, ids, weights and table."""
    candidates = order.candidates
    text = repr((order.policy, candidates.hash_seed, candidates.ids, candidates.weights))
    return hashlib.sha256(text.encode() + slots.tobytes()).hexdigest()


def build_table(order: Order, builder: TableBuilder) -> Table:
    """On any thread. What the policy raises becomes the table's `error`."""
    policy, error, slots = find_policy(order.policy), "", array("I")
    if order.candidates.backends:
        try:
            slots = policy.build(order.candidates, builder)
        except Exception as raised:  # of another package's policy
            error = f"{type(raised).__name__}: {raised}"
            policy = POLICIES["round_robin"]
            slots = policy.build(order.candidates, builder)
    return Table(order, policy, slots, _digest(order, slots), error)


def _send(config: Pool) -> ProxySend | None:
    if config.send_proxy == "off":
        return None
    named = {tlv: True for tlv in config.send_proxy_tlvs if isinstance(tlv, str) and tlv != "netns"}
    own = b"".join(tlv.packed for tlv in config.send_proxy_tlvs if isinstance(tlv, OwnTlv))
    if "netns" in config.send_proxy_tlvs:
        name = namespace_name().encode()
        own += bytes([_NETNS]) + len(name).to_bytes(2, "big") + name
    return ProxySend(1 if config.send_proxy == "v1" else 2, own=own, **named)


def pool_spec(seen: PoolView, table: Table) -> PoolSpec:
    config, policy = seen.config, table.policy
    usable, slots = seen.usable, table.slots
    if policy.selection is Selection.FIRST:
        usable, slots = tuple(usable[index] for index in slots), array("I")
    return PoolSpec(
        name=seen.pool.name,
        selection=policy.selection,
        backends=seen.specs,
        usable=usable,
        slots=slots,
        bounded_load=config.bounded_load if policy.hashes else 0.0,
        connect_timeout_s=config.connect_timeout,
        connect_attempts=config.connect_attempts,
        retry_pause_s=config.retry_pause,
        passive_failures=config.passive.failures,
        queue_size=config.queue_size,
        queue_timeout_s=config.queue_timeout,
        source=seen.source,
        transparent=config.source_address == "client",
        send=_send(config),
        hash_seed=seen.order.candidates.hash_seed,
        hash_key=HashKey(config.hash_key) if policy.hashes else HashKey.RANDOM,
        hash_prefix_v4=config.hash_prefix_v4,
        hash_prefix_v6=config.hash_prefix_v6,
    )


def note_published(seen: PoolView, table: Table, spec: PoolSpec) -> None:
    """Write into the state what workers now go by, for whoever asks."""
    pool, specs = seen.pool, seen.specs
    pool.usable = tuple(specs[index].id for index in spec.usable)
    pool.passed_over = dict(seen.passed_over)
    for index in set(seen.usable) - set(spec.usable):
        pool.passed_over[specs[index].id] = f"policy {seen.order.policy}: left out of its ranking"
    pool.table_digest, pool.policy_error = table.digest, table.error
    for backend, one in zip(seen.backends, specs, strict=True):
        backend.effective_weight = one.weight
