"""From a pool's state to what workers get: every policy, whatever the backends are like."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4lb import Backend, plugins
from l4lb._native.snapshots import SELECTIONS
from l4lb.control.publishing.pools import Table, build_tables, note_published, pool_spec, view
from l4lb.control.state.state import PoolState, initial_state
from l4lb.errors import ConfigError
from l4lb.model.snapshot import BackendSpec, PoolSpec, Selection
from l4lb.model.states import AdminState, Health
from l4lb.routing.policies import POLICIES
from tests.support.balancing import make_config
from tests.support.tables import NativeTables, chi_square_limit

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")


def make_pool(backends: list[Backend], healths: list[Health], **options: Any) -> PoolState:
    zone = options.pop("zone", "")  # when a backend was removed, none may be in the pool's zone any more
    config = make_config(backends, **options)
    wanted = config.pools["web"].model_copy(update={"zone": zone})
    pool = initial_state(config.model_copy(update={"pools": {"web": wanted}})).pools["web"]
    for backend, health in zip(sorted(pool.backends.values(), key=lambda one: one.position), healths, strict=True):
        backend.health = health
    return pool


def carried_out(pool: PoolState, seed: int = 0) -> tuple[PoolSpec, Table]:
    """With the table of the first tier."""
    seen = view(pool, seed, now=0.0)
    tables = build_tables(seen.orders, (), NativeTables())
    spec = pool_spec(seen, tables)
    note_published(seen, tables, spec)
    return spec, tables[0]


def workers_pool(spec: PoolSpec):
    backends = [(one.weight, one.max_sessions) for one in spec.backends]
    further = [(list(tier.usable), list(tier.slots)) for tier in spec.further]
    selection = SELECTIONS[spec.selection]
    return probe.Pool(selection, backends, list(spec.usable), list(spec.slots), spec.bounded_load, further)


def has_place(backend: BackendSpec, active: int) -> bool:
    return backend.max_sessions == 0 or active < backend.max_sessions


BACKEND = st.fixed_dictionaries(
    {
        "weight": st.integers(0, 20),
        "priority": st.integers(0, 2),
        "max_sessions": st.sampled_from([0, 1, 5]),
        "admin_state": st.sampled_from(AdminState),
        "zone": st.sampled_from(["", "a"]),
    }
)
OPTIONS = st.fixed_dictionaries(
    {
        "panic_threshold": st.sampled_from([0, 50]),
        "when_all_down": st.sampled_from(["reject", "use_all"]),
        "zone": st.sampled_from(["", "a"]),
    }
)


@pytest.mark.parametrize("policy", list(POLICIES))
@settings(max_examples=60, deadline=None)
@given(described=st.lists(st.tuples(BACKEND, st.sampled_from(Health)), min_size=1, max_size=8), options=OPTIONS)
def test_only_usable_backends_of_the_first_tier_that_has_a_place(
    policy: str, described: list[tuple[dict[str, Any], Health]], options: dict[str, Any]
) -> None:
    if POLICIES[policy].hashes:
        options = {**options, "table_size": 251, "bounded_load": 1.25}
    backends = [Backend(address=f"127.0.0.1:{i + 1}", **fields) for i, (fields, _) in enumerate(described)]
    pool = make_pool(backends, [health for _, health in described], policy=policy, **options)
    spec, _ = carried_out(pool)
    native = workers_pool(spec)
    states = list(pool.backends.values())
    tiers = [tier.usable for tier in spec.tiers]
    places = sum(spec.backends[index].max_sessions or 40 for tier in tiers for index in tier)
    draw = random.Random(1)
    for _ in range(40):
        free = [[i for i in tier if has_place(spec.backends[i], native.active()[i])] for tier in tiers]
        chosen = native.pick(draw.getrandbits(64))
        if chosen is None:
            break
        assert states[chosen].id in pool.usable
        assert states[chosen].admin_state is AdminState.READY
        assert states[chosen].config.weight > 0
        assert chosen in next(tier for tier in free if tier)
        priorities = [states[index].config.priority for tier in free for index in tier]
        assert states[chosen].config.priority == min(priorities)
    active = native.active()
    assert sum(active) == min(40, places)
    for state, count in zip(states, active, strict=True):
        assert not 0 < state.config.max_sessions < count
        assert (state.id in pool.usable) != (state.id in pool.passed_over)


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "first"])
@settings(max_examples=25, deadline=None)
@given(weights=st.lists(st.integers(1, 20), min_size=1, max_size=8), seed=st.integers(0, 2**32))
def test_sessions_spread_by_weight(policy: str, weights: list[int], seed: int) -> None:
    """Chi-square, at six standard deviations. A ring and rendezvous hashing promise the shares of their table, which
    go by weight to within their own noise (`tests/unit/dataplane/tables/test_tables.py`)."""
    options = {"table_size": 65537} if POLICIES[policy].hashes else {}
    backends = [Backend(address=f"127.0.0.1:{i + 1}", weight=weight) for i, weight in enumerate(weights)]
    pool = make_pool(backends, [Health.UP] * len(weights), policy=policy, **options)
    spec, table = carried_out(pool)
    native = workers_pool(spec)
    sessions = 200 * len(weights)
    draw = random.Random(seed)
    for _ in range(sessions):
        assert native.pick(draw.getrandbits(64)) is not None
    if policy in ("ring", "rendezvous"):
        shares = [table.slots.count(index) / len(table.slots) for index in range(len(weights))]
    else:
        shares = [one.weight / sum(weights) for one in spec.backends]
    expected = [sessions * share for share in shares]
    statistic = sum((got - want) ** 2 / want for got, want in zip(native.active(), expected, strict=True))
    assert statistic <= chi_square_limit(len(weights) - 1), (native.active(), expected)


def test_first_is_a_ranking_by_the_configuration_and_not_by_id() -> None:
    backends = [Backend(address="127.0.0.1:1", id=name) for name in "cab"]
    spec, _ = carried_out(make_pool(backends, [Health.UP] * 3, policy="first"))
    assert [spec.backends[index].id for index in spec.usable] == ["c", "a", "b"]


# ---- policies of other packages ----

PLUGIN = """
import sys
from l4lb.policies import ranking_policy, table_policy

