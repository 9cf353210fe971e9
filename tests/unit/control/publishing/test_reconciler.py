"""State in, snapshot out: what changes publishes, and tables are built only when they must be."""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import Callable, Sequence

import pytest

from l4lb.config import HealthConfig, Pool
from l4lb.control.publishing.pools import lay_out
from l4lb.control.publishing.reconciler import Reconciler
from l4lb.control.state.events import Events
from l4lb.control.state.state import State, initial_state
from l4lb.model.snapshot import ListenerSpec, Selection, Snapshot, TableKind
from l4lb.model.states import Health, ProcessState
from l4lb.model.stats import BackendLatency, BackendTimes, PoolStats, Stats
from tests.support.balancing import make_config
from tests.support.tables import TWINS


class Recorder:
    """`l4lb.model.forwarder.Forwarding` that keeps what is published; what moves bytes is tested elsewhere.

    Tables wait for `may_build`.
    """

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self.tables_built = 0
        self.builders: set[int] = set()
        self.may_build = threading.Event()
        self.may_build.set()

    def start(self) -> None: ...

    def prepare(self, listeners: Sequence[ListenerSpec]) -> None: ...

    def publish(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    def adopted(self) -> bool:
        return True

    def build_table(
        self, kind: TableKind, ids: Sequence[str], weights: Sequence[float], table_size: int, seed: int
    ) -> array[int]:
        assert self.may_build.wait(20)
        self.tables_built += 1
        self.builders.add(threading.get_ident())
        return TWINS[kind](ids, weights, table_size, seed)

    def sessions_of(self, pool: str, backend: str) -> int:
        return 0

    def sessions_on(self, listener: str) -> int:
        return 0

    def stats(self, *, pools: bool = True) -> Stats:
        return Stats()

    def pool_stats(self, pool: str) -> PoolStats:
        return PoolStats()

    def times(self, pool: str) -> dict[str, BackendTimes]:
        return {}

    def latency(self, pool: str) -> dict[str, BackendLatency]:
        return {}

    def mark_times(self) -> None: ...

    def addresses(self, listener: str) -> tuple[str, ...]:
        return ()

    def silent_workers(self) -> list[int]:
        return []

    def chown_sockets(self, uid: int, gid: int) -> None: ...

    def socket_files(self) -> list[str]:
        return []

    def forget_prepared(self) -> None: ...

    def refuse_new_clients(self, listeners: Sequence[ListenerSpec]) -> bool:
        return False

    def close(self) -> None: ...


def make(state: State, recorder: Recorder) -> Reconciler:
    return Reconciler(state, recorder, Events())


def test_health_decides_who_is_usable_and_a_return_restores_the_table() -> None:
    config = make_config(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], policy="maglev", table_size=251)
    state, recorder = initial_state(config), Recorder()
    reconciler = make(state, recorder)
    reconciler.reconcile()
    first = state.pools["web"].table_digest
    backend = state.pools["web"].backends["127.0.0.1:2"]
    backend.set_health(Health.DOWN)
    reconciler.reconcile()
    assert state.pools["web"].table_digest != first
    backend.set_health(Health.UP)
    reconciler.reconcile()
    assert state.pools["web"].table_digest == first
    full, without, again = (snapshot.pools[0] for snapshot in recorder.snapshots)
    assert full.selection is Selection.HASH
    assert (full.usable, without.usable, again.usable) == ((0, 1, 2), (0, 2), (0, 1, 2))
    assert set(without.slots) == {0, 1}  # of the usable ones
    assert list(full.slots) == list(again.slots)
    assert [snapshot.version for snapshot in recorder.snapshots] == [1, 2, 3]


def test_a_table_is_built_once_for_the_same_candidates() -> None:
    recorder = Recorder()
    reconciler = make(initial_state(make_config(["127.0.0.1:1"], policy="maglev", table_size=251)), recorder)
    for _ in range(3):
        reconciler.reconcile()
    assert recorder.tables_built == 1


def test_a_burst_of_requests_is_one_snapshot() -> None:
    recorder = Recorder()
    reconciler = make(initial_state(make_config(["127.0.0.1:1"])), recorder)

    async def burst() -> None:
        for _ in range(10):
            reconciler.request()
        while not recorder.snapshots:
            await asyncio.sleep(0)
        await reconciler.stop()

    asyncio.run(burst())
    assert len(recorder.snapshots) == 1


def test_draining_publishes_no_listener() -> None:
    recorder = Recorder()
    state = initial_state(make_config(["127.0.0.1:1"]))
    state.process = ProcessState.DRAINING
    make(state, recorder).reconcile()
    assert recorder.snapshots[0].listeners == ()


def test_equal_input_in_another_order_gives_an_equal_digest() -> None:
    digests = set()
    for order in (["127.0.0.1:1", "127.0.0.1:2"], ["127.0.0.1:2", "127.0.0.1:1"]):
        state = initial_state(make_config(order, policy="maglev", table_size=251))
        make(state, Recorder()).reconcile()
        digests.add(state.pools["web"].table_digest)
    assert len(digests) == 1


TWO = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_tables_are_built_off_the_loop_and_what_changes_meanwhile_is_the_next_snapshots() -> None:
    recorder = Recorder()
    state = initial_state(make_config(TWO, policy="maglev", table_size=251))
    reconciler = make(state, recorder)
    reconciler.reconcile()
    first, second, _ = state.pools["web"].backends.values()

    async def scenario() -> None:
        recorder.builders.clear()
        recorder.may_build.clear()
        first.set_health(Health.DOWN)
        reconciler.request()
        await asyncio.sleep(0.02)  # the loop goes on while the table is not there
        second.set_health(Health.DOWN)
        reconciler.request()
        assert len(recorder.snapshots) == 1
        recorder.may_build.set()
        await until(lambda: len(recorder.snapshots) == 3)
        await reconciler.stop()

    asyncio.run(scenario())
    assert threading.get_ident() not in recorder.builders
    assert [snapshot.pools[0].usable for snapshot in recorder.snapshots] == [(0, 1, 2), (1, 2), (2,)]


