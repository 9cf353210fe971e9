"""Listening sockets: opened here and handed to the data plane. Called by the engine, on the control thread.

An IP address gets one socket per worker, in one SO_REUSEPORT group. A unix or inherited socket is single, and all
workers share it, except an inherited UDP socket: one worker has it, since a client's datagrams must not be scattered.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import InheritedSocket, ListenerSpec
from l4lb.model.states import Protocol
from l4lb.net.listen.filters import DROP_SYN
from l4lb.net.listen.holders import Holder, packed, taken_by
from l4lb.net.listen.options import (
    SO_ATTACH_FILTER,
    ask_for_local_address,
    attach,
    set_filter,
    set_options,
    steer_by_cpu,
)
from l4lb.net.listen.unix_paths import bind_unix, remove_own
from l4lb.net.systemd.inherited import FIRST_INHERITED_FD, inherited_names

_SO_MEMINFO = 55


def sockaddr_bytes(address: SocketAddress) -> bytes:
    """`address` as the kernel's struct sockaddr (ip(7), ipv6(7), unix(7))."""
    family = struct.pack("=H", address.family)
    if address.family == socket.AF_INET:
        return family + struct.pack("!H", address.port) + socket.inet_pton(socket.AF_INET, address.host) + bytes(8)
    if address.family == socket.AF_INET6:
        host, _, zone = address.host.partition("%")
        scope = socket.if_nametoindex(zone) if zone else 0
        packed = socket.inet_pton(socket.AF_INET6, host)
        return family + struct.pack("!HI", address.port, 0) + packed + struct.pack("=I", scope)
    return family + (_unix_name(address) if address.host.startswith("@") else _unix_name(address) + b"\0")


def _unix_name(address: SocketAddress) -> bytes:
    """The name that bind(2) takes: a path, or a zero byte and the abstract name."""
    name = address.host.encode()
    return b"\0" + name[1:] if name.startswith(b"@") else name


class Assigned(NamedTuple):
    """A socket that `worker` accepts from. `shared`: other workers have it too; `datagrams`: UDP; `wide`: IPv6; `host`:
    the packed address that its clients connect to, empty when there may be several; `first`: the first socket of its
    address, since each of them receives multicast and broadcast datagrams."""

    worker: int
    fd: int
    port: int
    shared: bool
    datagrams: bool
    wide: bool
    host: bytes = b""
    first: bool = True


def _drops(sock: socket.socket) -> int:
    try:
        values = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)  # nine numbers, sock_diag.h; the last is it
    except OSError:
        return 0
    return int(struct.unpack("=9I", values)[8]) if len(values) == 36 else 0


