"""From a pool's state to its part of a snapshot, in three steps: the usable backends, their tables, the whole.

The first and the last step run on the control loop. Tables may take long; they are built from plain data alone, on any
thread.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from l4lb.config import Pool
from l4lb.config.options.policies import find_policy
from l4lb.config.options.proxy import OwnTlv
from l4lb.control.state.fleet import WHOLE, Share
from l4lb.control.state.state import BackendState, PoolState
from l4lb.errors import RAISED_BY_OTHERS
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import BackendSpec, HashKey, PoolSpec, ProxySend, Selection, TierSpec
from l4lb.model.states import AdminState, Health
from l4lb.net.environment import namespace_name
from l4lb.routing.candidates import EJECTED, Rules, Standing, Tier, candidacy, standby
from l4lb.routing.policies import POLICIES, SMALLEST_TABLE, Candidate, Candidates, Policy, TableBuilder
from l4lb.routing.slow_start import share, wait_s

_NETNS = 0x30  # the type of its TLV, PROXY 2.2.7


@dataclass(frozen=True, slots=True)
class Order:
    """The input of a tier's table: equal orders have equal tables. `candidates` may be empty."""

    policy: str
    candidates: Candidates


@dataclass(frozen=True, slots=True)
class Table:
    """`slots` index the candidates. `error`: why the policy failed for this or another tier of the pool, so that all
    tiers use round robin."""

    order: Order
    policy: Policy
    slots: array[int]
    digest: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class BackendView:
    """What follows of a backend's state alone. `of` is all that it was made of, except for the position: while that is
    equal, its parts stay the same objects. `spec` is that of a usable one, `passed_over` that of another."""

    of: tuple[object, ...]
    standing: Standing
    candidate: Candidate
    spec: BackendSpec
    passed_over: BackendSpec


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool at one moment: its settings and backends, which of them are usable, and why the others are not. `views` of
    its backends by id; `orders` has one for each of the `tiers`, of which there is at least one. `serves`: not only
    backends whose health is unknown are usable.

    `pool` may change meanwhile; the view does not.
    """

    pool: PoolState
    config: Pool
    source: SocketAddress | None
    backends: tuple[BackendState, ...]
    views: Mapping[str, BackendView]
    specs: tuple[BackendSpec, ...]
    tiers: tuple[Tier, ...]
    passed_over: dict[str, str]
    orders: tuple[Order, ...]
    serves: bool


def _grown(backend: BackendState, duration_s: float, now: float) -> float:
    """The part of its weight that slow_start leaves it at `now` (monotonic)."""
    return share(now - backend.returned_at, duration_s) if backend.returned_at is not None else 1.0


def next_step_s(pool: PoolState, now: float) -> float:
    """Seconds until a weight grows again; 0 when none does."""
    duration_s = pool.config.slow_start
    if not duration_s:
        return 0.0
    returned = [one.returned_at for one in pool.backends.values() if one.returned_at is not None]
    return min((wait for at in returned if (wait := wait_s(now - at, duration_s)) > 0), default=0.0)


def _why_passed_over(backend: BackendState, reason: str, now: float) -> str:
    """Why it is passed over, with details."""
    if reason == EJECTED and backend.ejection is not None:
        return f"{reason} for {max(0, round(backend.ejection.until - now))} s more, by failures of real traffic"
    said = backend.agent
    if reason.startswith("health") and said.health is Health.DOWN and backend.health is not Health.DOWN:
        return "agent: down" + (f" ({said.remark})" if said.remark else "")
    if reason.startswith("health") and backend.overruled:
        return f"fleet: most nodes see it {backend.verdict}"
    if reason.startswith("admin state") and backend.admin_state is AdminState.READY:
        return f"agent: {said.admin_state}" + (f" ({said.remark})" if said.remark else "")
    if reason == "weight 0" and backend.config.weight:
        return "agent: 0%"
    return reason


def _resumes(backend: BackendState) -> bool:
    """Whether its own clients may begin new sessions there, although other new sessions go elsewhere."""
    return backend.wanted is not AdminState.MAINT and backend.observed is not Health.DOWN


def _order(config: Pool, hash_seed: int, views: Sequence[BackendView], tiers: Sequence[Tier], tier: Tier) -> Order:
    """A tier of one backend needs no large table: it has every slot, whatever the size."""
    candidates = tuple([views[index].candidate for index in tier.members])
    size = SMALLEST_TABLE if len(tiers) > 1 and len(candidates) == 1 else config.table_size
    return Order(config.policy, Candidates(candidates, size, hash_seed))


def _backend_views(
    pool: PoolState, now: float, share: Share, known: Mapping[str, BackendView]
) -> dict[str, BackendView]:
    """By id, in the order of the pool's backends."""
    views, duration_s = {}, pool.config.slow_start
    for id_, one in pool.backends.items():
        grown = _grown(one, duration_s, now) if duration_s else 1.0
        of = (
            one.config, one.address, one.admin_state, one.health, one.verdict, one.agent, one.ejected, one.unresolved,
            grown, share,
        )  # fmt: skip
        before = known.get(id_)
        if before is None or before.of != of:
            views[id_] = _backend_view(one, grown, share, of)
        elif before.candidate.position == one.position:
            views[id_] = before
        else:
            views[id_] = _moved(before, one.position)
    return views


