"""What clients and sessions count for: never above a limit, and nothing when they are gone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

probe = pytest.importorskip("_l4lb_probe_worker", reason="the probe modules are not built (L4LB_PROBE=1)")
ADMITTED, RATE_LIMITED, PROCESS_FULL, LISTENER_FULL = range(4)
NOTHING = (0, 0, 0, 0, 0, [0, 0])


def test_what_is_held_is_counted_and_given_back_once() -> None:
    plane = probe.Plane(workers=2)
    result, held = plane.admit(1, False)
    assert (result, plane.counts()) == (ADMITTED, (1, 1, 0, 1, 0, [0, 0]))
    held = plane.hold(1, held)
    assert plane.counts() == (1, 1, 0, 1, 1, [0, 1])
    assert plane.hold(1, held) == held, "what is held already is not counted again"
    assert plane.counts() == (1, 1, 0, 1, 1, [0, 1])
    assert plane.release(1, held) == 0
    assert plane.counts() == NOTHING
    plane.release(1, 0)
    assert plane.counts() == NOTHING


def test_a_full_listener_leaves_nothing_held() -> None:
    plane = probe.Plane(workers=2, of_listener=1)
    assert plane.admit(0, False)[0] == ADMITTED
    assert plane.admit(0, True) == (LISTENER_FULL, 0)
    assert plane.counts() == (1, 1, 0, 1, 0, [0, 0])


def test_a_full_process_leaves_nothing_held() -> None:
    plane = probe.Plane(workers=2, max_sessions=1)
    assert plane.admit(0, True)[0] == ADMITTED
    assert plane.admit(0, False) == (PROCESS_FULL, 0)
    assert plane.counts() == (1, 0, 1, 1, 0, [0, 0])


@pytest.mark.parametrize("datagrams", [False, True])
def test_a_quarter_is_kept_for_the_other_protocol(datagrams: bool) -> None:
    plane = probe.Plane(workers=2, max_sessions=8, mixed=True)
    assert [plane.admit(0, datagrams)[0] for _ in range(7)] == [ADMITTED] * 6 + [PROCESS_FULL]
    assert [plane.admit(0, not datagrams)[0] for _ in range(3)] == [ADMITTED] * 2 + [PROCESS_FULL]


def test_a_session_from_another_process_is_asked_for_no_limit() -> None:
    plane = probe.Plane(workers=2, max_sessions=1, of_listener=1)
    held = [plane.hold_as_before(True) for _ in range(3)]
    assert plane.counts() == (3, 0, 3, 3, 3, [0, 0])
    assert plane.admit(0, True) == (PROCESS_FULL, 0)
    for one in held:
        plane.release(0, one)
    assert plane.counts() == NOTHING


@given(
    steps=st.lists(st.tuples(st.sampled_from(["admit", "hold", "release"]), st.integers(0, 1), st.booleans())),
    limit=st.integers(0, 5),
    of_listener=st.integers(0, 4),
)
def test_counts_are_those_of_a_model(steps: list[tuple[str, int, bool]], limit: int, of_listener: int) -> None:
    plane = probe.Plane(workers=2, max_sessions=limit, of_listener=of_listener)
    there: list[tuple[int, int, bool, bool]] = []  # worker, held, datagrams, whether pool and worker are held
    for action, worker, datagrams in steps:
        if action == "admit":
            full = (limit and len(there) >= limit) or (of_listener and len(there) >= of_listener)
            result, held = plane.admit(worker, datagrams)
            assert (result != ADMITTED) == bool(full)
            if result == ADMITTED:
                there.append((worker, held, datagrams, False))
        elif there and action == "hold":
            at, held, of_udp, _ = there.pop(0)
            there.append((at, plane.hold(at, held), of_udp, True))
        elif there:
            at, held, _, _ = there.pop(0)
            assert plane.release(at, held) == 0
        whole = [one for one in there if one[3]]
        udp = sum(one[2] for one in there)
        assert plane.counts() == (
            *(len(there), len(there) - udp, udp, len(there), len(whole)),
            [sum(one[0] == worker for one in whole) for worker in (0, 1)],
        )
