"""Socket filters: what the kernel would do with them, by an interpreter of classic BPF and by the kernel itself."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4lb.net.access import joined_ranges, united_ranges
from l4lb.net.listen.filters import DROP_SYN, INSTRUCTIONS_MAX, Instruction, TooLong, drop_from
from l4lb.net.listen.options import SO_ATTACH_FILTER, attach

TAKES = 0xFFFFFFFF


def packet(source: str) -> bytes:
    """An IP header from that address."""
    address = ipaddress.ip_address(source)
    if address.version == 4:
        return b"\x45" + bytes(11) + address.packed + bytes(4)
    return b"\x60" + bytes(7) + address.packed + bytes(16)


def result(program: list[Instruction], network: bytes, transport: bytes = b"") -> int:
    """As bpf(4) describes the machine; the loads are those that Linux adds for the network header."""
    accumulator, scratch, at = 0, [0] * 16, 0
    for _ in range(INSTRUCTIONS_MAX):
        code, if_true, if_false, value = program[at]
        at += 1
        if code in (0x20, 0x30):
            data, offset = (network, value - 0xFFF00000) if value >= 0xFFF00000 else (transport, value)
            size = 4 if code == 0x20 else 1
            accumulator = int.from_bytes(data[offset : offset + size], "big")
        elif code == 0x60:
            accumulator = scratch[value]
        elif code == 0x02:
            scratch[value] = accumulator
        elif code == 0x74:
            accumulator >>= value
        elif code == 0x05:
            at += value
        elif code == 0x06:
            return value
        else:
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            at += if_true if holds else if_false
    raise AssertionError("it does not end")


def dropped(networks: list[str], source: str) -> bool:
    taken = result(drop_from(united_ranges(networks)), packet(source))
    assert taken in (0, TAKES)
    return taken == 0


@pytest.mark.parametrize(
    ("networks", "source", "expected"),
    [
        ([], "192.0.2.1", False),
        ([], "::1", False),
        (["192.0.2.0/24"], "192.0.2.255", True),
        (["192.0.2.0/24"], "192.0.3.0", False),
        (["192.0.2.0/24"], "192.0.1.255", False),
        (["192.0.2.0/24"], "::c000:201", False),
        (["0.0.0.0/0"], "255.255.255.255", True),
        (["0.0.0.0/0"], "::1", False),
        (["::/0"], "::", True),
        (["::/0"], "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", True),
        (["::/0"], "192.0.2.1", False),
        (["::/0", "0.0.0.0/0"], "192.0.2.1", True),
        (["::/0", "0.0.0.0/0"], "2001:db8::1", True),
        (["2001:db8::/33"], "2001:db8:7fff::", True),
        (["2001:db8::/33"], "2001:db8:8000::", False),
        (["2001:db8::1/128"], "2001:db8::1", True),
        (["2001:db8::1/128"], "2001:db8::2", False),
        (["2001:db8::1/128"], "2001:db8::", False),
        (["2001:db8::1/128"], "2001:db9::1", False),
    ],
)
def test_packets_from_the_networks_are_dropped(networks: list[str], source: str, expected: bool) -> None:
    assert dropped(networks, source) is expected


WORD = st.sampled_from([0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF])
V4 = st.one_of(WORD, st.integers(0, 300)).map(ipaddress.IPv4Address)
V6 = st.tuples(WORD, WORD, WORD, WORD).map(
    lambda words: ipaddress.IPv6Address(int.from_bytes(struct.pack(">4I", *words), "big"))
)
NETWORKS = st.one_of(
    st.tuples(V4, st.integers(0, 32)).map(lambda one: str(ipaddress.ip_network(one, strict=False))),
    st.tuples(V6, st.integers(0, 128)).map(lambda one: str(ipaddress.ip_network(one, strict=False))),
)


@settings(max_examples=500)
@given(st.lists(NETWORKS, max_size=12), st.one_of(V4, V6))
def test_as_the_networks_say(networks: list[str], source: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if isinstance(source, ipaddress.IPv6Address) and source.ipv4_mapped:
        return  # on no wire
    parsed = [ipaddress.ip_network(one) for one in networks]
    expected = any(one.version == source.version and source in one for one in parsed)
    assert dropped(networks, str(source)) is expected


@given(st.lists(NETWORKS, max_size=8), st.lists(NETWORKS, max_size=8))
def test_two_sets_of_ranges_are_joined(one: list[str], other: list[str]) -> None:
    assert joined_ranges(united_ranges(one), united_ranges(other)) == united_ranges([*one, *other])


def test_hundreds_of_networks_fit_and_thousands_do_not() -> None:
    networks = [f"10.{number >> 8}.{number & 255}.0/25" for number in range(5000)]
    assert dropped(networks[:800], "10.3.31.5")
    assert not dropped(networks[:800], "10.3.31.128")
    for count in (900, 5000):
        with pytest.raises(TooLong):
            drop_from(united_ranges(networks[:count]))


def test_the_longest_programs_are_good_for_the_kernel() -> None:
    """It checks each instruction and each jump."""
    v6 = [f"2001:db8:{number:x}::{number:x}:1/128" for number in range(0, 300, 2)]
    v4 = [f"10.0.{number >> 8}.{number & 255}/32" for number in range(0, 800, 2)]
    with socket.socket() as sock:
        for networks in (v6, v4, v6[:50] + v4[:300]):
            try:
                attach(sock, SO_ATTACH_FILTER, drop_from(united_ranges(networks)))
            except PermissionError:
                pytest.skip("this kernel lets only CAP_NET_ADMIN filter TCP")
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    raise
                pytest.skip("net.core.optmem_max is small here")


def test_a_syn_is_dropped_and_other_packets_are_not() -> None:
    for flags, expected in ((0x02, 0), (0x12, 0), (0x10, TAKES), (0x04, TAKES)):
        assert result(list(DROP_SYN), b"", bytes(13) + bytes([flags])) == expected
