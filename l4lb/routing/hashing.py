"""What a client hashes to. The native twin is `_dataplane/balancing/pick.pxd:client_hash`; both use XXH64."""

from __future__ import annotations

import ipaddress

import xxhash

from l4lb.model.snapshot import HashKey

TCP = 6  # IANA's protocol numbers
UDP = 17
_MASK = (1 << 64) - 1
Endpoint = tuple[str, int]  # address, port


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """A v4-mapped IPv6 address counts as the IPv4 address that it is."""
    ip = ipaddress.ip_address(address)
    return ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None else ip


def _masked(address: str, prefix_v4: int, prefix_v6: int) -> bytes:
    ip = _ip(address)
    prefix = prefix_v4 if ip.version == 4 else prefix_v6
    return ipaddress.ip_network((ip, prefix), strict=False).network_address.packed


def random_draw(seed: int, number: int) -> int:
    """Draw `number` (from 1) of SplitMix64 seeded with `seed`; native twin: hashing.pxd."""
    mixed = (seed + number * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def client_hash(
    key: HashKey,
    source: Endpoint,
    destination: Endpoint,
    *,
    seed: int = 0,
    prefix_v4: int = 32,
    prefix_v6: int = 128,
    protocol: int = TCP,
    connection_id: bytes = b"",
) -> int:
    """XXH64 of what `key` names: addresses packed (the source's under its prefix), ports in network order, protocol.

    `HashKey.QUIC_CID` hashes the destination connection id of a long header, and without one the source's address.
    ValueError for an invalid address, and for `HashKey.RANDOM`, which hashes nothing.
    """
    if key is HashKey.RANDOM:
        raise ValueError("a random draw has no hash")
    ip = _masked(source[0], prefix_v4, prefix_v6)
    port = source[1].to_bytes(2, "big")
    target = _ip(destination[0]).packed + destination[1].to_bytes(2, "big")
    data = {
        HashKey.SOURCE_IP: ip,
        HashKey.SOURCE_IP_PORT: ip + port,
        HashKey.DESTINATION: target,
        HashKey.SESSION: ip + port + target + bytes([protocol]),
        HashKey.QUIC_CID: connection_id or ip,
    }[key]
    return xxhash.xxh64_intdigest(data, seed=seed)
