"""The bans that hold: what they refuse together, when they are over, and how they are saved."""

from __future__ import annotations

import ipaddress
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb.control.state.bans import BANS_MAX, EVERYWHERE, Bans, network_of, restored, saved
from l4lb.errors import ChangeError
from l4lb.model.bans import Ban


def bans(*some: Ban) -> Bans:
    return Bans({(one.network, one.listener): one for one in some})


def refused(ranges: bytes, address: str) -> bool:
    """By looking at each of the ranges, which must be sorted and apart from each other."""
    ip = ipaddress.ip_address(address)
    number = int(ip) + (0xFFFF << 32 if ip.version == 4 else 0)
    bounds = [int.from_bytes(ranges[at : at + 16], "big") for at in range(0, len(ranges), 16)]
    assert bounds == sorted(bounds)
    pairs = list(zip(bounds[::2], bounds[1::2], strict=True))
    assert all(one[1] + 1 < other[0] for one, other in itertools.pairwise(pairs))
    return any(first <= number <= last for first, last in pairs)


@pytest.mark.parametrize(
    ("networks", "address", "expected"),
    [
        ([], "192.0.2.1", False),
        (["192.0.2.1/32"], "192.0.2.1", True),
        (["192.0.2.1/32"], "192.0.2.2", False),
        (["0.0.0.0/0"], "255.255.255.255", True),
        (["0.0.0.0/0"], "::1", False),
        (["::/0"], "::1", True),
        (["::/0"], "ffff::1", True),
        (["::/0"], "192.0.2.1", False),
        (["::/80"], "192.0.2.1", False),
        (["10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8"], "11.255.0.0", True),
        (["10.1.0.0/16", "10.0.0.0/8"], "10.2.0.0", True),
    ],
)
def test_a_client_is_refused_when_a_network_holds_it(networks: list[str], address: str, expected: bool) -> None:
    assert refused(bans(*map(Ban, networks)).ranges()[EVERYWHERE], address) is expected


NETWORKS = st.one_of(
    st.builds(lambda a, p: str(ipaddress.ip_network((a, p), strict=False)), st.integers(0, 2**10), st.integers(20, 32)),
    st.builds(
        lambda a, p: str(ipaddress.ip_network((ipaddress.IPv6Address(a), p), strict=False)),
        st.integers(0, 2**50),
        st.integers(70, 128),
    ).map(network_of),
)


@given(st.lists(NETWORKS, max_size=8), NETWORKS)
def test_the_ranges_are_what_the_networks_say(networks: list[str], probe: str) -> None:
    parsed = [ipaddress.ip_network(one) for one in networks]
    ranges = bans(*map(Ban, networks)).ranges()[EVERYWHERE]
    for address in (ipaddress.ip_network(probe)[0], ipaddress.ip_network(probe)[-1]):
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            continue
        expected = any(one.version == address.version and address in one for one in parsed)
        assert refused(ranges, str(address)) is expected


def test_a_ban_of_one_listener_is_added_to_those_of_all() -> None:
    ranges = bans(Ban("192.0.2.1/32"), Ban("192.0.2.9/32", "web")).ranges()
    assert ranges.keys() == {EVERYWHERE, "web"}
    assert refused(ranges["web"], "192.0.2.1")
    assert refused(ranges["web"], "192.0.2.9")
    assert not refused(ranges[EVERYWHERE], "192.0.2.9")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", "192.0.2.1/32"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("2001:DB8::0/32", "2001:db8::/32"),
    ],
)
def test_a_network_is_written_in_one_way(text: str, expected: str) -> None:
    assert network_of(text) == expected


@pytest.mark.parametrize("text", ["", "example.com", "192.0.2.1:80", "192.0.2.1/24", "fe80::1%eth0", "1/2/3"])
def test_what_is_no_network_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|did you mean"):
        network_of(text)


def test_bans_end_at_their_time() -> None:
    held = bans(Ban("192.0.2.1/32", until=10.0), Ban("192.0.2.2/32"), Ban("192.0.2.3/32", until=20.0))
    assert held.ends_next() == 10.0
    assert held.at(9.9) is held
    assert [one.network for one in held.at(10.0)] == ["192.0.2.2/32", "192.0.2.3/32"]
    assert bans(Ban("192.0.2.2/32")).ends_next() is None


def test_there_may_not_be_too_many() -> None:
    held = Bans({(f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}/32", ""): Ban("x") for at in range(BANS_MAX)})
    with pytest.raises(ChangeError, match="no more are kept"):
        held.with_ban(Ban("192.0.2.1/32"))
    assert len(held.with_ban(Ban("10.0.0.1/32", reason="again"))) == BANS_MAX


def test_what_is_saved_is_restored() -> None:
    held = bans(Ban("192.0.2.1/32", "web", 10.5, "slow", 1.5), Ban("2001:db8::/32"))
    assert restored(json.loads(json.dumps(saved(held)))) == held


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, "bans: Input should be a valid list"),
        ([1], r"bans\.0"),
        ([{}], r"bans\.0\.network"),
        ([{"network": "x"}], r"bans\.0\.network: expected an address"),
        ([{"network": "192.0.2.1"}], r'bans\.0\.network: expected "192\.0\.2\.1/32"'),
        ([{"network": "192.0.2.1/32", "until": float("nan")}], r"bans\.0\.until"),
        ([{"network": "192.0.2.1/32", "until": -1}], r"bans\.0\.until"),
        ([{"network": "192.0.2.1/32", "until": "soon"}], r"bans\.0\.until"),
        ([{"network": "192.0.2.1/32", "more": 1}], r"bans\.0\.more"),
    ],
)
def test_what_was_not_saved_is_an_error_with_its_place(said: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        restored(said)