def fails(candidates):
    raise RuntimeError("no luck")

def exits(candidates):
    sys.exit(3)

last_first = ranking_policy(lambda candidates: list(reversed(range(len(candidates.backends)))))
some = ranking_policy(lambda candidates: [1])
twice = ranking_policy(lambda candidates: [0, 0])
heavy = table_policy(lambda candidates: [max(range(len(candidates.backends)), key=candidates.weights.__getitem__)] * 5)
beyond = table_policy(lambda candidates: [len(candidates.backends)])
empty = table_policy(lambda candidates: [])
words = table_policy(lambda candidates: ["a"])
fails = table_policy(fails)
exits = table_policy(exits)
nothing = 5
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with these policies, as installers lay it out."""
    info = tmp_path / "their_policies-1.0.dist-info"
    info.mkdir()
    names = ["last_first", "some", "twice", "heavy", "beyond", "empty", "words", "fails", "exits", "nothing"]
    points = "".join(f"{name} = their_policies:{name}\n" for name in names)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-policies\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[l4lb.policies]\n{points}absent = their_policies:absent\nmaglev = x:y\n")
    (tmp_path / "their_policies.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.names.cache_clear()
    plugins.load.cache_clear()
    yield
    sys.modules.pop("their_policies", None)
    plugins.names.cache_clear()
    plugins.load.cache_clear()


def three(policy: str) -> PoolState:
    backends = [Backend(address=f"127.0.0.1:{i}", weight=i, id="abc"[i - 1]) for i in (1, 2, 3)]
    return make_pool(backends, [Health.UP] * 3, policy=policy)


@pytest.mark.usefixtures("installed")
def test_a_ranking_of_another_package_is_the_order_in_which_they_fill() -> None:
    spec, table = carried_out(three("last_first"))
    assert (spec.selection, spec.usable, list(spec.slots), table.error) == (Selection.FIRST, (2, 1, 0), [], "")
    pool = three("some")
    spec, _ = carried_out(pool)
    assert spec.usable == (1,)
    assert pool.usable == ("b",)
    assert pool.passed_over == {
        "a": "policy some: left out of its ranking",
        "c": "policy some: left out of its ranking",
    }


@pytest.mark.usefixtures("installed")
def test_a_table_of_another_package_is_used_as_it_is() -> None:
    spec, table = carried_out(three("heavy"))
    assert (spec.selection, list(spec.slots), table.error) == (Selection.HASH, [2] * 5, "")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("fails", "RuntimeError: no luck"),
        ("exits", "SystemExit: 3"),
        ("beyond", "ValueError: table: index 3, but there are 3 candidates"),
        ("empty", "ValueError: table: 0 entries, expected 1 to 5000011"),
        ("words", "ValueError: table: expected indices of candidates"),
        ("twice", "ValueError: ranking: expected each candidate at most once"),
    ],
)
def test_a_policy_that_fails_is_told_and_its_pool_serves_in_turn(policy: str, reason: str) -> None:
    pool = three(policy)
    spec, table = carried_out(pool)
    assert table.error.startswith(reason)
    assert pool.policy_error == table.error
    assert spec.selection is Selection.CURSOR
    assert {spec.usable[slot] for slot in spec.slots} == {0, 1, 2}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("absent", "cannot be loaded: AttributeError"),
        ("nothing", "is a int, expected what table_policy or ranking_policy returns"),
    ],
)
def test_a_policy_that_cannot_be_loaded_is_an_error_of_the_configuration(policy: str, reason: str) -> None:
    from l4lb import Config

    text = f'[listeners.l]\nbind = ":0"\npool = "p"\n[pools.p]\npolicy = "{policy}"\nbackends = ["127.0.0.1:1"]\n'
    with pytest.raises(ConfigError, match=reason):
        Config.loads(text)


@pytest.mark.usefixtures("installed")
def test_a_built_in_policy_cannot_be_replaced() -> None:
    _, table = carried_out(make_pool([Backend(address="127.0.0.1:1")], [Health.UP], policy="maglev", table_size=251))
    assert table.policy is POLICIES["maglev"]


@pytest.mark.parametrize("health", Health)
@pytest.mark.parametrize("state", AdminState)
def test_what_a_backend_has_begun_may_go_on_there_but_in_maintenance_or_down(state: AdminState, health: Health) -> None:
    backends = [Backend(address="127.0.0.1:1", admin_state=state, weight=0), Backend(address="127.0.0.1:2")]
    spec, _ = carried_out(make_pool(backends, [health, Health.UP]))
    assert spec.usable == (1,)
    assert spec.backends[0].resumes == (state is not AdminState.MAINT and health is not Health.DOWN)


def test_what_is_usable_may_go_on_though_it_is_down() -> None:
    pool = make_pool([Backend(address="127.0.0.1:1")], [Health.DOWN], when_all_down="use_all")
    assert carried_out(pool)[0].backends[0].resumes


# ---- tiers ----


def levels(*priorities: int, **options: Any) -> PoolState:
    backends = [Backend(address=f"127.0.0.1:{i + 1}", priority=one) for i, one in enumerate(priorities)]
    return make_pool(backends, [Health.UP] * len(priorities), **options)


def tables_of(pool: PoolState, known: Sequence[Table] = (), seed: int = 0) -> tuple[Table, ...]:
    return build_tables(view(pool, seed, now=0.0).orders, known, NativeTables())


@pytest.mark.parametrize("policy", ["maglev", "ring", "rendezvous"])
def test_each_tier_has_a_table_of_its_own_and_a_lone_backend_the_smallest(policy: str) -> None:
    pool = levels(0, 0, 1, 2, 2, policy=policy, table_size=251)
    spec, _ = carried_out(pool)
    assert [tier.usable for tier in spec.tiers] == [(0, 1), (2,), (3, 4)]
    assert [len(tier.slots) for tier in spec.tiers] == [251, 2, 251]
    assert [set(tier.slots) for tier in spec.tiers] == [{0, 1}, {0}, {0, 1}]
    assert pool.usable == tuple(pool.backends)
    assert pool.standby == {
        "127.0.0.1:3": "priority 1: 0 goes first",
        "127.0.0.1:4": "priority 2: 0 goes first",
        "127.0.0.1:5": "priority 2: 0 goes first",
    }


def test_a_tier_alone_has_the_table_and_the_digest_that_it_would_have_without_priorities() -> None:
    plain, alike = (levels(*priorities, policy="maglev", table_size=251) for priorities in ((0, 0), (3, 3)))
    assert carried_out(plain)[0] == carried_out(alike)[0]
    assert plain.table_digest == alike.table_digest == tables_of(plain)[0].digest
    lone = levels(4, policy="maglev", table_size=251)
    assert len(carried_out(lone)[0].slots) == 251


def test_the_digest_of_several_tiers_tells_them_apart_and_is_equal_for_equal_input() -> None:
    digests = []
    for priorities in ((0, 0, 1), (0, 1, 1), (0, 1, 2), (0, 0, 0), (0, 0, 5)):
        pool = levels(*priorities, policy="maglev", table_size=251)
        carried_out(pool)
        digests.append(pool.table_digest)
    assert len(set(digests)) == 4
    assert digests[0] == digests[4]  # the order of the tiers counts, not the numbers


def test_tiers_that_did_not_change_keep_their_tables() -> None:
    pool = levels(0, 0, 1, 1, 2, 2, policy="maglev", table_size=251)
    before = tables_of(pool)
    pool.backends["127.0.0.1:1"].health = Health.DOWN
    after = tables_of(pool, before)
    assert [one is other for one, other in zip(before, after, strict=True)] == [False, True, True]
    pool.backends["127.0.0.1:2"].health = Health.DOWN
    assert [any(one is other for other in before) for one in tables_of(pool, after)] == [True, True]


FAILS_FOR_C = """
from l4lb.policies import table_policy

