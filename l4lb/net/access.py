"""Who may come in: from `allow`, `deny` and bans, as users write them, to the address ranges that are refused.

The longest prefix that matches an address decides, and `deny` wins a tie. Where `allow` is empty, everybody may come in
whom `deny` does not name; otherwise only those whom `allow` names. An entry is a CIDR, or ``file:/path`` with one to a
line. IPv4 addresses that are mapped into IPv6 are IPv4's, and no IPv6 network includes them.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from l4lb.net.ranges import parse_network

FILE = "file:"
FILE_BYTES_MAX = 64 << 20
V4_FIRST, V4_LAST = 0xFFFF << 32, (0xFFFF << 32) + 0xFFFFFFFF  # as v4-mapped addresses
_LAST = (1 << 128) - 1


@dataclass(frozen=True, slots=True)
class ListFile:
    """One state of a file: another text has another signature."""

    path: str
    signature: tuple[int, ...]


Entry = str | ListFile  # a CIDR, or a file with CIDRs
Bounds = tuple[int, int]  # the first and the last address of a network, as IPv6 addresses


def bounds_of(text: str) -> Bounds:
    """The bounds of a CIDR or an address. ValueError as `parse_network`, which reads all but the usual forms."""
    address, slash, bits = text.partition("/")
    family, width = (socket.AF_INET6, 128) if ":" in address else (socket.AF_INET, 32)
    with contextlib.suppress(OSError, ValueError):
        first = int.from_bytes(socket.inet_pton(family, address), "big")
        hosts = width - (int(bits) if slash else width)
        if bits.isascii() and (bits.isdigit() or not slash) and hosts >= 0 and not first & ((1 << hosts) - 1):
            mapped = 0 if width == 128 else V4_FIRST
            return first + mapped, first + mapped + (1 << hosts) - 1
    network = parse_network(text)
    mapped = V4_FIRST if network.version == 4 else 0
    return int(network.network_address) + mapped, int(network.broadcast_address) + mapped


def list_file(path: str) -> ListFile:
    """ValueError when it cannot be looked at, with the reason."""
    if not path.startswith("/"):
        raise ValueError('expected an absolute path, such as "file:/etc/l4lb/denied"')
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # ENOENT, EACCES, ...; a NUL in the path
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return ListFile(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


def entry_of(text: str) -> Entry:
    """ValueError for what is neither a CIDR nor a file that can be looked at."""
    if text.startswith(FILE):
        return list_file(text.removeprefix(FILE))
    parse_network(text)
    return text


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # of a FIFO, nobody waits for a writer


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """What is on each line but for comments, with its number. ValueError when the file cannot be read."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            data = file.read(FILE_BYTES_MAX + 1) or b""
    except OSError as error:  # EACCES, EISDIR, EIO, ...
        raise ValueError(f"{path}: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise ValueError(f"{path}: longer than {FILE_BYTES_MAX >> 20} MiB")
    for number, line in enumerate(data.split(b"\n"), 1):
        if text := line.partition(b"#")[0].strip():
            yield number, text.decode("utf-8", "backslashreplace")


def _bounds(entry: Entry) -> Iterator[Bounds]:
    if isinstance(entry, str):
        yield bounds_of(entry)
        return
    for number, text in _lines(entry.path):
        try:
            yield bounds_of(text)
        except ValueError as error:
            raise ValueError(f'{entry.path}:{number}: "{text[:80]}": {error}') from None


def _beside_v4(bounds: Bounds) -> list[Bounds]:
    """The network, or of an IPv6 network around IPv4's addresses what is before and behind them."""
    first, last = bounds
    if first >= V4_FIRST or last < V4_LAST:
        return [bounds]
    return [(first, V4_FIRST - 1), *([(V4_LAST + 1, last)] if last > V4_LAST else ())]


def _decisions(networks: Iterable[tuple[Bounds, bool]]) -> dict[Bounds, bool]:
    """Whether each network is denied."""
    decided: dict[Bounds, bool] = {}
    around = list[tuple[int, bool, list[Bounds]]]()
    for bounds, denied in networks:
        parts = _beside_v4(bounds)
        if parts != [bounds]:
            around.append((bounds[0] - bounds[1], denied, parts))
        else:
            decided[bounds] = denied or decided.get(bounds, False)
    for _, denied, parts in sorted(around):  # the smallest, which decides, comes last
        decided.update(dict.fromkeys(parts, denied))
    return decided


def _refused(decided: Mapping[Bounds, bool], first: int, last: int, refused: bool) -> Iterator[Bounds]:
    """The refused ranges from `first` to `last`, in order, where `refused` is what holds outside of all networks."""
    within = [(last, refused)]  # the networks around the current address, by their ends
    at = first
    for start, end in sorted((one for one in decided if first <= one[0] <= last), key=lambda one: (one[0], -one[1])):
        while within[-1][0] < start:
            until, verdict = within.pop()
            if verdict and at <= until:
                yield at, until
            at = until + 1
        if within[-1][1] and at < start:
            yield at, start - 1
        at = start
        within.append((end, decided[start, end]))
    while within:
        until, verdict = within.pop()
        if verdict and at <= until:
            yield at, until
        at = until + 1


def _joined(ranges: Iterable[Bounds]) -> bytes:
    """Sorted ranges as `_dataplane/base/ranges.pxd` searches them: 32 bytes each; those that meet become one."""
    found = list[Bounds]()
    start, end = 0, -1
    for first, last in ranges:
        if first > end + 1 or end < 0:
            if end >= 0:
                found.append((start, end))
            start, end = first, last
        else:
            end = max(end, last)
    if end >= 0:
        found.append((start, end))
    return b"".join(first.to_bytes(16, "big") + last.to_bytes(16, "big") for first, last in found)


def joined_ranges(one: bytes, other: bytes) -> bytes:
    """Both sets of ranges as one."""
    if not one or not other:
        return one or other
    words = [int.from_bytes(part[at : at + 16], "big") for part in (one, other) for at in range(0, len(part), 16)]
    return _joined(sorted(zip(words[::2], words[1::2], strict=True)))


def united_ranges(networks: Iterable[str]) -> bytes:
    """The ranges that these CIDRs make up together. ValueError as `bounds_of`."""
    return _joined(sorted(part for text in networks for part in _beside_v4(bounds_of(text))))


def refused_ranges(allow: Sequence[Entry], deny: Sequence[Entry]) -> bytes:
    """The refused ranges, for workers. ValueError with the file and the line of what is no CIDR.

    100,000 networks take more than a second: call it on a thread for which nobody waits.
    """
    lists = ((allow, False), (deny, True))
    decided = _decisions((one, denied) for entries, denied in lists for entry in entries for one in _bounds(entry))
    parts = ((0, V4_FIRST - 1), (V4_FIRST, V4_LAST), (V4_LAST + 1, _LAST))
    return _joined(one for first, last in parts for one in _refused(decided, first, last, bool(allow)))
