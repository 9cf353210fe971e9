"""What a client hashes to. The native twin is `_dataplane/lookup.pxd:source_hash`; both use XXH64."""

from __future__ import annotations

import ipaddress

import xxhash


def source_hash(address: str, seed: int, prefix_v4: int = 32, prefix_v6: int = 128) -> int:
    """XXH64 of the packed address under its prefix; a v4-mapped IPv6 address counts as the IPv4 address that it is."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    prefix = prefix_v4 if ip.version == 4 else prefix_v6
    network = ipaddress.ip_network((ip, prefix), strict=False)
    return xxhash.xxh64_intdigest(network.network_address.packed, seed=seed)
