"""Control and the programs in the kernel mean the same by the same bytes; and where tables lie."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb._native import kernel
from l4lb.engine.kernel import layout
from l4lb.engine.kernel.slots import Space, words_of


def test_sizes() -> None:
    assert {name: kernel.sizes()[name] for name in layout.SIZES} == layout.SIZES


@given(st.ip_addresses())
def test_addresses(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    packed = layout.address(str(ip))
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    assert len(packed) == 16
    assert layout.address_text(packed) == str(mapped or ip)


@given(st.ip_addresses(), st.integers(0, 128))
def test_prefixes(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, bits: int) -> None:
    v4 = ip.version == 4
    bits = bits // 4 if v4 else bits
    mask = int.from_bytes(layout.prefix(v4, bits), "big")
    masked = (int.from_bytes(layout.address(str(ip)), "big") & mask).to_bytes(16, "big")
    expected = ipaddress.ip_network((ip, bits), strict=False).network_address
    assert masked == layout.address(str(expected)) if not v4 else masked[12:] == expected.packed


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=60))
def test_no_two_tables_overlap_and_all_space_comes_back(steps: list[tuple[int, bool]]) -> None:
    space, taken, now = Space(64), {}, 0.0
    for slots, leaves in steps:
        if leaves and taken:
            first = next(iter(taken))
            space.leave(first, taken.pop(first), now)
            now += 2
            continue
        try:
            first = space.take(slots, now)
        except MemoryError:
            continue
        words = range(first, first + words_of(slots))
        assert words.stop <= 64
        for other, count in taken.items():
            assert not set(words) & set(range(other, other + words_of(count)))
        taken[first] = slots
    for first, slots in taken.items():
        space.leave(first, slots, now)
    assert space.take(4 * 64, now + 2) == 0


def test_what_was_left_is_not_overwritten_at_once() -> None:
    space = Space(8)
    first = space.take(32, 0.0)
    space.leave(first, 32, 10.0)
    with pytest.raises(MemoryError):
        space.take(1, 10.5)
    assert space.take(1, 11.0) == first


@given(st.lists(st.ip_addresses(v=6), min_size=2, max_size=2))
def test_networks_make_up_a_range(bounds: list[ipaddress.IPv6Address]) -> None:
    first, last = sorted(map(int, bounds))
    at = first
    for key in layout.denied(first.to_bytes(16, "big") + last.to_bytes(16, "big"), 7):
        bits, number = int.from_bytes(key[:4], "little") - 32, int.from_bytes(key[4:8], "little")
        network = ipaddress.IPv6Network((int.from_bytes(key[8:], "big"), bits))
        assert (number, int(network.network_address)) == (7, at)
        at = int(network.broadcast_address) + 1
    assert at == last + 1
