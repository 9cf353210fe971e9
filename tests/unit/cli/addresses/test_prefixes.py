from __future__ import annotations

import pytest

from l4lb.cli.addresses.prefixes import PREFIXES_MAX, parse_community, parse_next_hops, parse_prefixes


def test_prefixes() -> None:
    assert [str(one) for one in parse_prefixes(["192.0.2.10", "10.0.0.0/8", "2001:DB8::/32"])] == [
        "192.0.2.10/32",
        "10.0.0.0/8",
        "2001:db8::/32",
    ]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["192.0.2.10/24"], "bits beyond the prefix are set"),
        (["192.0.2.0/33"], "expected a prefix such as"),
        (["vip"], "expected a prefix such as"),
        (["192.0.2.1\nannounce route 0.0.0.0/0 next-hop self"], "expected a prefix such as"),
        (["fe80::1%eth0"], "expected a prefix such as"),
        (["192.0.2.1", "192.0.2.1/32"], "192.0.2.1/32 is given twice"),
        ([f"10.0.{n // 256}.{n % 256}" for n in range(PREFIXES_MAX + 1)], "at most 1000 prefixes"),
    ],
)
def test_what_is_no_prefix(texts: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_prefixes(texts)


@pytest.mark.parametrize("text", ["65001:1", "0:0", "65535:65535", "no-export", "no-advertise"])
def test_communities(text: str) -> None:
    assert parse_community(text) == text


@pytest.mark.parametrize("text", ["", "65536:1", "1:65536", "1", "1:1:1", "1:1]", "no-peer", "\u0661:1"])
def test_what_is_no_community(text: str) -> None:
    with pytest.raises(ValueError, match="expected a community"):
        parse_community(text)


def test_next_hops() -> None:
    assert parse_next_hops(["10.0.0.1", "FD00::1"]) == ((4, "10.0.0.1"), (6, "fd00::1"))


@pytest.mark.parametrize("texts", [["self"], ["10.0.0.1", "10.0.0.2"], ["fe80::1%a med 1"]])
def test_what_is_no_next_hop(texts: list[str]) -> None:
    with pytest.raises(ValueError):
        parse_next_hops(texts)
