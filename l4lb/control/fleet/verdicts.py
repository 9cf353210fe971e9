"""What nodes say of each other's backends, and what most of them say. Pure.

Each node says which backends its own checks see as up and as down. A verdict needs three nodes that have seen the
backend, and more than half of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from l4lb.control.fleet.keys import VALUE_BYTES_MAX
from l4lb.control.state.state import PoolState
from l4lb.model.states import Health

VOTES_MIN = 3

View = Mapping[tuple[str, str], Health]  # by pool and backend; up or down


class _Pool(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    up: list[str]
    down: list[str]


class _Value(BaseModel):
    """Keys that are not known here are those of another version."""

    model_config = ConfigDict(strict=True, frozen=True)

    pools: dict[str, _Pool]


def own_view(pools: Iterable[PoolState]) -> dict[tuple[str, str], Health]:
    """What this node's checks have decided."""
    return {
        (pool.name, id_): backend.health
        for pool in pools
        if pool.config.health.type != "none"
        for id_, backend in pool.backends.items()
        if backend.health is not Health.UNKNOWN and not backend.unresolved
    }


def view_value(view: View) -> bytes:
    pools: dict[str, dict[str, list[str]]] = {}
    for (pool, id_), health in view.items():
        pools.setdefault(pool, {"up": [], "down": []})[health].append(id_)
    return json.dumps({"pools": pools}, separators=(",", ":")).encode()


def parse_view(value: bytes) -> dict[tuple[str, str], Health]:
    """ValueError, which says what is wrong."""
    if len(value) > VALUE_BYTES_MAX:
        raise ValueError(f"larger than {VALUE_BYTES_MAX >> 20} MiB")
    try:
        pools = _Value.model_validate_json(value).pools
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))) from None
    found = {(pool, id_): Health.UP for pool, said in pools.items() for id_ in said.up}
    return found | {(pool, id_): Health.DOWN for pool, said in pools.items() for id_ in said.down}


def verdict_on(backend: tuple[str, str], views: Sequence[View]) -> Health | None:
    """What most of those who have seen it say; None when too few have, or as many say one thing as the other."""
    votes = [view[backend] for view in views if backend in view]
    if len(votes) < VOTES_MIN:
        return None
    for health in (Health.UP, Health.DOWN):
        if 2 * votes.count(health) > len(votes):
            return health
    return None
