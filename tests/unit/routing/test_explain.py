from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb._native.snapshots import SELECTIONS
from l4lb.model.snapshot import HashKey, Selection
from l4lb.routing.candidates import Tier
from l4lb.routing.explain import (
    Candidate,
    Choice,
    Explained,
    explain_hash,
    explain_selection,
    explain_tiers,
    hash_of,
)

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")


def ids(choice: Choice) -> str:
    return "".join(one.id for one in choice.order)


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(0, 2**64 - 1), st.randoms(use_true_random=False)
)
def test_the_order_is_what_workers_ask_when_one_after_another_is_full(limits: list[int], hashed: int, draw) -> None:
    """Workers pick until nothing is left: each backend is chosen as often as it has places, in the explained order."""
    count = len(limits)
    slots = [draw.randrange(count) for _ in range(13)]
    limits = [limit or 1 for limit in limits]
    pool = probe.Pool(SELECTIONS["hash"], [(1, limit) for limit in limits], list(range(count)), slots)
    candidates = [Candidate(str(index), 1) for index in range(count)]
    order = [int(one.id) for one in explain_hash(candidates, slots, hashed).order]
    assert sorted(order) == list(range(count))
    picked = [pool.pick(hashed) for _ in range(sum(limits))]
    assert picked == [index for index in order for _ in range(limits[index])]
    assert pool.pick(hashed) is None


def test_a_full_one_is_not_chosen_and_still_in_the_order() -> None:
    candidates = [Candidate("a", 1, sessions=5, limit=5), Candidate("b", 1)]
    choice = explain_hash(candidates, [0, 0, 0], 1)
    assert (choice.chosen, ids(choice), choice.slot) == ("b", "ab", 1)
    assert explain_hash([], [], 1).chosen == ""


def test_policies_that_do_not_look_at_the_client() -> None:
    candidates = [Candidate("a", 1, sessions=3), Candidate("b", 4, sessions=4), Candidate("c", 1, 1, 1)]
    least = explain_selection(Selection.LEAST_SESSIONS, candidates)
    assert (least.chosen, ids(least)) == ("b", "bca")
    assert explain_selection(Selection.FIRST, candidates).chosen == "a"
    for selection in (Selection.CURSOR, Selection.HASH, Selection.TWO_CHOICES, Selection.PEAK_EWMA):
        assert explain_selection(selection, candidates).chosen == ""


@pytest.mark.parametrize("key", [HashKey.DESTINATION, HashKey.SESSION])
def test_a_key_that_needs_the_destination_says_so(key: HashKey) -> None:
    options = {"seed": 0, "prefix_v4": 32, "prefix_v6": 128}
    with pytest.raises(ValueError, match="say which address"):
        hash_of(key, ("192.0.2.1", 1), None, **options)
    assert hash_of(key, ("192.0.2.1", 1), ("192.0.2.2", 2), **options)


def test_a_connection_id_is_not_known_from_an_address() -> None:
    with pytest.raises(ValueError, match='"quic_cid": the connection id in its packets decides'):
        hash_of(HashKey.QUIC_CID, ("192.0.2.1", 1), ("192.0.2.2", 2), seed=0, prefix_v4=32, prefix_v6=128)


def test_the_bound_gives_way_when_nobody_below_it_has_a_place() -> None:
    at_its_bound = Candidate("a", 1, sessions=3, limit=3)
    full = Candidate("b", 1, sessions=1, limit=1, max_sessions=1)
    assert explain_hash([at_its_bound, full], [1, 1, 1], 0).chosen == "a"
    assert explain_hash([full], [0], 0).chosen == ""


def tiers_of(*tiers: list[Candidate], reasons: list[str] | None = None) -> Explained:
    choices = [(Tier((), number), explain_selection(Selection.FIRST, tier)) for number, tier in enumerate(tiers)]
    return explain_tiers(choices, lambda tier: reasons or [])


FULL = [Candidate(name, 1, sessions=5, limit=5, max_sessions=5) for name in "abcd"]
FREE = Candidate("z", 1)


def test_the_first_tier_with_a_place_and_why_not_an_earlier_one() -> None:
    said = tiers_of([FREE], FULL)
    assert (str(said.tier), said.choice.chosen, said.why) == ("priority 0", "z", "")
    said = tiers_of(FULL[:1], [FREE])
    assert (str(said.tier), said.choice.chosen) == ("priority 1", "z")
    assert said.why == "a is full (max_sessions 5), so priority 1"
    assert [(str(tier), one.id) for tier, one in said.order] == [("priority 0", "a"), ("priority 1", "z")]
    said = tiers_of(FULL[:1], [FREE], reasons=["y: health down"])
    assert said.why == "a is full (max_sessions 5), y: health down, so priority 1"
    assert tiers_of(FULL, FULL, [FREE]).why == (
        "a is full (max_sessions 5), b is full (max_sessions 5), c is full (max_sessions 5), and 5 more, so priority 2"
    )


def test_no_tier_when_all_are_full_or_there_is_none() -> None:
    said = tiers_of(FULL, FULL)
    assert (said.tier, said.choice.chosen, said.why) == (None, "", "every usable backend is at max_sessions")
    assert (tiers_of([]).tier, tiers_of([]).why) == (None, "")
