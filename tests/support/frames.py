"""Ethernet frames with TCP, UDP and ICMP, made and taken apart: every checksum is made, and every one is verified."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import ip_address

TCP, UDP, ICMP, ICMP6, FRAGMENT = 6, 17, 1, 58, 44
IPIP, IPV6 = 4, 41
SYN, ACK, FIN, RST = 2, 16, 1, 4
OURS, THEIRS = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _pseudo(source: str, destination: str, protocol: int, length: int) -> bytes:
    one, other = ip_address(source).packed, ip_address(destination).packed
    return (
        one
        + other
        + (struct.pack("!BBH", 0, protocol, length) if len(one) == 4 else struct.pack("!IHBB", length, 0, 0, protocol))
    )


@dataclass(frozen=True)
class Frame:
    """`offset` in bytes and `more`: of a fragment. `about`: the frame that an ICMP error is about, without Ethernet."""

    source: str
    destination: str
    source_port: int = 0
    destination_port: int = 0
    protocol: int = TCP
    flags: int = ACK
    payload: bytes = b""
    offset: int = 0
    more: bool = False
    fragment_id: int = 0
    no_checksum: bool = False
    hops: int = 64
    traffic_class: int = 0
    dont_fragment: bool = False
    links: tuple[bytes, bytes] = (OURS, THEIRS)  # destination, source

    @property
    def v4(self) -> bool:
        return ip_address(self.source).version == 4

    @property
    def is_fragment(self) -> bool:
        return bool(self.offset or self.more)

    def l4(self) -> bytes:
        """The whole one, of which this may be a fragment."""
        if self.protocol == TCP:
            head = struct.pack("!HHIIBBHHH", self.source_port, self.destination_port, 1, 1, 0x50, self.flags, 512, 0, 0)
            at = 16
        elif self.protocol == UDP:
            head = struct.pack("!HHHH", self.source_port, self.destination_port, 8 + len(self.payload), 0)
            at = 6
        else:  # an error: unreachable port, or time exceeded
            head = struct.pack("!BBHI", 3 if self.v4 else 1, 3 if self.v4 else 4, 0, 0)
            at = 2
        if self.no_checksum:
            return head + self.payload
        covered = (
            b""
            if self.protocol == ICMP
            else _pseudo(self.source, self.destination, self.protocol, len(head) + len(self.payload))
        )
        found = checksum(covered + head + self.payload) or (0xFFFF if self.protocol == UDP else 0)
        return head[:at] + struct.pack("!H", found) + head[at + 2 :] + self.payload

    def ip(self, cut: int | None = None) -> bytes:
        """`cut`: only so many bytes of the layer above, from `offset`."""
        above = self.l4()[self.offset : None if cut is None else self.offset + cut]
        source, destination = ip_address(self.source).packed, ip_address(self.destination).packed
        if self.v4:
            fragment = self.offset // 8 | (0x2000 if self.more else 0) | (0x4000 if self.dont_fragment else 0)
            head = struct.pack(
                "!BBHHHBBH", 0x45, self.traffic_class, 20 + len(above), self.fragment_id, fragment, self.hops,
                self.protocol, 0,
            )  # fmt: skip
            found = checksum(head + source + destination)
            return head[:10] + struct.pack("!H", found) + source + destination + above
        protocol = self.protocol
        if self.is_fragment:
            above = struct.pack("!BBHI", protocol, 0, self.offset | self.more, self.fragment_id) + above
            protocol = FRAGMENT
        first = 6 << 28 | self.traffic_class << 20
        return struct.pack("!IHBB", first, len(above), protocol, self.hops) + source + destination + above

    def bytes(self, cut: int | None = None) -> bytes:
        return b"".join(self.links) + struct.pack("!H", 0x0800 if self.v4 else 0x86DD) + self.ip(cut)

    def answer(self, payload: bytes = b"") -> Frame:
        return replace(
            self,
            source=self.destination,
            destination=self.source,
            payload=payload,
            source_port=self.destination_port,
            destination_port=self.source_port,
        )


def parse_ip(data: bytes) -> tuple[Frame, bytes]:
    """And what is above IP."""
    if data[0] >> 4 == 4:
        assert checksum(data[:20]) == 0, "the IP header's checksum"
        protocol, (fragment_id, fragment) = data[9], struct.unpack_from("!HH", data, 4)
        source, destination = (str(ip_address(data[at : at + 4])) for at in (12, 16))
        offset, more, above = (
            (fragment & 0x1FFF) * 8,
            bool(fragment & 0x2000),
            data[20 : struct.unpack_from("!H", data, 2)[0]],
        )
    else:
        protocol, above, fragment_id, offset, more = data[6], data[40:], 0, 0, False
        source, destination = (str(ip_address(data[at : at + 16])) for at in (8, 24))
        if protocol == FRAGMENT:
            protocol, _, field, fragment_id = struct.unpack_from("!BBHI", above)
            offset, more, above = field & 0xFFF8, bool(field & 1), above[8:]
    v4 = data[0] >> 4 == 4
    hops = data[8] if v4 else data[7]
    traffic_class = data[1] if v4 else data[0] << 4 & 0xFF | data[1] >> 4
    dont_fragment = v4 and bool(fragment & 0x4000)
    frame = Frame(
        source, destination, 0, 0, protocol, 0, b"", offset, more, fragment_id, hops=hops,
        traffic_class=traffic_class, dont_fragment=dont_fragment,
    )  # fmt: skip
    return frame, above


def unwrap(data: bytes) -> tuple[Frame, bytes]:
    """A packet of a tunnel: what is outside of it (of GUE with the ports), and the frame with what is inside."""
    outer, above = parse_ip(data[14:])
    assert data[12:14] == (b"\x08\x00" if outer.v4 else b"\x86\xdd")
    assert len(above) + (20 if outer.v4 else 40) == struct.unpack_from("!H", data, 16 if outer.v4 else 18)[0] + (
        0 if outer.v4 else 40
    )
    protocol = outer.protocol
    if protocol == UDP:
        source_port, destination_port, length, found, control, protocol, flags = struct.unpack_from("!4HBBH", above)
        assert (length, found, control, flags) == (len(above), 0, 0, 0)
        outer, above = replace(outer, source_port=source_port, destination_port=destination_port), above[12:]
    assert (protocol, above[0] >> 4) in ((IPIP, 4), (IPV6, 6))
    return replace(outer, links=(data[:6], data[6:12])), data[:12] + (
        b"\x08\x00" if protocol == IPIP else b"\x86\xdd"
    ) + above


def parse(data: bytes, *, whole: bool = True) -> Frame:
    """`whole`: all of the layer above IP is there, so that its checksum can be verified."""
    frame, above = parse_ip(data[14:])
    frame = replace(frame, links=(data[:6], data[6:12]))
    if frame.offset:
        return replace(frame, payload=above)
    if frame.protocol in (ICMP, ICMP6):
        covered = b"" if frame.protocol == ICMP else _pseudo(frame.source, frame.destination, ICMP6, len(above))
        assert checksum(covered + above) == 0, "ICMP's checksum"
        return replace(frame, payload=above[8:])
    source_port, destination_port = struct.unpack_from("!HH", above)
    length = 20 if frame.protocol == TCP else 8
    at = 16 if frame.protocol == TCP else 6
    no_checksum = frame.protocol == UDP and above[at : at + 2] == b"\0\0"
    if whole and not no_checksum:
        assert checksum(_pseudo(frame.source, frame.destination, frame.protocol, len(above)) + above) == 0, (
            "the checksum"
        )
    flags = above[13] if frame.protocol == TCP else 0
    return replace(
        frame,
        source_port=source_port,
        destination_port=destination_port,
        payload=above[length:],
        flags=flags,
        no_checksum=no_checksum,
    )
