"""Sets of IP addresses, from CIDRs as users write them to what workers search. Pure."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
from collections.abc import Iterator

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

EXPECTED = 'expected an address or a network such as "10.0.0.0/8", "192.0.2.7" or "2001:db8::/32"'
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def parse_network(text: str) -> Network:
    """ValueError for an invalid network, or one with bits set beyond its prefix."""
    if "%" in text:  # a zone is of one host
        raise ValueError(EXPECTED)
    with contextlib.suppress(ValueError):
        return ipaddress.ip_network(text)
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(EXPECTED) from None
    raise ValueError(f'has bits set beyond its prefix (did you mean "{meant}"?)')


def plain_network(network: Network) -> Network:
    """A network of v4-mapped addresses as the one of IPv4 that it is."""
    if isinstance(network, ipaddress.IPv4Network) or not network.subnet_of(_MAPPED):
        return network
    address = ipaddress.IPv4Address(network.network_address.packed[12:])
    return ipaddress.IPv4Network((address, network.prefixlen - _MAPPED.prefixlen))


def overlap(one: Network, other: Network) -> bool:
    """Whether some address is in both. IPv4 addresses are in no IPv6 network."""
    if isinstance(one, ipaddress.IPv4Network):
        return isinstance(other, ipaddress.IPv4Network) and one.overlaps(other)
    return isinstance(other, ipaddress.IPv6Network) and one.overlaps(other)


def _plain(network: Network) -> Iterator[Network]:
    """Separates IPv4 and IPv6: v4-mapped addresses count as IPv4, and no IPv6 network includes them."""
    network = plain_network(network)
    if isinstance(network, ipaddress.IPv6Network) and network.overlaps(_MAPPED):
        yield from network.address_exclude(_MAPPED)
    else:
        yield network


def _packed(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed


@functools.lru_cache(maxsize=1024)
def packed_ranges(networks: tuple[str, ...]) -> bytes:
    """As `_dataplane/base/ranges.pxd` searches them: 32 bytes each, sorted and disjoint.

    ValueError as `parse_network`.
    """
    plain = [one for text in networks for one in _plain(parse_network(text))]
    v4 = ipaddress.collapse_addresses(one for one in plain if isinstance(one, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(one for one in plain if isinstance(one, ipaddress.IPv6Network))
    bounds = [(_packed(one[0]), _packed(one[-1])) for family in (v4, v6) for one in family]
    return b"".join(first + last for first, last in sorted(bounds))
