from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from l4lb.routing.slow_start import STEPS, share, wait_s


@given(st.floats(0.01, 1000), st.floats(0, 1))
@example(681.0496678560372, 0.95)
def test_the_share_grows_in_steps_to_exactly_one(duration_s: float, part: float) -> None:
    now = part * duration_s
    assert 1 / STEPS <= share(now, duration_s) <= 1
    assert abs(share(now, duration_s) - part) <= 1 / STEPS + 1e-9
    assert share(duration_s, duration_s) == 1
    if wait := wait_s(now, duration_s):
        assert share(now + wait * 1.000001, duration_s) > share(now, duration_s) or share(now, duration_s) == 1
    else:
        assert now >= duration_s


def test_a_clock_that_went_back_is_the_beginning() -> None:
    assert share(-5, 10) == 1 / STEPS
    assert 0 < wait_s(-5, 10) <= 0.5
