"""The table of UDP clients against a dict, clients that collide among them, and the order of their last use."""

from __future__ import annotations

import random

import pytest

probe = pytest.importorskip("_l4lb_probe_worker", reason="the probe modules are not built (L4LB_PROBE=1)")
NORMAL = 0  # close_reason_t


def client(chance: random.Random, among: int) -> tuple[bytes, int]:
    return bytes([10, 0, chance.randrange(among), 1]), 1000 + chance.randrange(20)


@pytest.mark.parametrize("spread", [1, 3, 2**32])
def test_what_is_there_is_found_and_nothing_else(spread: int) -> None:
    """`spread`: how many different hashes there are: 1, and all are in one run."""
    plane = probe.Plane()
    chance = random.Random(spread)
    there: dict[tuple[bytes, int], int] = {}

    def hash_of(one: tuple[bytes, int]) -> int | None:
        return None if spread == 2**32 else 1020 + hash(one) % spread  # at the end of the table: it wraps

    for _ in range(2000 if spread < 2**32 else 20_000):
        one = client(chance, 8 if spread < 2**32 else 250)
        assert plane.find(*one, hash_of(one)) == there.get(one)
        if one in there and chance.random() < 0.5:
            plane.end(0, there.pop(one), NORMAL)
        elif one not in there:
            there[one] = plane.flow(*one, hash_of(one))
        assert plane.flow_count() == len(there)
    assert all(plane.find(*one, hash_of(one)) == index for one, index in there.items())


def test_it_grows() -> None:
    plane = probe.Plane()
    clients = [(bytes([10, number >> 16, number >> 8 & 255, number & 255]), 53) for number in range(5000)]
    indices = [plane.flow(*one) for one in clients]
    assert [plane.find(*one) for one in clients] == indices


def test_the_idlest_is_the_one_whose_last_use_is_the_longest_ago() -> None:
    plane = probe.Plane()
    chance = random.Random(9)
    plane.set_now(1000)
    order: list[int] = []
    for number in range(20):
        plane.set_now(1001 + number)
        order.append(plane.flow(bytes([10, 0, 0, number]), 53))
    for now in range(1100, 1600):
        plane.set_now(now)
        one = chance.choice(order)
        plane.used(one)
        order.remove(one)
        order.append(one)
        assert plane.idlest() == order[0]
    while order:
        plane.end(0, order.pop(0), NORMAL)
        assert plane.idlest() == (order[0] if order else None)
    assert plane.counts()[:5] == (0, 0, 0, 0, 0)
