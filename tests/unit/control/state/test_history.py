"""History: samples at their interval, bounded, aligned at their end."""

from __future__ import annotations

from l4lb.control.state.history import COLUMNS, INTERVAL_S, POOLS_MAX, SAMPLES, History
from l4lb.model.stats import BackendStats, Histogram, PoolStats, Stats, WorkerStats


def counted(pools: dict[str, int], connects: tuple[int, ...] = (0,)) -> Stats:
    """Pools with so many sessions ever, half of them active."""
    backends = {
        name: {
            "a": BackendStats(sessions_active=total // 2, sessions_total=total, bytes_up=total * 10, bytes_down=1 << 70)
        }
        for name, total in pools.items()
    }
    worker = WorkerStats(connect_time=Histogram((1.0,) * (len(connects) - 1), connects))
    return Stats(pools={name: PoolStats(backends=one) for name, one in backends.items()}, workers=(worker, worker))


def test_samples_are_due_at_their_interval_though_it_is_asked_more_often() -> None:
    history = History(started_at=100.0)
    for second in range(21):
        if history.is_due(now := 100.0 + second * 1.01):
            history.sample(counted({"web": second}), now)
    assert [round(one) for one in history.uptime_s] == [0, 5, 10, 15, 20]
    assert history.series("web").column("sessions_total", 5) == [0, 5, 10, 15, 20]
    assert history.series("").column("sessions_active", 5) == [0, 2, 5, 7, 10]


def test_only_the_latest_are_kept_and_connects_are_those_of_all_workers() -> None:
    history = History(started_at=0.0)
    for number in range(SAMPLES + 10):
        history.sample(counted({"web": number}, (number, 1)), number * INTERVAL_S)
    assert len(history.at) == len(history.uptime_s) == len(history.connects) == SAMPLES
    assert history.connects[-1] == (2 * (SAMPLES + 9), 2)
    column = history.series("web").column("sessions_total", SAMPLES)
    assert column == list(range(10, SAMPLES + 10))
    assert all(len(history.all.column(name, SAMPLES)) == SAMPLES for name in COLUMNS)


def test_a_pool_that_came_later_has_nothing_before_and_one_that_is_gone_is_forgotten() -> None:
    history = History(started_at=0.0)
    history.sample(counted({"web": 4}), 0.0)
    history.sample(counted({"web": 5, "api": 7}), INTERVAL_S)
    assert history.series("api").column("sessions_total", 2) == [None, 7]
    assert history.series("").column("sessions_total", 2) == [4, 12]
    history.sample(counted({"api": 8}), 2 * INTERVAL_S)
    assert list(history.pools) == ["api"]
    assert history.series("web").column("bytes_up", 3) == [None] * 3


def test_memory_is_bounded_whatever_there_is() -> None:
    history = History(started_at=0.0)
    history.sample(counted({f"pool-{number}": 1 for number in range(POOLS_MAX + 5)}), 0.0)
    assert len(history.pools) == POOLS_MAX
    assert history.series("").column("sessions_total", 1) == [POOLS_MAX + 5]
    assert history.series("").column("bytes_down", 1) == [(1 << 63) - 1]
