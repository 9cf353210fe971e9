"""Limits by source: exact for sessions, and no number of attackers makes the table forget, refuse or grow too much."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

probe = pytest.importorskip("_l4lb_probe_worker", reason="the probe modules are not built (L4LB_PROBE=1)")
SECOND_NS = 1_000_000_000
SESSIONS, RATE, BANDWIDTH, NONE = range(4)
BY_SESSIONS, BY_RATE, BY_BYTES = range(3)
NOW = 1000 * SECOND_NS
HOST = bytes([192, 0, 2, 1])


def v6(network: int, host: int) -> bytes:
    return network.to_bytes(8, "big") + host.to_bytes(8, "big")


def test_a_source_has_as_many_sessions_as_it_may_and_no_more() -> None:
    sources = probe.Sources(sessions=3)
    sessions = [sources.take(HOST, NOW)[0] for _ in range(3)]
    assert sources.take(HOST, NOW) == (None, SESSIONS)
    sources.give(sessions.pop(), NOW)
    assert sources.take(HOST, NOW)[1] == NONE
    assert sources.take(HOST, NOW) == (None, SESSIONS)


@pytest.mark.parametrize(
    ("one", "other", "prefixes", "together"),
    [
        (HOST, bytes([192, 0, 2, 2]), {}, False),
        (HOST, bytes([192, 0, 2, 2]), {"prefix_v4": 24}, True),
        (bytes([10, 0, 15, 1]), bytes([10, 0, 8, 1]), {"prefix_v4": 21}, True),
        (bytes([10, 0, 15, 1]), bytes([10, 0, 7, 1]), {"prefix_v4": 21}, False),
        (v6(7, 1), v6(7, 2**64 - 1), {}, True),
        (v6(7, 1), v6(8, 1), {}, False),
        (v6(7, 1), v6(7, 2), {"prefix_v6": 128}, False),
        (v6(6, 1), v6(7, 2), {"prefix_v6": 63}, True),
        (HOST, HOST + bytes(12), {"prefix_v6": 32}, False),
    ],
)
def test_what_a_source_is(one: bytes, other: bytes, prefixes: dict[str, int], together: bool) -> None:
    sources = probe.Sources(sessions=1, **prefixes)
    assert sources.take(one, NOW)[1] == NONE
    assert sources.take(other, NOW)[1] == (SESSIONS if together else NONE)


def test_listeners_and_interfaces_are_apart() -> None:
    sources = probe.Sources(sessions=1)
    near = v6(0xFE80 << 48, 1)
    assert sources.take(near, NOW, scope_id=2)[1] == NONE
    assert sources.take(near, NOW, scope_id=3)[1] == NONE
    assert sources.take(near, NOW, listener=2, scope_id=2)[1] == NONE
    assert sources.take(near, NOW, scope_id=2)[1] == SESSIONS


def test_a_burst_passes_and_then_the_rate() -> None:
    sources = probe.Sources(session_rate=10, burst_ns=SECOND_NS - SECOND_NS // 10)
    took = [sources.take(HOST, NOW) for _ in range(12)]
    assert [over for _, over in took] == [NONE] * 10 + [RATE] * 2
    for session, over in took:
        if over == NONE:
            sources.give(session, NOW)
    later = NOW + SECOND_NS // 10
    assert [sources.take(HOST, later)[1] for _ in range(2)] == [NONE, RATE], "it is remembered without a session"


def test_a_dry_run_counts_and_refuses_nothing() -> None:
    sources = probe.Sources(sessions=1, session_rate=5, dry_run=True)
    took = [sources.take(HOST, NOW) for _ in range(20)]
    assert [over for _, over in took] == [NONE] + [SESSIONS] * 19
    assert all(session is not None for session, _ in took)
    [(_, sessions, total, _, limited, *_)] = sources.heaviest(BY_SESSIONS, 10, NOW)[1]
    assert (sessions, total, limited) == (20, 20, 19)
    for session, _ in took:
        sources.give(session, NOW)
    assert sources.take(HOST, NOW + SECOND_NS)[1] == NONE


def test_a_session_from_another_process_counts_and_is_not_refused() -> None:
    sources = probe.Sources(sessions=1)
    before = [sources.take(HOST, NOW, anyway=True)[0] for _ in range(3)]
    assert sources.take(HOST, NOW) == (None, SESSIONS)
    for session in before:
        sources.give(session, NOW)
    assert sources.take(HOST, NOW)[1] == NONE


def test_a_million_sources_neither_blind_the_limits_nor_fill_the_memory() -> None:
    """An attacker has a million networks and uses each once, 100,000 a second. All the while one source is over its
    rate, one has as many sessions as it may, and new innocents come."""
    sources = probe.Sources(sessions=4, session_rate=2, burst_ns=SECOND_NS // 2)
    busy = [sources.take(v6(1, 0), NOW)[0] for _ in range(2)]
    greedy = [sources.take(v6(2, 0), NOW + i * SECOND_NS)[0] for i in range(4)]
    for session in busy:
        sources.give(session, NOW)
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    now, admitted = NOW + 4 * SECOND_NS, 0
    for step in range(1000):
        first = 1_000_000 + step * 1000
        assert sources.pass_by(first, 1000, now, 10_000) == 0, "a new source is never refused for want of room"
        now += 10_000_000
        session, over = sources.take(v6(1, 0), now)
        if over == NONE:
            admitted += 1
            sources.give(session, now)
        assert sources.take(v6(2, 0), now) == (None, SESSIONS), "it has four sessions"
        known, idle = sources.known()
        assert idle <= probe.SOURCES_REMEMBERED
        assert known <= idle + 1
    assert admitted <= 10 * 2 + 2, "two a second, for ten seconds"
    assert admitted >= 18
    assert sources.heap_is_sound()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began) * 1024
    assert grown < 3 * probe.SOURCES_REMEMBERED * probe.SOURCE_BYTES
    for session in greedy:
        sources.give(session, now)


def test_who_owes_the_most_is_forgotten_last() -> None:
    """More sources than are remembered, all of which owe; one of them the most, and it came first."""
    sources = probe.Sources(session_rate=1, burst_ns=20 * SECOND_NS)
    for session in [sources.take(HOST, NOW)[0] for _ in range(21)]:
        sources.give(session, NOW)
    assert sources.pass_by(1, 3 * probe.SOURCES_REMEMBERED, NOW, 0) == 0
    assert sources.known() == (probe.SOURCES_REMEMBERED, probe.SOURCES_REMEMBERED)
    assert sources.take(HOST, NOW) == (None, RATE)


def test_the_table_shrinks_when_it_is_calm_again() -> None:
    sources = probe.Sources(session_rate=1000)
    sources.pass_by(1, 50_000, NOW, 0)
    assert sources.known()[0] > 40_000
    sources.pass_by(1_000_000, 50_000, NOW + 2 * probe.RECENT_NS, 0)
    sources.pass_by(2_000_000, 20_000, NOW + 4 * probe.RECENT_NS, 0)
    assert sources.known()[0] < 45_000


def test_the_heaviest_by_sessions_rate_and_bytes() -> None:
    sources = probe.Sources(sessions=1000)
    for number, count in ((1, 3), (2, 9), (3, 5)):
        for _ in range(count):
            session, _ = sources.take(bytes([10, 0, 0, number]), NOW)
        sources.move(session, 0, 100 * number)
        sources.move(session, 1, 1)
    for _ in range(50):
        sources.give(sources.take(bytes([10, 0, 0, 1]), NOW)[0], NOW)

    def order(by: int, limit: int = 10, listener: int = 0) -> list[int]:
        return [one[0][3] for one in sources.heaviest(by, limit, NOW, listener)[1]]

    assert order(BY_SESSIONS) == [2, 3, 1]
    assert order(BY_RATE) == [1, 2, 3]
    assert order(BY_BYTES) == [3, 2, 1]
    assert order(BY_SESSIONS, 2) == [2, 3]
    assert sources.heaviest(BY_SESSIONS, 2, NOW)[0] == 3
    assert sources.heaviest(BY_SESSIONS, 0, NOW) == (3, [])
    assert order(BY_SESSIONS, 10, listener=2) == []
    _, [(_, sessions, total, recent, limited, up, down)] = sources.heaviest(BY_BYTES, 1, NOW + probe.RECENT_NS)
    assert (sessions, total, limited, up, down) == (5, 5, 0, 300, 1)
    assert recent == pytest.approx(5 / 2.71828, rel=1e-3)


def test_who_has_no_session_is_shown_for_a_while() -> None:
    sources = probe.Sources(sessions=5)
    sources.give(sources.take(HOST, NOW)[0], NOW)
    assert sources.heaviest(BY_SESSIONS, 5, NOW + probe.RECENT_NS - 1)[0] == 1
    assert sources.heaviest(BY_SESSIONS, 5, NOW + probe.RECENT_NS)[0] == 0


@given(
    steps=st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, SECOND_NS)), max_size=200),
    limit=st.integers(1, 4),
)
def test_counts_are_those_of_a_model(steps: list[tuple[int, bool, int]], limit: int) -> None:
    sources = probe.Sources(sessions=limit)
    there: dict[int, list[int]] = {}
    now = NOW
    for number, takes, passed_ns in steps:
        now += passed_ns
        held = there.setdefault(number, [])
        if takes:
            session, over = sources.take(bytes([10, 0, 0, number]), now)
            assert (over == SESSIONS) == (len(held) >= limit)
            if session is not None:
                held.append(session)
        elif held:
            sources.give(held.pop(), now)
        assert sources.heap_is_sound()
        known, idle = sources.known()
        assert known - idle == sum(map(bool, there.values()))
    shown = {one[0][3]: one[1] for one in sources.heaviest(BY_SESSIONS, 10, now)[1] if one[1]}
    assert shown == {number: len(held) for number, held in there.items() if held}
