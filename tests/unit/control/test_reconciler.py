"""State in, snapshot out: what changes publishes, and tables are built only when they must be."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence

from l4lb.control.events import Events
from l4lb.control.reconciler import Reconciler
from l4lb.control.state import State, initial_state
from l4lb.model.snapshot import Selection, Snapshot, TableKind
from l4lb.model.states import Health, ProcessState
from l4lb.model.stats import Stats
from tests.support.balancing import make_config
from tests.support.tables import TWINS


class Recorder:
    """A forwarder that keeps what is published; what moves bytes is tested elsewhere."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self.tables_built = 0

    def start(self) -> None: ...

    def publish(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    def build_table(
        self, kind: TableKind, ids: Sequence[str], weights: Sequence[float], table_size: int, seed: int
    ) -> array[int]:
        self.tables_built += 1
        return TWINS[kind](ids, weights, table_size, seed)

    def stats(self) -> Stats:
        return Stats()

    def addresses(self, listener: str) -> tuple[str, ...]:
        return ()

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