def build(candidates):
    if any(one.id == "c" for one in candidates.backends):
        raise RuntimeError("not c")
    return [0] * 7

odd = table_policy(build)
"""


def test_a_policy_that_fails_for_one_tier_fails_for_the_pool_and_returns_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool has one selection: half of it cannot be a table that is hashed, and half a cycle."""
    info = tmp_path / "odd_policy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-policy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[l4lb.policies]\nodd = odd_policy:odd\n")
    (tmp_path / "odd_policy.py").write_text(FAILS_FOR_C)
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.names.cache_clear()
    plugins.load.cache_clear()
    try:
        backends = [Backend(address=f"127.0.0.1:{i}", priority=i, id="abc"[i - 1]) for i in (1, 2, 3)]
        pool = make_pool(backends, [Health.UP] * 3, policy="odd")
        tables = tables_of(pool)
        assert {one.policy.selection for one in tables} == {Selection.CURSOR}
        assert {one.error for one in tables} == {"RuntimeError: not c"}
        pool.backends["c"].health = Health.DOWN
        tables = tables_of(pool, tables)
        assert [(one.policy.selection, list(one.slots), one.error) for one in tables] == [
            (Selection.HASH, [0] * 7, "")
        ] * 2
    finally:
        sys.modules.pop("odd_policy", None)
        plugins.names.cache_clear()
        plugins.load.cache_clear()


