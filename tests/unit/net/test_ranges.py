"""Sets of addresses: made of CIDRs here, searched natively, and held to the ipaddress module."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb.net.ranges import Network, packed_ranges, parse_network

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")


def in_native(networks: list[str], address: str) -> bool:
    return probe.ranges_have(packed_ranges(tuple(networks)), ipaddress.ip_address(address).packed)


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


@pytest.mark.parametrize("text", ["", "lan", "10.0.0.0/33", "1.2.3", "::1%eth0/64", "10.0.0.0/8/8"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match="expected an address or a network"):
        parse_network(text)


def test_bits_beyond_the_prefix_are_a_mistake() -> None:
    with pytest.raises(ValueError, match=r'did you mean "10\.0\.0\.0/8"'):
        parse_network("10.1.2.3/8")