def test_what_was_overtaken_while_its_table_was_built_is_not_published() -> None:
    recorder = Recorder()
    state = initial_state(make_config(TWO, policy="maglev", table_size=251))
    reconciler = make(state, recorder)
    reconciler.reconcile()

    async def scenario() -> None:
        recorder.may_build.clear()
        backend = state.pools["web"].backends[TWO[0]]
        backend.set_health(Health.DOWN)
        reconciler.request()
        await asyncio.sleep(0.02)
        backend.set_health(Health.UP)
        state.process = ProcessState.DRAINING
        reconciler.reconcile()
        recorder.may_build.set()
        await until(lambda: recorder.tables_built == 2)
        await reconciler.stop()

    asyncio.run(scenario())
    assert [snapshot.listeners == () for snapshot in recorder.snapshots] == [False, True]
    assert recorder.snapshots[-1].pools[0].usable == (0, 1, 2)


def test_a_backend_that_comes_back_grows_to_its_weight_in_steps() -> None:
    recorder = Recorder()
    state = initial_state(make_config(TWO, slow_start="60ms", health=HealthConfig(initial=Health.UP)))
    reconciler = make(state, recorder)
    backend = state.pools["web"].backends[TWO[1]]

    async def scenario() -> None:
        reconciler.reconcile()
        backend.set_health(Health.DOWN)
        reconciler.request()
        await until(lambda: len(recorder.snapshots) == 2)
        backend.set_health(Health.UP)
        reconciler.request()
        await until(lambda: len(recorder.snapshots) > 2 and backend.effective_weight == 1)
        await reconciler.stop()

    asyncio.run(scenario())
    weights = [snapshot.pools[0].backends[1].weight for snapshot in recorder.snapshots]
    others = {snapshot.pools[0].backends[i].weight for snapshot in recorder.snapshots for i in (0, 2)}
    growth = weights[2:]
    assert growth == sorted(set(growth))
    assert growth[0] < 0.5
    assert growth[-1] == 1
    assert len(growth) > 3
    assert others == {1.0}


def test_a_small_share_is_a_small_part_of_the_cycle() -> None:
    recorder = Recorder()
    state = initial_state(make_config(TWO[:2], slow_start="1000s"))
    for backend in state.pools["web"].backends.values():
        backend.health = Health.UP
    state.pools["web"].backends[TWO[1]].returned_at = 0.0
    lay_out(state.pools["web"], 0, 120.0, recorder)
    assert state.pools["web"].backends[TWO[1]].effective_weight == 0.15


def test_a_change_of_one_pool_touches_no_other() -> None:
    """Of the others not even a view is made: what a change costs does not grow with what does not change."""
    pools = {f"p{number}": Pool(backends=["127.0.0.1:1", "127.0.0.1:2"], policy="maglev") for number in range(5)}
    config = make_config(["127.0.0.1:1"]).model_copy(update={"pools": pools, "listeners": {}})
    state, recorder = initial_state(config), Recorder()
    reconciler = make(state, recorder)

    async def change() -> None:
        reconciler.request()
        await settled(reconciler)
        state.pools["p2"].backends["127.0.0.1:2"].set_health(Health.DOWN)
        state.pools["p3"].backends["127.0.0.1:2"].set_health(Health.DOWN)
        await reconciler.carry_out(["p2"])

    asyncio.run(change())
    first, second = (snapshot.pools for snapshot in recorder.snapshots)
    assert [one is other for one, other in zip(first, second, strict=True)] == [True, True, False, True, True]
    assert recorder.tables_built == 5 + 1


async def settled(reconciler: Reconciler) -> None:
    while not reconciler.settled:
        await asyncio.sleep(0)


def test_who_waits_hears_what_failed_and_what_was_asked_for_is_done_next() -> None:
    class Failing(Recorder):
        fails = True

        def publish(self, snapshot: Snapshot) -> None:
            if self.fails:
                raise OSError("no memory")
            super().publish(snapshot)

    recorder = Failing()
    reconciler = make(initial_state(make_config(["127.0.0.1:1"])), recorder)
    called: list[str] = []

    async def twice() -> None:
        reconciler.request(lambda: called.append("then"))
        with pytest.raises(OSError, match="no memory"):
            await reconciler.carry_out(["web"])
        recorder.fails = False
        await reconciler.carry_out([])

    asyncio.run(twice())
    assert called == ["then"]
    assert len(recorder.snapshots) == 1


def test_the_last_step_of_a_slow_start_is_not_missed_by_a_look_just_before_it() -> None:
    """The clock passes the end of the growth while the step before it is being published."""
    recorder = Recorder()
    state = initial_state(make_config(TWO[:2], slow_start="1s"))
    for one in state.pools["web"].backends.values():
        one.health = Health.UP
    backend = state.pools["web"].backends[TWO[1]]
    backend.returned_at = 0.0
    times = iter([0.94])

    async def scenario() -> None:
        reconciler = Reconciler(state, recorder, Events(), clock=lambda: next(times, 1.5))
        await reconciler.carry_out(["web"])
        assert backend.effective_weight < 1
        await until(lambda: backend.effective_weight == 1)
        await reconciler.stop()

    asyncio.run(scenario())
