"""Whether this process is ready for clients, and of which of its parts that is asked. Control loop only.

What is wrong comes in two kinds, since a router has to do different things about them: the node drains, so clients
should go elsewhere while it still serves those that it has; or it cannot serve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from l4lb.control.state.state import PoolState, State
from l4lb.model.states import ProcessState


@dataclass(frozen=True, slots=True)
class Scope:
    """Which parts count. `listeners`: all by default. `pools`: by default those to which these listeners lead, or all
    when no listener is named. `min_backends` of each pool have to be usable."""

    listeners: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    min_backends: int = 1


EVERYTHING = Scope()


def draining(state: State) -> list[str]:
    """Why clients should go elsewhere, although nothing is broken."""
    if state.process is ProcessState.DRAINING:
        return ["the process is draining"]
    fleet = state.fleet
    if fleet is not None and fleet.draining:
        return [f'node "{fleet.node}" is drained: `l4lb fleet resume {fleet.node}` ends that']
    return []


def failing(state: State, scope: Scope) -> list[str]:
    """Why clients cannot be served. Not asked of a process that drains: it has closed its listeners."""
    if state.process is ProcessState.DRAINING:
        return []
    if state.process is not ProcessState.RUNNING:
        return [f"the process is {state.process}"]
    return [*_listeners(state, scope), *_pools(state, scope)]


def _listeners(state: State, scope: Scope) -> Iterator[str]:
    for name in scope.listeners or state.listeners:
        if name not in state.listeners:
            yield f'there is no listener "{name}"'
        elif name in state.drained:
            yield f'listener "{name}" drains'
        elif reason := state.refusing.get(name):
            yield f'listener "{name}" refuses clients: {reason}'


def _pools(state: State, scope: Scope) -> Iterator[str]:
    for name in scope.pools or _led_to(state, scope.listeners):
        if name not in state.pools:
            yield f'there is no pool "{name}"'
        elif len(state.pools[name].usable) < scope.min_backends:
            yield f'pool "{name}" has {_usable_text(state.pools[name], scope.min_backends)}'


def _led_to(state: State, listeners: tuple[str, ...]) -> list[str]:
    if not listeners:
        return list(state.pools)
    known = (state.listeners[name].config for name in listeners if name in state.listeners)
    return list(dict.fromkeys(pool for config in known for pool in config.pools))


def _usable_text(pool: PoolState, wanted: int) -> str:
    count = len(pool.usable)
    if not count:
        return "no usable backend"
    return f"{count} usable {'backend' if count == 1 else 'backends'}, {wanted} are wanted"
