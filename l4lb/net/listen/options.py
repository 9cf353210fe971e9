"""Options of listening sockets, and the classic BPF programs attached to them: one selects the worker of a connection,
one drops clients. Called by `l4lb.net.listen.sockets`."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Sequence

from l4lb.model.snapshot import Keepalive, ListenerSpec
from l4lb.model.states import Protocol
from l4lb.net.access import joined_ranges
from l4lb.net.listen.filters import INSTRUCTIONS_MAX, Instruction, TooLong, drop_from

_IP_TRANSPARENT = 19  # linux/in.h; the socket module does not name these
_IPV6_TRANSPARENT = 75
_IPV6_RECVPKTINFO = 49
_IP_PKTINFO = 8
SO_ATTACH_FILTER = 26
SO_DETACH_FILTER = 27
_SO_ATTACH_REUSEPORT_CBPF = 51
_SO_RCVBUFFORCE = 33
_SO_SNDBUFFORCE = 32
_UDP_GRO = 104
_UDP_BUFFER_BYTES = 4 << 20


def _set_keepalive(sock: socket.socket, keepalive: Keepalive | None) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, keepalive is not None)
    if keepalive is None:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(round(keepalive.idle_s), 1))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(round(keepalive.interval_s), 1))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, keepalive.count)


def set_options(sock: socket.socket, spec: ListenerSpec) -> None:
    """Set options that accepted sockets inherit, and those of the listening socket itself; also to change them later.

    OSError EPERM when this process may not use `transparent`.
    """
    if sock.family == socket.AF_UNIX:
        return
    if spec.protocol is Protocol.UDP:
        _set_udp(sock, spec)
    else:
        _set_tcp(sock, spec)
    v6 = sock.family == socket.AF_INET6
    level, option = (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT) if v6 else (socket.IPPROTO_IP, _IP_TRANSPARENT)
    if spec.transparent or sock.getsockopt(level, option):
        try:
            sock.setsockopt(level, option, spec.transparent)
        except PermissionError:
            raise PermissionError(errno.EPERM, "transparent requires CAP_NET_RAW or CAP_NET_ADMIN") from None


def _set_udp(sock: socket.socket, spec: ListenerSpec) -> None:
    """Set buffers for bursts, and request what comes with each datagram: the type of service, the size of merged ones,
    and the address that it came to, if that is not the socket's own."""
    for force, option in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, _UDP_BUFFER_BYTES)
        except PermissionError:  # without CAP_NET_ADMIN: as much as net.core.rmem_max and wmem_max allow
            sock.setsockopt(socket.SOL_SOCKET, option, _UDP_BUFFER_BYTES)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    with contextlib.suppress(OSError):  # kernels before 5.0
        sock.setsockopt(socket.SOL_UDP, _UDP_GRO, spec.trains)


def ask_for_local_address(sock: socket.socket) -> None:
    """Request the address that each datagram came to: a socket bound to all addresses answers from that one. For a
    broadcast over IPv4, only the IPv4 option reports it, also on IPv6 sockets."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def _set_tcp(sock: socket.socket, spec: ListenerSpec) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # see _dataplane/tcp/relay.pxd
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, spec.nodelay)
    _set_keepalive(sock, spec.keepalive)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(spec.user_timeout_s * 1000))
    if spec.fast_open or sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, spec.fast_open)
    defer_s = max(round(spec.defer_accept_s), 1) if spec.defer_accept_s else 0
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, defer_s)
    set_filter(sock, spec)


def steer_by_cpu(sock: socket.socket, cpus: Sequence[int]) -> None:
    """Make the SO_REUSEPORT group of `sock` choose by the CPU that handles the packet (socket(7)).

    Classic BPF: load the CPU number; if it is the i-th of `cpus` return i, else its remainder.
    """
    load_cpu = (0x20, 0, 0, 0xFFFFF000 + 36)  # BPF_LD|BPF_W|BPF_ABS, SKF_AD_OFF + SKF_AD_CPU
    program = [load_cpu]
    for index, cpu in enumerate(cpus):
        program.append((0x15, 0, 1, cpu))  # BPF_JMP|BPF_JEQ|BPF_K: else skip the return
        program.append((0x06, 0, 0, index))  # BPF_RET|BPF_K
    program += [(0x94, 0, 0, len(cpus)), (0x16, 0, 0, 0)]  # BPF_ALU|BPF_MOD|BPF_K, BPF_RET|BPF_A
    attach(sock, _SO_ATTACH_REUSEPORT_CBPF, program)


def set_filter(sock: socket.socket, spec: ListenerSpec) -> None:
    """Drop the SYNs of the clients that `spec` refuses, or let all in. Accepted sockets inherit the filter, which takes
    their clients' packets. Too many networks for one filter, or for net.core.optmem_max (ENOMEM): those of the lists
    are dropped, and workers reset banned clients, as they do with those who connected before.

    Linux 6.18 lets only CAP_NET_ADMIN filter TCP (EPERM).
    """
    if not spec.drops:
        with contextlib.suppress(FileNotFoundError, PermissionError):  # there is no filter, or none can be had
            sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        return
    few = len(spec.banned) // 32 <= INSTRUCTIONS_MAX  # else not worth the time to join them
    both = joined_ranges(spec.refused, spec.banned) if few else spec.refused
    if not _dropped(sock, both) and not _dropped(sock, spec.refused):
        reason = 'too many networks for deny_action = "drop", or for net.core.optmem_max'
        raise OSError(errno.ENOMEM, reason)


def _dropped(sock: socket.socket, ranges: bytes) -> bool:
    """Drop the SYNs from these addresses. False when that is too much for a filter."""
    try:
        attach(sock, SO_ATTACH_FILTER, drop_from(ranges))
    except TooLong:
        return False
    except PermissionError:
        raise PermissionError(errno.EPERM, 'deny_action = "drop" requires CAP_NET_ADMIN') from None
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        return False
    return True


def attach(sock: socket.socket, option: int, program: Sequence[Instruction]) -> None:
    """Attach classic BPF with an SO_ATTACH_... option (socket(7))."""
    buffer = bytearray(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    import ctypes  # the kernel wants a pointer to the program, which only ctypes gives

    pointer = ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@HP", len(program), pointer))
