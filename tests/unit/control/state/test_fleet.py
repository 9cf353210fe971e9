"""The parts of what the nodes of a fleet divide."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from l4lb.control.state.fleet import WHOLE, Share


@given(st.integers(1, 10_000), st.integers(1, 200))
def test_the_parts_sum_up_to_the_limit(limit: int, nodes: int) -> None:
    parts = [Share(nodes, rank).of_count(limit) for rank in range(nodes)]
    assert sum(parts) == max(limit, nodes)
    assert parts == sorted(parts, reverse=True)
    assert parts[0] - parts[-1] <= 1


def test_no_limit_stays_none() -> None:
    assert Share(3, 2).of_count(0) == 0
    assert Share(3, 2).of_rate(0.0) == 0.0
    assert (WHOLE.of_count(7), WHOLE.of_rate(2.5)) == (7, 2.5)
    assert Share(4, 0).of_rate(10.0) == 2.5