def _moved(view: BackendView, position: int) -> BackendView:
    """One before it in the configuration has come or gone: of thousands, nearly all after it move."""
    one = view.candidate
    candidate = Candidate(one.id, one.weight, position, one.address, one.zone, one.tags)
    return BackendView(view.of, view.standing, candidate, view.spec, view.passed_over)


def _backend_view(one: BackendState, grown: float, share: Share, of: tuple[object, ...]) -> BackendView:
    """Its weight is the configured one, reduced by the agent and to what is `grown`."""
    config, weight = one.config, one.config.weight * one.agent.percent / 100 * grown
    spec = BackendSpec(one.id, one.address, weight, share.of_count(one.max_sessions))
    return BackendView(
        of,
        Standing(weight, one.wanted, one.observed, config.priority, config.zone, one.ejected, one.unresolved),
        Candidate(one.id, weight, one.position, config.address, config.zone, config.tags),
        spec,
        passed_over=spec if _resumes(one) else replace(spec, resumes=False),
    )


def view(pool: PoolState, hash_seed: int, now: float, share: Share = WHOLE, before: PoolView | None = None) -> PoolView:
    """A view of `pool` as it is now; `share` is this process's part of its backends' limits. Of backends that are as
    they were `before` it has the same parts."""
    config, backends = pool.config, tuple(pool.backends.values())
    by_id = _backend_views(pool, now, share, before.views if before is not None else {})
    views = list(by_id.values())
    rules = Rules(config.panic_threshold, config.when_all_down == "use_all", config.zone)
    found = candidacy([one.standing for one in views], rules)
    orders = tuple(_order(config, hash_seed, views, found.tiers, tier) for tier in found.tiers)
    passed_over = {
        backends[index].id: _why_passed_over(backends[index], reason, now)
        for index, reason in found.passed_over.items()
    }
    specs = [one.spec for one in views]
    for index in found.passed_over:
        specs[index] = views[index].passed_over
    serves = any(backends[index].observed is not Health.UNKNOWN for index in found.usable)
    return PoolView(pool, config, pool.source, backends, by_id, tuple(specs), found.tiers, passed_over, orders, serves)


def _digest(order: Order, slots: array[int]) -> str:
    """Equal on every node with equal input: SHA-256 of policy, seed, ids, weights and table."""
    candidates = order.candidates
    text = repr((order.policy, candidates.hash_seed, candidates.ids, candidates.weights))
    return hashlib.sha256(text.encode() + slots.tobytes()).hexdigest()


def _in_turn(order: Order, error: str, builder: TableBuilder) -> Table:
    policy = POLICIES["round_robin"]
    slots = policy.build(order.candidates, builder)
    return Table(order, policy, slots, _digest(order, slots), error)


def build_table(order: Order, builder: TableBuilder) -> Table:
    """On any thread. An exception of the policy becomes the table's `error`."""
    policy, slots = find_policy(order.policy), array("I")
    if order.candidates.backends:
        try:
            slots = policy.build(order.candidates, builder)
        except RAISED_BY_OTHERS as raised:
            return _in_turn(order, f"{type(raised).__name__}: {raised}", builder)
    return Table(order, policy, slots, _digest(order, slots))


