"""The ClientHello parser once more, in Python, from the RFCs: what the native one is held to. Byte by byte."""

from __future__ import annotations

MAX_BYTES = 16384

Found = tuple[bytes, list[bytes]]  # the server name, empty where there is none, and the protocols of ALPN


class _More(Exception):
    pass


class _NotTls(Exception):
    pass


class _Message:
    """The handshake message in `data`, out of the records that it is cut into (RFC 8446 5.1)."""

    def __init__(self, data: bytes, records: bool) -> None:
        self._data = data
        self._at = 0
        self._record = 0 if records else MAX_BYTES
        self.left = 4

    def _open_record(self) -> None:
        head = self._data[self._at : self._at + 5]
        if head[:1] not in (b"", b"\x16") or head[1:2] not in (b"", b"\x03"):
            raise _NotTls
        if len(head) < 5:
            raise _More
        self._at += 5
        self._record = int.from_bytes(head[3:], "big")
        if not 1 <= self._record <= 16384:
            raise _NotTls

    def _byte(self) -> int:
        if self._record == 0:
            self._open_record()
        if self._at == len(self._data):
            raise _More
        self._record -= 1
        self.left -= 1
        self._at += 1
        return self._data[self._at - 1]

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise _NotTls
        return bytes(self._byte() for _ in range(count))

    def number(self, size: int) -> int:
        value = 0
        for _ in range(size):
            value = value << 8 | self.take(1)[0]
        return value

    def length(self, size: int, least: int, most: int) -> int:
        value = self.number(size)
        if not least <= value <= min(most, self.left):
            raise _NotTls
        return value


def _expect(condition: bool) -> None:
    if not condition:
        raise _NotTls


def _server_name(message: _Message, length: int) -> bytes:
    """RFC 6066 3: a list with one host name."""
    _expect(length >= 2)
    _expect(message.length(2, 1, 65535) == length - 2)
    _expect(message.number(1) == 0)
    size = message.length(2, 1, 255)
    _expect(size == length - 5)
    name = message.take(size)
    _expect(all(0x21 <= byte <= 0x7E for byte in name))
    return name


def _alpn(message: _Message, length: int) -> list[bytes]:
    """RFC 7301 3.1: those that are not GREASE (RFC 8701), as far as they fit 255 bytes with their lengths."""
    _expect(length >= 2)
    _expect(message.length(2, 2, 65535) == length - 2)
    left, room, offered = length - 2, 255, []
    while left:
        name = message.take(message.length(1, 1, left - 1))
        left -= 1 + len(name)
        grease = len(name) == 2 and name[0] == name[1] and name[0] & 15 == 10
        if not grease and room >= 1 + len(name):
            room -= 1 + len(name)
            offered.append(name)
    return offered


def _hello(message: _Message) -> Found:
    _expect(message.number(1) == 1)
    message.left = message.number(3)
    _expect(message.left <= MAX_BYTES)
    _expect(message.number(1) == 3)
    message.take(33)
    message.take(message.length(1, 0, 32))
    suites = message.length(2, 2, 65534)
    _expect(suites % 2 == 0)
    message.take(suites)
    message.take(message.length(1, 1, 255))
    name, offered = b"", list[bytes]()
    if message.left:
        _expect(message.length(2, 0, 65535) == message.left)
        seen: set[int] = set()
        while message.left:
            kind, length = message.number(2), message.length(2, 0, 65535)
            if kind not in (0, 16):
                message.take(length)
                continue
            _expect(kind not in seen)
            seen.add(kind)
            if kind == 0:
                name = _server_name(message, length)
            else:
                offered = _alpn(message, length)
    return name, offered


def judge(data: bytes, records: bool = True) -> Found | str:
    """What is found in `data`, or "need_more", or "not_tls". Without `records` it is the message alone, as in QUIC."""
    try:
        return _hello(_Message(data[:MAX_BYTES], records))
    except _NotTls:
        return "not_tls"
    except _More:
        return "need_more" if len(data) < MAX_BYTES else "not_tls"