@dataclass(slots=True)
class ListeningSockets:
    """The sockets of one bind address: one per worker; or fewer, which workers share; or more, of which workers have
    several each (a process with another number of workers opened them). While they are `suspended`, workers use none:
    see `l4lb.net.listen.suspending`."""

    sockets: list[socket.socket]
    address: str
    port: int = 0
    owned_path: str = ""
    suspended: bool = False
    _inode: int = field(default=0, repr=False)
    _to_own: tuple[str, int] = ("", 0)

    def spread(self, workers: int) -> list[Assigned]:
        """Assign every socket, at least one to each worker. Workers do not share UDP sockets: when there are fewer,
        some workers have none."""
        socks = self.sockets
        datagrams = bool(socks) and socks[0].type == socket.SOCK_DGRAM
        count = len(socks) if datagrams else max(workers, len(socks))
        shared = len(socks) < workers and not datagrams
        return [
            Assigned(
                *(index % workers, sock.fileno(), self.port, shared, datagrams, sock.family == socket.AF_INET6),
                first=index == 0,
            )
            for index, sock in ((index, socks[index % len(socks)]) for index in range(count))
        ]

    def kernel_drops(self) -> int:
        """Datagrams for which the sockets' queues had no room. 0 where the kernel does not report it (before 4.12)."""
        return sum(_drops(sock) for sock in self.sockets)

    @property
    def host(self) -> bytes:
        """The IP address, packed; empty for unix sockets and for all addresses."""
        family = self.sockets[0].family
        if family not in (socket.AF_INET, socket.AF_INET6):
            return b""
        packed = socket.inet_pton(family, self.sockets[0].getsockname()[0].partition("%")[0])
        return packed if any(packed) else b""

    @property
    def file(self) -> str:
        """The file that `close` removes, once this process owns it; empty: none."""
        return self.owned_path or self._to_own[0]

    def described(self) -> dict[str, Any]:
        """What the next process needs to know about them, besides the descriptors."""
        about = {"address": self.address, "port": self.port, "path": self.owned_path, "inode": self._inode}
        return {**about, "suspended": self.suspended}

    @classmethod
    def imported(cls, fds: Sequence[int], described: Mapping[str, Any]) -> ListeningSockets:
        """From another process: its file is that one's until `claim`."""
        sockets = [socket.socket(fileno=fd) for fd in fds]
        to_own = (described["path"], described["inode"])
        suspended = bool(described.get("suspended", False))
        return cls(sockets, described["address"], described["port"], suspended=suspended, _to_own=to_own)

    def listen(self, spec: ListenerSpec, cpus: Sequence[int] = ()) -> None:
        """Begin to accept TCP clients; the other sockets do already. Call it once nothing else can fail, since closing
        them again would reset clients that came meanwhile. With `cpus`, worker i gets the connections that CPU
        ``cpus[i]`` handles. listen(2): EADDRINUSE when another program listens there by now."""
        if spec.protocol is not Protocol.TCP or self.sockets[0].family == socket.AF_UNIX:
            return
        for sock in self.sockets:
            sock.listen(spec.backlog)
        if cpus and len(self.sockets) > 1:  # of UDP, a client must always come to one worker
            steer_by_cpu(self.sockets[0], cpus)

    def chown(self, uid: int, gid: int) -> None:
        """To the user that this process is to become: SO_REUSEPORT groups, and addresses that overlap, are those of one
        user alone, and it goes by the socket's owner (fchown(2))."""
        for sock in self.sockets:
            os.fchown(sock.fileno(), uid, gid)

    def refuse_new_clients(self) -> None:
        """Refuse new clients before closing, since closing resets clients in the queue or the handshake. New TCP
        clients get no answer until then and are refused afterwards; clients already in the queue can still be accepted.
        A unix socket refuses at once, for good.

        Linux 6.18 lets only CAP_NET_ADMIN filter TCP (EPERM). Without it the queue holds one client, and others get no
        answer while it is full: one client per socket may still come after the last accept, and is reset.

        This changes the sockets themselves: do not use it for sockets that another process has too.
        """
        for sock in self.sockets:
            if sock.family == socket.AF_UNIX:
                sock.shutdown(socket.SHUT_RD)
                continue
            try:
                attach(sock, SO_ATTACH_FILTER, DROP_SYN)
            except PermissionError:
                sock.listen(0)

    def accept_new_clients(self, spec: ListenerSpec) -> None:
        """Undo `refuse_new_clients`; TCP."""
        for sock in self.sockets:
            set_filter(sock, spec)
            sock.listen(spec.backlog)

    def claim(self) -> None:
        """The process that they were taken over from will not remove their file: this one will."""
        if self._to_own[0]:
            self.owned_path, self._inode = self._to_own

    def take_file(self, other: ListeningSockets) -> None:
        """The file of `other`, whose socket took this one's place."""
        self.owned_path, self._inode, self._to_own = other.owned_path, other._inode, ("", 0)

    def give_up(self) -> None:
        """Another process has taken them over, with their file."""
        self.owned_path = ""

    def close(self) -> None:
        """Close them and remove a unix socket's file, unless somebody else's file is there now."""
        for sock in self.sockets:
            sock.close()
        self.sockets = []
        if self.owned_path:
            remove_own(self.owned_path, self._inode)
            self.owned_path = ""


def _bind_name(address: SocketAddress) -> tuple[str, int] | tuple[str, int, int, int]:
    """The address for bind(2), with the interface if it is link-local. OSError ENODEV for an unknown interface."""
    host, _, zone = address.host.partition("%")
    return (host, address.port, 0, socket.if_nametoindex(zone)) if zone else (host, address.port)


def _share(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _bind_first(sock: socket.socket, address: SocketAddress, own: Sequence[socket.socket]) -> None:
    """Bind the first socket of an address, and set SO_REUSEPORT only afterwards: so another process on the address is
    an error instead of a silent share of the traffic, whatever that process has set, and siblings may still join.

    bind(2), EADDRINUSE: when only `own` sockets are in the way, of an address that includes this one or is included,
    all of them get SO_REUSEPORT first. The kernel then gives a packet to the sockets of the most specific address, and
    among those to listening ones. All must belong to one user (socket(7)).
    """
    try:
        sock.bind(_bind_name(address))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        in_the_way = [one for one in own if _in_the_way(one, sock, address)]
        if (reason := taken_by(address, sock.type, in_the_way)) or not in_the_way:
            raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}{reason}") from None
        for one in [*in_the_way, sock]:
            _share(one)
        sock.bind(_bind_name(address))
    _share(sock)