def build_tables(orders: Sequence[Order], known: Sequence[Table], builder: TableBuilder) -> tuple[Table, ...]:
    """The tables of a pool's tiers, on any thread; reuses `known` tables of equal orders.

    A pool has one selection, so a policy that fails for one tier fails for all.
    """
    sound = [one for one in known if not one.error]
    tables = tuple(
        next((one for one in sound if one.order == order), None) or build_table(order, builder) for order in orders
    )
    error = next((one.error for one in tables if one.error), "")
    return tuple(_in_turn(order, error, builder) for order in orders) if error else tables


def are_of(tables: Sequence[Table], orders: Sequence[Order]) -> bool:
    return len(tables) == len(orders) and all(one.order == order for one, order in zip(tables, orders, strict=True))


def pool_digest(tables: Sequence[Table]) -> str:
    """With several tiers, SHA-256 of their digests, in order."""
    if len(tables) == 1:
        return tables[0].digest
    return hashlib.sha256("".join(one.digest for one in tables).encode()).hexdigest()


def _send(config: Pool) -> ProxySend | None:
    if config.send_proxy == "off":
        return None
    named = {tlv: True for tlv in config.send_proxy_tlvs if isinstance(tlv, str) and tlv != "netns"}
    own = b"".join(tlv.packed for tlv in config.send_proxy_tlvs if isinstance(tlv, OwnTlv))
    if "netns" in config.send_proxy_tlvs:
        name = namespace_name().encode()
        own += bytes([_NETNS]) + len(name).to_bytes(2, "big") + name
    return ProxySend(1 if config.send_proxy == "v1" else 2, own=own, **named)


def _tier_spec(tier: Tier, table: Table) -> TierSpec:
    if table.policy.selection is Selection.FIRST:
        return TierSpec(tuple(tier.members[index] for index in table.slots), array("I"))
    return TierSpec(tier.members, table.slots)


def pool_spec(seen: PoolView, tables: Sequence[Table]) -> PoolSpec:
    config, policy = seen.config, tables[0].policy
    first, *further = (_tier_spec(tier, table) for tier, table in zip(seen.tiers, tables, strict=True))
    return PoolSpec(
        name=seen.pool.name,
        selection=policy.selection,
        backends=seen.specs,
        usable=first.usable,
        slots=first.slots,
        further=tuple(further),
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
        hash_seed=seen.orders[0].candidates.hash_seed,
        hash_key=HashKey(config.hash_key) if policy.hashes else HashKey.RANDOM,
        hash_prefix_v4=config.hash_prefix_v4,
        hash_prefix_v6=config.hash_prefix_v6,
    )


def note_published(seen: PoolView, tables: Sequence[Table], spec: PoolSpec) -> None:
    """Write into the state what the workers now use, for the status."""
    pool, specs = seen.pool, seen.specs
    pool.usable = tuple([specs[index].id for tier in spec.tiers for index in tier.usable])
    pool.passed_over = dict(seen.passed_over)
    pool.standby = {}
    for tier, served in zip(seen.tiers, spec.tiers, strict=True):
        for index in set(tier.members) - set(served.usable):
            pool.passed_over[specs[index].id] = f"policy {seen.config.policy}: left out of its ranking"
        if reason := standby(tier, seen.tiers[0]):
            pool.standby.update((specs[index].id, reason) for index in served.usable)
    pool.table_digest, pool.policy_error = pool_digest(tables), tables[0].error
    for backend, one in zip(seen.backends, specs, strict=True):
        backend.effective_weight = one.weight


@dataclass(frozen=True, slots=True)
class LaidOut:
    """Everything that is needed to publish a pool, or to explain which backend a client gets."""

    seen: PoolView
    tables: tuple[Table, ...]
    spec: PoolSpec


def lay_out(pool: PoolState, hash_seed: int, now: float, builder: TableBuilder) -> LaidOut:
    """All the steps for one pool at once, noted in its state as if it had been published."""
    seen = view(pool, hash_seed, now)
    tables = build_tables(seen.orders, (), builder)
    spec = pool_spec(seen, tables)
    note_published(seen, tables, spec)
    return LaidOut(seen, tables, spec)
