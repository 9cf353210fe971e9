"""Which backends of a pool may get new sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from l4lb.model.states import AdminState, Health


@dataclass(frozen=True, slots=True)
class Standing:
    """What counts for a backend's candidacy."""

    weight: int
    admin_state: AdminState
    health: Health


def usable(backends: Sequence[Standing]) -> list[int]:
    """Indices of those that are ready, have a weight and are up; while none is up, of those not decided yet."""
    wanted = [
        index
        for index, backend in enumerate(backends)
        if backend.admin_state is AdminState.READY and backend.weight > 0
    ]
    up = [index for index in wanted if backends[index].health is Health.UP]
    return up or [index for index in wanted if backends[index].health is Health.UNKNOWN]
