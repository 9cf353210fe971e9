"""ICMP messages about datagrams of UDP between two addresses of this host, as a router or a firewall sends them."""

from __future__ import annotations

import socket
import struct

import pytest

Endpoint = tuple[str, int]


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def raw_socket(family: int) -> socket.socket:
    protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    try:
        return socket.socket(family, socket.SOCK_RAW, protocol)
    except PermissionError:
        pytest.skip("ICMP messages can be sent with CAP_NET_RAW alone")


def _quoted_v4(source: Endpoint, to: Endpoint) -> bytes:
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(to[0])
    header = struct.pack(">BBHHHBBH", 0x45, 0, 36, 1, 0x4000, 64, socket.IPPROTO_UDP, 0) + addresses
    return header + struct.pack(">HHHH", source[1], to[1], 16, 0) + bytes(8)


def _quoted_v6(source: Endpoint, to: Endpoint) -> bytes:
    addresses = b"".join(socket.inet_pton(socket.AF_INET6, one[0]) for one in (source, to))
    header = struct.pack(">IHBB", 6 << 28, 16, socket.IPPROTO_UDP, 64) + addresses
    return header + struct.pack(">HHHH", source[1], to[1], 16, 0) + bytes(8)


def say_icmp(kind: int, code: int, source: Endpoint, to: Endpoint, value: int = 0) -> None:
    """Of a datagram that `source`, on this host, has sent to `to`. `value`: the rest of the header, such as an MTU."""
    if ":" in source[0]:
        message = struct.pack(">BBHI", kind, code, 0, value) + _quoted_v6(source, to)
        with raw_socket(socket.AF_INET6) as sock:
            sock.sendto(message, (source[0], 0))
        return
    message = struct.pack(">BBHI", kind, code, 0, value) + _quoted_v4(source, to)
    message = message[:2] + struct.pack(">H", _checksum(message)) + message[4:]
    with raw_socket(socket.AF_INET) as sock:
        sock.sendto(message, (source[0], 0))
