"""What a node has once it has merged the bans in etcd with its own; and what others may write there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from l4lb.control.fleet.shared_bans import SHARED_MAX, ban_key, ban_value, merged, parse_ban, unshared
from l4lb.control.state.bans import Bans
from l4lb.model.bans import Ban

NET = "192.0.2.0/24"
NOW = 1000.0


def bans(*some: Ban) -> Bans:
    return Bans({(one.network, one.listener): one for one in some})


def shared(*some: Ban) -> dict[tuple[str, str], Ban]:
    return {(one.network, one.listener): one for one in some}


def merge(own: Bans, there: dict[tuple[str, str], Ban], leaving: Any = (), listeners: Any = ("web",)) -> Bans:
    return merged(own, there, leaving, listeners, NOW)


HERE = Ban(NET, since=10.0)
THERE = Ban(NET, since=5.0, reason="there", shared=True)


def test_what_is_made_here_stays_until_etcd_has_it_and_goes_when_etcd_no_longer_does() -> None:
    own = bans(HERE)
    assert merge(own, {}) is own
    assert unshared(own, NOW) == [HERE]
    taken = merge(own, shared(Ban(NET, since=10.0, shared=True)))
    assert [one.shared for one in taken] == [True]
    assert unshared(taken, NOW) == []
    assert list(merge(taken, {})) == []


def test_of_two_bans_the_later_one_holds() -> None:
    assert list(merge(bans(HERE), shared(THERE))) == [HERE]
    later = Ban(NET, since=11.0, shared=True)
    assert list(merge(bans(HERE), shared(later))) == [later]
    changed = Ban(NET, since=1.0, until=2000.0, shared=True)
    assert list(merge(bans(THERE), shared(changed))) == [changed], "what etcd had is as etcd has it now"


def test_what_was_removed_here_does_not_come_back() -> None:
    assert list(merge(Bans(), shared(THERE), leaving={(NET, "")})) == []


def test_what_is_over_or_of_no_listener_here_is_not_taken() -> None:
    over, elsewhere = Ban(NET, until=NOW, shared=True), Ban(NET, "other", shared=True)
    web = Ban(NET, "web", shared=True)
    assert list(merge(Bans(), shared(over, elsewhere, web))) == [web]
    assert unshared(bans(Ban(NET, until=NOW)), NOW) == []


def test_equal_bans_change_nothing() -> None:
    own = bans(THERE)
    assert merge(own, shared(THERE)) is own


@pytest.mark.parametrize("ban", [Ban(NET, "", 2000.5, "why", 10.25), Ban("2001:db8::/32", "web.8", 0.0, "", 1.0)])
def test_what_is_written_is_read_again(ban: Ban) -> None:
    found = parse_ban(ban_key(ban), ban_value(ban))
    assert (found.network, found.listener, found.until, found.reason) == (
        ban.network, ban.listener, ban.until, ban.reason,
    )  # fmt: skip
    assert found.shared


GOOD = {"until": 0.0, "reason": "", "since": 1.0}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bans/192.0.2.1/24", GOOD, "bits set beyond"),
        ("bans/", GOOD, "expected an address or a network"),
        ("bans/nonsense", GOOD, "expected an address or a network"),
        ("bans/192.0.2.1", GOOD, 'expected the network in the form "192.0.2.1/32"'),
        (f"bans/{NET}", {**GOOD, "until": -1.0}, "until: expected seconds from 1970 on"),
        (f"bans/{NET}", {**GOOD, "since": float("nan")}, "since: "),
        (f"bans/{NET}", {**GOOD, "until": float("inf")}, "until: "),
        (f"bans/{NET}", {**GOOD, "until": "soon"}, "until: "),
        (f"bans/{NET}", {**GOOD, "reason": "two\nlines"}, "reason: expected one line"),
        (f"bans/{NET}", {**GOOD, "reason": "x" * 256}, "reason: expected one line"),
        (f"bans/{NET}", {"until": 0.0}, "Field required"),
        (f"bans/{NET}", [], "should be"),
        (f"bans/{NET}", {**GOOD, "more": "x" * 5000}, "larger than 4096 bytes"),
    ],
)
def test_hostile_values_are_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_ban(key, json.dumps(value).encode())


def test_ten_thousand_are_merged_at_once() -> None:
    many = shared(*(Ban(f"10.{n >> 8}.{n & 255}.0/24", since=1.0, shared=True) for n in range(SHARED_MAX)))
    assert len(merge(Bans(), many)) == SHARED_MAX
