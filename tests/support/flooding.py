"""A packet generator: frames of one kind from as many spoofed sources as there can be, by a packet socket (packet(7)).

    python -m tests.support.flooding DEVICE LINK-ADDRESS tcp|udp ADDRESS PORT [ADDRESS PORT...]

Each frame goes to the next of these addresses, from a source of SOURCES and a port drawn at random: the SYN of a
connection, or a datagram whose checksum is wrong. (Nobody but its receiver looks at that; so the datagrams flood the
balancer and not the server, whose answers to its real clients would be lost.) It goes on until its input ends, and
prints how many frames it has sent.
"""

from __future__ import annotations

import errno
import random
import select
import socket
import struct
import sys
from collections.abc import Callable

from tests.support.frames import SYN, TCP, UDP, Frame

SOURCES = {4: "11.0.0.0/8", 6: "fd81:f::/64"}
_FIRST = {4: "11.0.0.0", 6: "fd81:f::"}
_AT_ONCE = 500  # frames between two looks at the input


def _added(checksum: int, words: int) -> int:
    """The checksum (RFC 1624) of the same bytes with words in place of zeros; `words` is their sum."""
    total = (checksum ^ 0xFFFF) + words
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _frames(device: str, link: bytes, protocol: int, address: str, port: int) -> Callable[[], bytearray]:
    """Makes one frame after the other, in the same buffer."""
    with open(f"/sys/class/net/{device}/address", encoding="ascii") as file:
        own = bytes.fromhex(file.read().strip().replace(":", ""))
    family = 6 if ":" in address else 4
    frame = bytearray(Frame(_FIRST[family], address, 0, port, protocol, flags=SYN, links=(link, own)).bytes())
    source, l4 = (27, 34) if family == 4 else (35, 54)  # the last 24 bits of the source; ports
    (ip_sum,) = struct.unpack_from("!H", frame, 24)
    (tcp_sum,) = struct.unpack_from("!H", frame, l4 + 16) if protocol == TCP else (0,)

    def made() -> bytearray:
        drawn = random.getrandbits(40)
        host, port = drawn >> 16, drawn & 0xFFFF
        words = (host >> 16) + (host & 0xFFFF)
        frame[source : source + 3] = host.to_bytes(3, "big")
        struct.pack_into("!H", frame, l4, port)
        if family == 4:
            struct.pack_into("!H", frame, 24, _added(ip_sum, words))
        if protocol == TCP:
            struct.pack_into("!H", frame, l4 + 16, _added(tcp_sum, words + port))
        return frame

    return made


def _send(sock: socket.socket, frame: bytearray) -> None:
    """packet(7): ENOBUFS, the device's queue is full."""
    try:
        sock.send(frame)
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise


def flood(device: str, link: str, protocol: str, *targets: str) -> int:
    """How many frames were sent."""
    count, number = 0, {"tcp": TCP, "udp": UDP}[protocol]
    to = bytes.fromhex(link.replace(":", ""))
    kinds = [_frames(device, to, number, *at) for at in zip(targets[::2], map(int, targets[1::2]), strict=True)]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((device, 0))
        while not select.select([sys.stdin], [], [], 0)[0]:
            for _ in range(_AT_ONCE):
                _send(sock, kinds[count % len(kinds)]())
                count += 1
    return count


if __name__ == "__main__":
    print("up", flush=True)
    print(flood(*sys.argv[1:]), flush=True)
