"""What a change looks at: of thousands of backends those that differ."""

from __future__ import annotations

from collections.abc import Sequence

from l4lb import Backend
from l4lb.config import Config
from l4lb.control.changes.names import Names
from l4lb.control.changes.planning import PoolPlan, plan_changes
from l4lb.control.state.state import State, initial_state
from tests.support.balancing import make_config

ENTRIES = [Backend(f"127.0.{number // 250}.{1 + number % 250}:80") for number in range(1000)]
CHECKED = {"type": "tcp"}


def running(**options: object) -> State:
    return initial_state(make_config(ENTRIES, health=CHECKED, **options))


def config_with(state: State, backends: Sequence[Backend], **options: object) -> Config:
    """As a new answer of a source makes it: backends that are as before are the same objects."""
    pool = state.config.pools["web"].model_copy(update={"backends": list(backends), **options})
    return state.config.model_copy(update={"pools": {"web": pool}})


def plans(state: State, config: Config) -> tuple[PoolPlan, ...]:
    return plan_changes(config, state, Names(), everything=False).pools


def entries(state: State) -> list[Backend]:
    return state.config.pools["web"].backends


def test_one_that_changes_is_looked_at_alone() -> None:
    state = running()
    known = entries(state)
    heavier = known[500].model_copy(update={"weight": 2})
    (plan,) = plans(state, config_with(state, [*known[:500], heavier, *known[501:]]))
    assert (plan.backends.keys(), plan.targets.keys()) == ({heavier.key}, {heavier.key})
    assert plan.backends[heavier.key].config is heavier
    assert list(plan.positions) == sorted(one.key for one in known), "all of them, in the order of tables"


def test_of_one_that_goes_only_positions_are_left() -> None:
    state = running()
    known = entries(state)
    left = [*known[:500], *known[501:]]
    (plan,) = plans(state, config_with(state, left))
    assert (plan.backends, plan.targets) == ({}, {})
    assert plan.positions == {one.key: position for position, one in enumerate(left)}


def test_what_is_written_anew_and_the_same_changes_nothing() -> None:
    state = running()
    assert plans(state, config_with(state, [one.model_copy() for one in entries(state)])) == ()


def test_settings_of_the_pool_have_all_looked_at() -> None:
    state = running()
    (plan,) = plans(state, config_with(state, entries(state), source_address="127.0.0.9"))
    assert len(plan.backends) == len(plan.targets) == len(ENTRIES)
    assert {target.source.host for target in plan.targets.values() if target.source} == {"127.0.0.9"}
