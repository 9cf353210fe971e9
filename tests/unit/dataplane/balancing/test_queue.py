"""Sessions that wait for a place: in their order on each worker, bounded for all together, and woken."""

from __future__ import annotations

import random

import pytest

probe = pytest.importorskip("_l4lb_probe_worker", reason="the probe modules are not built (L4LB_PROBE=1)")
QUEUE_TIMEOUT = 10  # close_reason_t


def test_first_come_first_served_and_out_from_anywhere() -> None:
    plane = probe.Plane()
    chance = random.Random(4)
    sessions = [plane.session(0) for _ in range(30)]
    wanted: list[int] = []
    for _ in range(1000):
        one = chance.choice(sessions)
        if one in wanted:
            plane.dequeue(0, one)
            wanted.remove(one)
        else:
            assert plane.enqueue(0, one, 100)
            wanted.append(one)
        assert plane.queue(0) == wanted
        assert plane.waiting() == len(wanted)


def test_queue_size_bounds_all_workers_together() -> None:
    plane = probe.Plane(workers=2)
    assert plane.enqueue(0, plane.session(0), 2)
    assert plane.enqueue(1, plane.session(1), 2)
    late = plane.session(0)
    assert not plane.enqueue(0, late, 2)
    assert plane.waiting() == 2
    assert not plane.enqueue(0, late, 0), "no queue at all"


def test_who_ends_in_the_queue_leaves_it() -> None:
    plane = probe.Plane()
    first, second, third = (plane.session(0) for _ in range(3))
    for one in (first, second, third):
        assert plane.enqueue(0, one, 10)
    plane.end(0, second, QUEUE_TIMEOUT)
    assert plane.queue(0) == [first, third]
    assert plane.waiting() == 2
    assert plane.closed(0, QUEUE_TIMEOUT) == 1


def test_a_free_place_wakes_the_other_workers_only_while_somebody_waits() -> None:
    plane = probe.Plane(workers=3)
    plane.poke(0)
    assert [plane.woken(worker) for worker in range(3)] == [False] * 3
    plane.enqueue(2, plane.session(2), 10)
    plane.poke(0)
    assert [plane.woken(worker) for worker in range(3)] == [False, True, True], "itself it wakes without a call"
