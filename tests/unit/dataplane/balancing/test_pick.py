"""The choice among a pool's backends, as workers make it."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb._native.snapshots import HASH_KEYS, SELECTIONS
from l4lb.model.snapshot import HashKey
from l4lb.routing.hashing import TCP, UDP, client_hash

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")

POOLS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=8)


def make_pool(selection: str, backends: list[tuple[int, int]], usable: list[int] | None = None):
    usable = list(range(len(backends))) if usable is None else usable
    slots = list(range(len(usable))) * 3 if selection != "least_sessions" else []
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


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).filter(
    lambda ip: ip.version == 4 or ip.ipv4_mapped is None  # the accept turns those into IPv4
)
ENDPOINTS = st.tuples(ADDRESSES, st.integers(0, 65535))


@given(
    st.sampled_from([key for key in HashKey if key is not HashKey.RANDOM]),
    ENDPOINTS, ENDPOINTS, st.integers(0, 2**63 - 1), st.integers(0, 32), st.integers(0, 128),
)  # fmt: skip
def test_what_a_client_hashes_to_is_what_python_says(key, source, destination, seed, prefix_v4, prefix_v6) -> None:
    pool = make_pool("hash", [(1, 0)])
    native = [(ip.packed, port.to_bytes(2, "big")) for ip, port in (source, destination)]
    texts = [(str(ip), port) for ip, port in (source, destination)]
    for protocol in (TCP, UDP):
        expected = client_hash(key, *texts, seed=seed, prefix_v4=prefix_v4, prefix_v6=prefix_v6, protocol=protocol)
        assert pool.hash(HASH_KEYS[key], *native, seed, prefix_v4, prefix_v6, protocol) == expected


@given(st.binary(min_size=1, max_size=255), ENDPOINTS, st.integers(0, 2**63 - 1))
def test_what_a_connection_id_hashes_to_is_what_python_says(connection_id: bytes, source, seed: int) -> None:
    address = str(source[0]), source[1]
    expected = client_hash(HashKey.QUIC_CID, address, address, seed=seed, connection_id=connection_id)
    assert make_pool("hash", [(1, 0)]).connection_hash(connection_id, seed) == expected


def test_a_client_resumes_where_it_has_begun_if_there_is_a_place_whatever_the_others_do() -> None:
    pool = probe.Pool(SELECTIONS["hash"], [(1, 2), (0, 0), (1, 0)], [2], [0], 1.25)
    assert [pool.resume(0, True) for _ in range(3)] == [0, 0, None]  # not usable, and never above max_sessions
    assert [pool.resume(1, True) for _ in range(3)] == [1, 1, 1]  # of weight 0, and bounded_load does not count
    assert pool.resume(1, False) is None
    assert pool.resume(7, True) is None  # of another pool, or gone
    assert pool.active() == [2, 3, 0]


def test_first_fills_in_order() -> None:
    pool = make_pool("first", [(1, 2), (1, 1), (1, 0)], usable=[2, 0, 1])
    assert [pool.pick() for _ in range(3)] == [2, 2, 2]
    pool = make_pool("first", [(1, 2), (1, 1), (1, 0)], usable=[1, 0, 2])
    assert [pool.pick() for _ in range(5)] == [1, 0, 0, 2, 2]
    pool.release(1)
    assert pool.pick() == 1


def test_two_choices_are_far_more_even_than_one() -> None:
    """Mitzenmacher 2001: the fullest of n after n * m draws is m + O(log log n) above, not m + O(sqrt(m log n))."""
    draw, count = random.Random(5), 50
    spreads = {}
    for selection in ("hash", "two_choices"):
        pool = make_pool(selection, [(1, 0)] * count)
        for _ in range(count * 100):
            pool.pick(draw.getrandbits(64))
        spreads[selection] = max(pool.active()) - 100
    assert spreads["two_choices"] <= 5
    assert spreads["hash"] >= 15


def test_two_choices_go_by_weight() -> None:
    draw = random.Random(6)
    pool = probe.Pool(SELECTIONS["two_choices"], [(1, 0), (3, 0)], [0, 1], [0, 1, 1, 1])
    for _ in range(4000):
        pool.pick(draw.getrandbits(64))
    assert pool.active()[0] == pytest.approx(1000, abs=5)


# ---- tiers ----


def tiered(selection: str, backends: list[tuple[int, int]], tiers: list[list[int]], bounded_load: float = 0):
    def slots(tier: list[int]) -> list[int]:
        return list(range(len(tier))) * 3 if selection != "least_sessions" else []

    first, *further = tiers
    return probe.Pool(
        SELECTIONS[selection], backends, first, slots(first), bounded_load, [(tier, slots(tier)) for tier in further]
    )


@given(st.sampled_from(sorted(SELECTIONS)), POOLS, st.sampled_from([0, 1.25]), st.integers(0, 2**32))
def test_the_first_tier_with_a_place_that_did_not_refuse_serves(
    selection: str, backends: list, bounded_load: float, seed: int
) -> None:
    draw = random.Random(seed)
    levels = [draw.randrange(3) for _ in backends]
    tiers = [[i for i, level in enumerate(levels) if level == wanted] for wanted in sorted(set(levels))]
    pool = tiered(selection, backends, tiers, bounded_load)
    for client in range(30):
        tried = {index for index in range(len(backends)) if draw.random() < 0.3}
        active = pool.active()
        free = [
            [i for i in tier if i not in tried and (backends[i][1] == 0 or active[i] < backends[i][1])]
            for tier in tiers
        ]
        expected = next((tier for tier in free if tier), [None])
        assert pool.pick(client * 7919, tuple(tried)) in expected


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("selection", ["cursor", "least_sessions"])
def test_those_of_a_later_tier_take_turns_whatever_the_earlier_ones_are(selection: str, count: int) -> None:
    """A cursor that tiers share would skip: each session moves it in the full tier too."""
    full, spare = list(range(count)), [count, count + 1]
    pool = tiered(selection, [(1, 1)] * count + [(1, 0)] * 2, [full, spare])
    assert sorted(pool.pick() for _ in range(count)) == full
    for _ in range(10):
        assert {pool.pick(), pool.pick()} == set(spare)


def test_tiers_beyond_those_with_a_cursor_of_their_own_serve_too() -> None:
    pool = tiered("cursor", [(1, 1)] * 20, [[index] for index in range(20)])
    assert [pool.pick() for _ in range(21)] == [*range(20), None]


def test_bounded_load_spreads_a_tier_by_what_that_tier_has_and_sends_nobody_to_the_next() -> None:
    pool = tiered("hash", [(1, 0)] * 2 + [(1, 0)] * 4, [[0, 1], [2, 3, 4, 5]], bounded_load=1.25)
    for _ in range(100):
        pool.pick(0)
    assert sorted(pool.active()) == [0, 0, 0, 0, 37, 63]  # ceil(1.25 * 100 / 2)
    for _ in range(8):
        pool.pick(0, tried=(0, 1))
    assert max(pool.active()[2:]) == 3  # ceil(1.25 * 8 / 4), not of the 108 that the pool has
