"""Access lists: compiled here, searched natively, and held to the rule as it is written."""

from __future__ import annotations

import ipaddress
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb.net.access import ListFile, bounds_of, entry_of, list_file, refused_ranges
from l4lb.net.ranges import EXPECTED

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def refuses(address: str, allow: list[str], deny: list[str]) -> bool:
    ranges = refused_ranges(tuple(map(entry_of, allow)), tuple(map(entry_of, deny)))
    return bool(probe.ranges_find(ranges, [ipaddress.ip_address(address).packed])[0])


def as_said(address: Address, allow: list[str], deny: list[str]) -> bool:
    """The rule, word by word."""
    longest, refused = -1, bool(allow)
    for texts, denied in ((allow, False), (deny, True)):
        for network in map(ipaddress.ip_network, texts):
            better = network.prefixlen > longest or (network.prefixlen == longest and denied)
            if better and network.version == address.version and address in network:
                longest, refused = network.prefixlen, denied
    return refused


@pytest.mark.parametrize(
    ("address", "allow", "deny", "refused"),
    [
        ("192.0.2.1", [], [], False),
        ("192.0.2.1", [], ["192.0.2.0/24"], True),
        ("192.0.3.1", [], ["192.0.2.0/24"], False),
        ("192.0.2.1", ["192.0.2.1"], ["192.0.2.0/24"], False),
        ("192.0.2.2", ["192.0.2.1"], ["192.0.2.0/24"], True),
        ("192.0.2.1", ["192.0.2.0/24"], ["192.0.2.0/24"], True),
        ("198.51.100.1", ["192.0.2.0/24"], [], True),
        ("2001:db8::1", ["192.0.2.0/24"], [], True),
        ("2001:db8::1", ["::/0"], [], False),
        ("192.0.2.1", ["::/0"], [], True),
        ("192.0.2.1", [], ["::/0"], False),
        ("192.0.2.1", [], ["::ffff:192.0.2.0/120"], True),
        ("::1", [], ["0.0.0.0/0"], False),
        ("::2", ["::/64"], ["::/0"], False),
        ("192.0.2.1", ["0.0.0.0/0"], ["::/80"], False),
        ("::2", ["0.0.0.0/0"], ["::/80"], True),
        ("::1:0:0:0:1", ["::/64"], ["::/0"], True),
        ("255.255.255.255", [], ["0.0.0.0/0"], True),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", [], ["::/0"], True),
    ],
)
def test_the_longest_prefix_decides_and_deny_wins_a_tie(
    address: str, allow: list[str], deny: list[str], refused: bool
) -> None:
    assert refuses(address, allow, deny) is refused


V4 = st.builds(
    lambda number, bits: str(ipaddress.ip_network((number << 24 | 0x010203, bits), strict=False)),
    st.integers(0, 7), st.integers(0, 32),
)  # fmt: skip
V6 = st.builds(
    lambda number, bits: str(ipaddress.ip_network((number << 45 | 0x5, bits), strict=False)),
    st.integers(0, 16), st.integers(0, 128),
)  # fmt: skip
LISTS = st.lists(V4 | V6, max_size=8)
EDGES = (0, 1, 0xFFFEFFFFFFFF, 1 << 48, (1 << 128) - 1)


@given(LISTS, LISTS)
def test_as_the_rule_says(allow: list[str], deny: list[str]) -> None:
    wanted = [one for text in allow + deny for net in [ipaddress.ip_network(text)] for one in (net[0], net[-1])]
    near = [type(one)(int(one) + by) for one in wanted for by in (-1, 1) if 0 <= int(one) + by < 1 << one.max_prefixlen]
    for address in [*wanted, *near, *map(ipaddress.IPv6Address, EDGES)]:
        if address.version == 6 and address.ipv4_mapped:
            continue
        assert refuses(str(address), allow, deny) is as_said(address, allow, deny), address


@pytest.mark.parametrize("text", ["10.0.0.0/8", "10.1.2.3", "::/0", "2001:db8::/33", "::1", "10.0.0.0/255.0.0.0"])
def test_bounds_are_those_of_the_network(text: str) -> None:
    network = ipaddress.ip_network(text)
    base = 0xFFFF << 32 if network.version == 4 else 0
    assert bounds_of(text) == (int(network[0]) + base, int(network[-1]) + base)


@pytest.mark.parametrize(
    "text", ["", "x", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/٨", "fe80::1%eth0", "1.2.3"]
)
def test_what_is_no_network_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected an address|has bits set beyond its prefix"):
        bounds_of(text)
    with pytest.raises(ValueError, match=r"expected an address|has bits set beyond its prefix"):
        entry_of(text)


def test_a_file_has_one_a_line_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_bytes(b"# ours\n\n192.0.2.0/24  # an office\r\n\t2001:db8::/32\n198.51.100.7")
    for address, refused in (("192.0.2.9", True), ("2001:db8::9", True), ("198.51.100.7", True), ("192.0.3.1", False)):
        assert refuses(address, [], [f"file:{file}"]) is refused
        assert refuses(address, [f"file:{file}"], []) is not refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"192.0.2.0/24\n\n192.0.2.1/24\n", ':3: "192.0.2.1/24": has bits set beyond its prefix'),
        (b"deny 192.0.2.1\n", f':1: "deny 192.0.2.1": {EXPECTED}'),
        (b"\xff\xfe\n", ':1: "\\xff\\xfe": expected'),
        (b"192.0.2.1 192.0.2.2\n", ":1: "),
    ],
)
def test_a_broken_line_is_named(text: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_bytes(text)
    with pytest.raises(ValueError) as caught:
        refuses("192.0.2.1", [], [f"file:{file}"])
    assert str(caught.value).startswith(f"{file}{said}")


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing: No such file or directory"):
        entry_of(f"file:{tmp_path}/nothing")
    with pytest.raises(ValueError, match="Is a directory"):
        refuses("192.0.2.1", [], [f"file:{tmp_path}"])
    with pytest.raises(ValueError, match="absolute path"):
        entry_of("file:list")
    with pytest.raises(ValueError, match="null"):
        entry_of("file:/a\0b")
    os.mkfifo(tmp_path / "fifo")
    assert not refuses("192.0.2.1", [], [f"file:{tmp_path}/fifo"]), "nobody waits for a writer"


def test_a_file_that_has_changed_is_another_one(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text("192.0.2.1\n")
    before = list_file(str(file))
    assert list_file(str(file)) == before == ListFile(str(file), before.signature)
    (tmp_path / "new").write_text("192.0.2.2\n")
    (tmp_path / "new").rename(file)
    assert list_file(str(file)) != before


def test_a_hundred_thousand_networks(tmp_path: Path) -> None:
    choose = random.Random(7)
    file = tmp_path / "list"
    file.write_text(
        "".join(f"{ipaddress.IPv4Address(one << 8)}/24\n" for one in choose.sample(range(1 << 24), 100_000))
    )
    ranges = refused_ranges((), (list_file(str(file)),))
    assert len(ranges) <= 3_200_000
    assert ranges == b"".join(sorted(ranges[at : at + 32] for at in range(0, len(ranges), 32)))
