"""Cases that `make slow` runs, and CI: `make test` has one of their kind."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*cases: Any) -> list[Any]:
    """Each case is a value, or a tuple of them where a test has several parameters."""
    return [pytest.param(*_values(case), marks=pytest.mark.slow) for case in cases]


def first_and_slow(first: Any, *others: Any) -> list[Any]:
    """Values of one parameter."""
    return [pytest.param(first), *(pytest.param(other, marks=pytest.mark.slow) for other in others)]


def _values(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)
