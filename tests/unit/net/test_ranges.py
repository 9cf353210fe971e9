"""Sets of addresses: made of CIDRs here, searched natively, and held to the ipaddress module."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb.net.ranges import Network, packed_ranges, parse_network

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")


def in_native(networks: list[str], address: str) -> bool:
    found: bool
    [found] = probe.ranges_find(packed_ranges(tuple(networks)), [ipaddress.ip_address(address).packed])
    return found


@pytest.mark.parametrize(
    ("networks", "inside", "outside"),
    [
        (["10.0.0.0/8"], ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0", "::", "::a00:1"]),
        (["192.0.2.7"], ["192.0.2.7"], ["192.0.2.6", "192.0.2.8"]),
        (["2001:db8::/32", "::1"], ["2001:db8::", "2001:db8:ffff::", "::1"], ["2001:db7::", "::2", "127.0.0.1"]),
        (["0.0.0.0/0"], ["0.0.0.0", "255.255.255.255"], ["::", "ffff::"]),
        (["::/0"], ["::", "ffff:ffff::", "::1:0:0:0"], ["0.0.0.0", "10.0.0.1", "255.255.255.255"]),
        (["::ffff:10.0.0.0/104"], ["10.0.0.1"], ["11.0.0.1"]),
        (["10.0.0.0/9", "10.128.0.0/9", "10.0.0.0/8"], ["10.127.255.255", "10.128.0.0"], ["11.0.0.0"]),
        ([], [], ["10.0.0.1", "::1"]),
    ],
)
def test_who_is_in(networks: list[str], inside: list[str], outside: list[str]) -> None:
    assert [one for one in inside if not in_native(networks, one)] == []
    assert [one for one in outside if in_native(networks, one)] == []


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None))
networks = st.builds(
    lambda ip, bits: ipaddress.ip_network((ip, bits % (ip.max_prefixlen + 1)), strict=False),
    addresses,
    st.integers(0, 128),
).filter(lambda one: one.version == 4 or not one.overlaps(ipaddress.IPv6Network("::ffff:0:0/96")))


@given(st.lists(networks, max_size=12), addresses)
def test_the_native_search_agrees_with_ipaddress(given: list[Network], address: ipaddress.IPv4Address) -> None:
    wanted = any(address in one for one in given if one.version == address.version)
    assert in_native([str(one) for one in given], str(address)) == wanted
    for one in given:  # the edges, where a search goes wrong
        assert in_native([str(each) for each in given], str(one[0]))
        assert in_native([str(each) for each in given], str(one[-1]))


@pytest.mark.parametrize("count", [1, 15, 16, 17, 255, 256, 257, 4096, 4097])  # nodes have 16 keys
@pytest.mark.parametrize("width", [32, 128])
def test_long_lists(count: int, width: int) -> None:
    make = ipaddress.IPv4Address if width == 32 else ipaddress.IPv6Address
    first = 10 << (width - 8)
    ranges = packed_ranges(tuple(str(make(first + 2 * n)) for n in range(count)))
    sought = [make(first - 1 + n).packed for n in range(2 * count)]
    assert probe.ranges_find(ranges, sought) == [n % 2 == 1 for n in range(2 * count)]
    assert probe.ranges_find(ranges, [bytes(20 - width // 8)]) == [False]


def test_a_range_over_ipv4_and_its_neighbours_has_both() -> None:
    everything = bytes(16) + b"\xff" * 16  # as `l4lb.net.access` joins what meets
    sought = ["0.0.0.0", "255.255.255.255", "::ffff:10.0.0.1", "::", "::fffe:ffff:ffff", "::1:0:0:0", "ffff::"]
    assert probe.ranges_find(everything, [ipaddress.ip_address(one).packed for one in sought]) == [True] * len(sought)


@pytest.mark.parametrize("text", ["", "lan", "10.0.0.0/33", "1.2.3", "::1%eth0/64", "10.0.0.0/8/8"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match="expected an address or a network"):
        parse_network(text)


def test_bits_beyond_the_prefix_are_a_mistake() -> None:
    with pytest.raises(ValueError, match=r'did you mean "10\.0\.0\.0/8"'):
        parse_network("10.1.2.3/8")