def _in_the_way(one: socket.socket, sock: socket.socket, address: SocketAddress) -> bool:
    if one.family == socket.AF_UNIX or one.type != sock.type or one.getsockname()[1] != address.port:
        return False
    bound = packed(SocketAddress(one.family, one.getsockname()[0]))
    wide = one.family == socket.AF_INET6 and not any(bound)
    return Holder(one.family, bound, 0, wide).overlaps(address)


def _open_inet(address: SocketAddress, spec: ListenerSpec, own: Sequence[socket.socket] | None) -> socket.socket:
    """One bound socket: the first of its address, for which `own` may be in the way, or (None) one that joins it."""
    udp = spec.protocol is Protocol.UDP
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    sock = socket.socket(address.family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if not udp:  # with UDP it would let others take the address
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address.host == "::" else 1)
        set_options(sock, spec)
        if udp and (spec.transparent or address.host in ("0.0.0.0", "::")):
            ask_for_local_address(sock)
        if own is None:
            _share(sock)
            sock.bind(_bind_name(address))
        else:
            _bind_first(sock, address, own)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_inet(
    address: SocketAddress, spec: ListenerSpec, workers: int, own: Sequence[socket.socket]
) -> ListeningSockets:
    opened = ListeningSockets([], str(address))
    try:
        chosen = address.port == 0
        for index in range(workers + chosen):
            sock = _open_inet(address, spec, None if index else own)
            opened.sockets.append(sock)
            if index == 0:
                opened.port = sock.getsockname()[1]
                address = SocketAddress(address.family, address.host, opened.port)
        if chosen:  # by the kernel, which takes such a port back from a socket that does not listen for a while
            opened.sockets.pop(0).close()
    except BaseException:
        opened.close()
        raise
    opened.address = str(address)
    return opened


def _listen_unix(address: SocketAddress, spec: ListenerSpec) -> ListeningSockets:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    opened = ListeningSockets([sock], str(address))
    path = "" if address.host.startswith("@") else address.host
    try:
        opened._inode = bind_unix(sock, _unix_name(address), path)
        opened.owned_path = path
        if not spec.suspended:
            sock.listen(spec.backlog)
    except BaseException:
        opened.close()
        raise
    return opened


def _bound_to(sock: socket.socket) -> SocketAddress:
    bound = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return SocketAddress(sock.family, bound if isinstance(bound, str) else "@" + bound[1:].decode())
    return SocketAddress(sock.family, bound[0], bound[1])


def _listen_inherited(name: str, spec: ListenerSpec) -> ListeningSockets:
    """Take the sockets that the service manager passed as `name`: one, or more of one address (ReusePort).

    ENOENT: there is none; EINVAL: they have several addresses.
    """
    names = inherited_names()
    fds = [FIRST_INHERITED_FD + index for index, passed in enumerate(names) if passed == name]
    if not fds:
        passed = ", ".join(names) or "none"
        raise FileNotFoundError(errno.ENOENT, f"no inherited socket of that name (passed: {passed})")
    opened = ListeningSockets([socket.socket(fileno=os.dup(fd)) for fd in fds], "")
    try:
        addresses = list(dict.fromkeys(_bound_to(sock) for sock in opened.sockets))
        if len(addresses) > 1:
            listed = " and ".join(map(str, addresses))
            raise OSError(errno.EINVAL, f"{len(fds)} sockets of that name, at {listed}: expected one address a name")
        for sock in opened.sockets:
            if (sock.type == socket.SOCK_DGRAM) is not (spec.protocol is Protocol.UDP):
                raise OSError(errno.EPROTOTYPE, f'the inherited socket is not one of protocol "{spec.protocol}"')
            sock.setblocking(False)
            set_options(sock, spec)
            if spec.protocol is Protocol.UDP and addresses[0].host in ("0.0.0.0", "::"):
                ask_for_local_address(sock)
    except BaseException:
        opened.close()
        raise
    opened.address, opened.port = str(addresses[0]), addresses[0].port
    return opened


def open_address(
    address: SocketAddress | InheritedSocket, spec: ListenerSpec, workers: int, own: Sequence[socket.socket] = ()
) -> ListeningSockets:
    """Open the sockets of one address of `spec`; TCP accepts clients after `ListeningSockets.listen`. `own` are all
    sockets on which this process listens already.

    Raises OSError (EADDRINUSE, EADDRNOTAVAIL, EACCES, EPERM, EMFILE, ...) and leaves nothing open.
    """
    if isinstance(address, InheritedSocket):
        return _listen_inherited(address.name, spec)
    if address.family == socket.AF_UNIX:
        return _listen_unix(address, spec)
    return _bind_inet(address, spec, workers, own)
