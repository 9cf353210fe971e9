"""The native parts by themselves: choosing, building a table, publishing a snapshot."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from l4lb._native.snapshots import SELECTIONS
from l4lb.engine.native import NativeForwarder
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import BackendSpec, ListenerSpec, PoolSpec, Selection, Snapshot, TableKind
from l4lb.routing.ring import points_of
from tests.support.tables import native_table

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")
PICKS = 100_000


@pytest.mark.parametrize("selection", ["cursor", "hash", "least_sessions"])
def test_pick(benchmark: BenchmarkFixture, selection: str) -> None:
    """100,000 picks, each given back, among 100 backends with a table of 65,537 slots."""
    count = 100
    slots = list(native_table(TableKind.MAGLEV, [str(i) for i in range(count)], [1] * count, 65537, 0))
    pool = probe.Pool(SELECTIONS[selection], [(1, 0)] * count, list(range(count)), slots)
    benchmark(pool.pick_and_release, PICKS)
    benchmark.extra_info["ns a pick"] = benchmark.stats.stats.median / PICKS * 1e9


@pytest.mark.parametrize("table_size", [65537, 655373])
@pytest.mark.parametrize("count", [10, 1000])
@pytest.mark.parametrize("kind", list(TableKind))
def test_table_build(benchmark: BenchmarkFixture, kind: TableKind, count: int, table_size: int) -> None:
    ids = [f"10.0.{i // 250}.{i % 250}:80" for i in range(count)]
    benchmark(native_table, kind, ids, points_of([1] * count) if kind is TableKind.RING else [1] * count, table_size, 0)


@pytest.mark.parametrize("pools", [1, 1000])
def test_publish(benchmark: BenchmarkFixture, pools: int) -> None:
    """From a snapshot in Python to one that the workers see, ten backends a pool."""

    def address(port: int) -> SocketAddress:
        return SocketAddress(2, "127.0.0.1", port)

    backends = tuple(BackendSpec(f"b{i}", address(10_000 + i)) for i in range(10))
    usable = tuple(range(10))
    specs = tuple(PoolSpec(f"p{i}", Selection.CURSOR, backends, usable, usable) for i in range(pools))
    listeners = (ListenerSpec("web", (address(0),), "p0"),)
    forwarder = NativeForwarder(1)
    forwarder.start()
    version = 0

    def publish() -> None:
        nonlocal version
        version += 1
        forwarder.publish(Snapshot(version, specs, listeners))

    try:
        benchmark(publish)
    finally:
        forwarder.close()
