"""Finds who holds an address that is in use, through sock_diag(7) and /proc, for error messages.

sock_diag is asked for one port, so that the answer is short however many connections this host has, unlike
/proc/net/tcp. Called on the control thread and therefore bounded: a holder not found in time is not named.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from l4lb.model.address import SocketAddress

_NETLINK_SOCK_DIAG = 4  # linux/netlink.h, sock_diag.h, inet_diag.h
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_INET_DIAG_SKV6ONLY = 11
_TCP_LISTEN = 1 << 10
_ANY_STATE = 0xFFFFFFFF
_HEAD = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI HH16s16sI8s".replace(" ", ""))
_ANSWER = struct.Struct("=BBBB 2s2s16s16sI8s IIIII".replace(" ", ""))
_ANSWER_WITHIN_S = 0.5
_SEARCH_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Holder:
    """A socket of this host. `wide`: bound to all IPv6 addresses, it covers IPv4 too."""

    family: int
    host: bytes
    inode: int
    wide: bool

    def overlaps(self, address: SocketAddress) -> bool:
        """Whether it covers `address`, which has the same port."""
        own = packed(address)
        if address.family != self.family:
            return self.wide or (address.family == socket.AF_INET6 and not any(own))
        return own == self.host or not any(own) or not any(self.host)


def packed(address: SocketAddress) -> bytes:
    return socket.inet_pton(address.family, address.host.partition("%")[0])


def holders_of(address: SocketAddress, kind: int) -> list[Holder]:
    """The sockets of `kind` with the port of `address`, and its host or one that includes it; for SOCK_STREAM only
    listening ones. OSError when the kernel does not answer."""
    found = [one for family in (socket.AF_INET, socket.AF_INET6) for one in _dump(family, kind, address.port)]
    return [one for one in found if one.overlaps(address)]


def _dump(family: int, kind: int, port: int) -> Iterator[Holder]:
    tcp = kind == socket.SOCK_STREAM
    protocol, states = (socket.IPPROTO_TCP, _TCP_LISTEN) if tcp else (socket.IPPROTO_UDP, _ANY_STATE)
    request = _REQUEST.pack(family, protocol, 0, states, socket.htons(port), 0, b"", b"", 0, b"\xff" * 8)
    head = _HEAD.pack(_HEAD.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as sock:
        sock.settimeout(_ANSWER_WITHIN_S)
        sock.sendto(head + request, (0, 0))
        while True:
            for type_, body in _messages(sock.recv(1 << 16)):
                if type_ in (_NLMSG_DONE, _NLMSG_ERROR):
                    return
                if (one := _holder(body, port)) is not None:
                    yield one


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEAD.size:
        length, type_, *_ = _HEAD.unpack_from(data)
        yield type_, data[_HEAD.size : length]
        data = data[(length + 3) & ~3 :]


def _holder(body: bytes, port: int) -> Holder | None:
    """None for a socket of another port: some kernels list more than was asked for."""
    family, _, _, _, sport, _, source, *_, inode = _ANSWER.unpack_from(body)
    if int.from_bytes(sport, "big") != port:
        return None
    host = source[:4] if family == socket.AF_INET else source
    wide = family == socket.AF_INET6 and not any(host) and not _only_v6(body[_ANSWER.size :])
    return Holder(family, host, inode, wide)


def _only_v6(attributes: bytes) -> bool:
    while len(attributes) >= 4:
        length, type_ = struct.unpack_from("=HH", attributes)
        if length < 4:
            break
        if type_ == _INET_DIAG_SKV6ONLY:
            return bool(attributes[4])
        attributes = attributes[(length + 3) & ~3 :]
    return False


def unix_inodes(path: str) -> set[int]:
    """The inodes of the sockets bound to `path`, from /proc/net/unix."""
    found = set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/unix").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            fields = line.split(None, 7)
            if len(fields) == 8 and fields[7] == path:
                found.add(int(fields[6]))
    return found


def process_name(pid: int) -> str:
    """As in error messages: ``nginx (pid 123)``."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return f"pid {pid}"
    return f"{name} (pid {pid})"


def owner_of(inodes: Iterable[int]) -> str:
    """The process with the lowest pid that has one of these sockets, see `process_name`; empty when none is found: only
    root sees those of other users, and a busy host may have too many to look at in time."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    deadline = time.monotonic() + _SEARCH_WITHIN_S
    try:
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    except OSError:
        return ""
    for pid in pids if wanted else ():
        if time.monotonic() > deadline:
            break
        if _has(pid, wanted, deadline):
            return process_name(pid)
    return ""


def _has(pid: int, wanted: set[str], deadline: float) -> bool:
    """Also False when it is gone, or belongs to another user."""
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # closed meanwhile
                if os.readlink(entry.path) in wanted:
                    return True
            if time.monotonic() > deadline:
                return False
    return False


def taken_by(address: SocketAddress, kind: int, own: Iterable[socket.socket] = ()) -> str:
    """Who holds `address`, other than the `own` sockets, as the end of a sentence; empty when that is unknown."""
    known = {os.fstat(one.fileno()).st_ino for one in own}
    try:
        inodes = [one.inode for one in holders_of(address, kind) if one.inode not in known]
    except OSError:
        return ""
    if not inodes:
        return ""
    return f": port {address.port} is taken by {owner_of(inodes) or 'another process'}"
