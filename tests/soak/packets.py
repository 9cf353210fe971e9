"""Packets with QUIC's connection ids (RFC 8999), and what the soak's servers answer to them."""

from __future__ import annotations

import struct

ID_BYTES = 8
LONG, SHORT = 0xC3, 0x40
VERSION = b"\0\0\0\x01"


def long_packet(destination: bytes, source: bytes, payload: bytes) -> bytes:
    ids = bytes([len(destination)]) + destination + bytes([len(source)]) + source
    return bytes([LONG]) + VERSION + ids + payload


def is_packet(data: bytes) -> bool:
    return len(data) > 1 + ID_BYTES and data[0] in (LONG, SHORT)


def answer_to(data: bytes, server: int) -> bytes:
    """What a server says to a packet: who it is, and the payload."""
    said = struct.pack(">I", server)
    if data[0] == SHORT:
        return data[: 1 + ID_BYTES] + said + data[1 + ID_BYTES :]
    at = 5
    at += 1 + data[at]
    client = data[at + 1 : at + 1 + data[at]]
    return long_packet(client, struct.pack(">I", server) + client[:4], said + data[at + 1 + len(client) :])
