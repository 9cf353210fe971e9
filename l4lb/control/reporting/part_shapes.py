"""Shapes that are parts of other answers: see `shapes.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # pydantic accepts that of typing only from Python 3.12 on

from l4lb.model.hooks import HookResult

_EXACT = with_config(ConfigDict(extra="forbid"))


@_EXACT
class Histogram(TypedDict):
    """How many durations fell below each of `bounds_s`, and in a last entry above them; `sum_s` is their sum."""

    bounds_s: list[float]
    counts: list[int]
    sum_s: float


@_EXACT
class Discovery(TypedDict):
    """A pool's source: `answered_at` null: it has not answered yet; `age_s` since then; `error`: why it does not answer
    now, or cannot be used, so that what it answered before holds; `backends` are those that it named last, `held` those
    that stay although it no longer names them."""

    type: str
    answered_at: float | None
    age_s: float | None
    error: str
    backends: int
    held: int
    answers: int
    failures: int
    changes: int


@_EXACT
class Hook(TypedDict):
    """The hook that is asked about a listener's sessions; `sessions` by what came of it."""

    name: str
    deadline_s: float
    on_error: Literal["accept", "reject"]
    sessions: dict[HookResult, int]