def test_what_is_as_it_was_before_keeps_its_parts() -> None:
    """So that of thousands of backends only one is made anew, here and in the data plane."""
    pool = make_pool([Backend(f"127.0.0.1:{port}") for port in range(1, 101)], [Health.UP] * 100)
    before = view(pool, 0, now=0.0)
    one = pool.backends["127.0.0.1:50"]
    one.health = Health.DOWN
    after = view(pool, 0, now=1.0, before=before)
    assert [id_ for id_, seen in after.views.items() if seen is not before.views[id_]] == [one.id]
    assert [spec.id for spec, old in zip(after.specs, before.specs, strict=True) if spec is not old] == [one.id]
    assert after == view(pool, 0, now=1.0), "as if nothing had been known"


def test_one_that_goes_moves_the_others_and_no_more() -> None:
    pool = make_pool([Backend(f"127.0.0.1:{port}") for port in range(1, 101)], [Health.UP] * 100, policy="first")
    before = view(pool, 0, now=0.0)
    del pool.backends["127.0.0.1:50"]
    for position, backend in enumerate(sorted(pool.backends.values(), key=lambda one: one.position)):
        backend.position = position
    after = view(pool, 0, now=0.0, before=before)
    known = {spec.id: spec for spec in before.specs}
    assert all(spec is known[spec.id] for spec in after.specs)
    assert after == view(pool, 0, now=0.0)


def test_a_growing_weight_is_always_another_part() -> None:
    pool = make_pool([Backend("127.0.0.1:1"), Backend("127.0.0.1:2")], [Health.UP] * 2, slow_start="10s")
    pool.backends["127.0.0.1:1"].returned_at = 0.0
    before = view(pool, 0, now=1.0)
    after = view(pool, 0, now=9.0, before=before)
    assert after.specs[0].weight > before.specs[0].weight
    assert after.specs[1] is before.specs[1]
