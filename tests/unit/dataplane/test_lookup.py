"""The choice among a pool's backends, as workers make it."""

from __future__ import annotations

import ipaddress
import threading
from collections import Counter

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from l4lb._fastpath import SELECTIONS

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")

POOLS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=8)


def make_pool(selection: str, backends: list[tuple[int, int]], usable: list[int] | None = None):
    usable = list(range(len(backends))) if usable is None else usable
    slots = usable * 3 if selection != "least_sessions" else []
    return probe.Pool(SELECTIONS[selection], backends, usable, slots)


@given(st.sampled_from(sorted(SELECTIONS)), POOLS, st.data())
def test_only_usable_backends_with_a_place_that_did_not_refuse(selection: str, backends: list, data) -> None:
    indices = range(len(backends))
    usable = data.draw(st.lists(st.sampled_from(indices), unique=True))
    tried = data.draw(st.sets(st.sampled_from(indices)))
    pool = make_pool(selection, backends, usable)
    for client in range(30):
        chosen = pool.pick(client * 7919, tuple(tried))
        active = pool.active()
        free = [i for i in usable if i not in tried and (backends[i][1] == 0 or active[i] < backends[i][1])]
        if chosen is None:
            assert free == []
        else:
            assert chosen in usable
            assert chosen not in tried
        assert all(limit == 0 or count <= limit for (_, limit), count in zip(backends, active, strict=True))


def test_round_robin_takes_turns() -> None:
    pool = make_pool("cursor", [(1, 0)] * 3)
    assert [pool.pick() for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_hash_is_faithful_and_probes_elsewhere_when_refused() -> None:
    pool = probe.Pool(SELECTIONS["hash"], [(1, 0)] * 5, list(range(5)), list(range(5)))
    chosen = {pool.pick(42) for _ in range(10)}
    assert chosen == {42 % 5}
    elsewhere = Counter(pool.pick(42 + 5 * n, tried=(2,)) for n in range(1000))
    assert set(elsewhere) == {0, 1, 3, 4}
    assert max(elsewhere.values()) < 400  # spread over the others, not all on one neighbour


@given(st.lists(st.integers(1, 10), min_size=2, max_size=6))
def test_least_sessions_follows_the_weights(weights: list[int]) -> None:
    pool = make_pool("least_sessions", [(weight, 0) for weight in weights])
    total = 10 * sum(weights)
    for _ in range(total):
        pool.pick()
    for count, weight in zip(pool.active(), weights, strict=True):
        assert abs(count - 10 * weight) <= 1


def test_a_limit_holds_and_least_sessions_is_exact_under_concurrent_picks() -> None:
    pool = make_pool("least_sessions", [(1, 500), (1, 500), (1, 500)])
    picked: list[int | None] = []

    def take() -> None:
        picked.extend(pool.pick() for _ in range(400))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.active() == [500, 500, 500]
    assert picked.count(None) == 100


@pytest.mark.parametrize(
    ("address", "prefix_v4", "prefix_v6", "network"),
    [
        ("192.0.2.77", 32, 128, "192.0.2.77"),
        ("192.0.2.77", 24, 128, "192.0.2.0"),
        ("192.0.2.77", 27, 128, "192.0.2.64"),
        ("192.0.2.77", 0, 128, "0.0.0.0"),
        ("2001:db8:1:2:3:4:5:6", 32, 64, "2001:db8:1:2::"),
        ("2001:db8:1:2:3:4:5:6", 32, 49, "2001:db8:1::"),
    ],
)
def test_source_hash_is_xxh64_of_the_masked_address(address: str, prefix_v4: int, prefix_v6: int, network: str) -> None:
    pool = make_pool("hash", [(1, 0)])
    native = pool.hash(ipaddress.ip_address(address).packed, 7, prefix_v4, prefix_v6)
    assert native == xxhash.xxh64_intdigest(ipaddress.ip_address(network).packed, seed=7)
