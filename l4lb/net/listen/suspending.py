"""Addresses that are kept while nobody listens there: clients are refused, and no other program gets the address.
Control thread.

| | suspended by | clients see | resumed by |
|---|---|---|---|
| TCP | shutdown(2), SHUT_RD | connection refused | listen(2) |
| UDP | connect(2) of one socket to itself, the others are closed | ICMP port unreachable | new sockets |
| unix | shutdown(2), for good | connection refused | a new socket in its place |

shutdown(2) resets clients that wait in the queue of a TCP socket. A connected UDP socket receives from its peer alone,
which here is itself. It can be disconnected, but no longer spreads its datagrams over a SO_REUSEPORT group: hence the
new sockets. These need no right that the process lacks, as long as it may bind ports below 1024 there.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import InheritedSocket, ListenerSpec
from l4lb.model.states import Protocol
from l4lb.net.listen.options import set_options
from l4lb.net.listen.sockets import ListeningSockets, open_address


def suspend(sockets: ListeningSockets) -> None:
    """Refuse clients from now on. Not for sockets that another process accepts on."""
    if sockets.suspended:
        return
    sockets.suspended = True
    if sockets.sockets[0].type == socket.SOCK_DGRAM:
        _suspend_datagrams(sockets)
        return
    for sock in sockets.sockets:
        _stop_listening(sock)


def _stop_listening(sock: socket.socket) -> None:
    """shutdown(2) of a TCP socket that does not listen yet would end what its later clients send. Without SO_REUSEADDR
    nobody else may bind the address, who could while nobody listens there."""
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.shutdown(socket.SHUT_RD)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def _suspend_datagrams(sockets: ListeningSockets) -> None:
    """connect(2) may fail where no route leads to the own address (ENETUNREACH, transparent): then nothing keeps the
    address meanwhile."""
    keeper, *others = sockets.sockets
    for sock in others:
        sock.close()
    try:
        keeper.connect(keeper.getsockname())
        sockets.sockets = [keeper]
    except OSError:
        keeper.close()
        sockets.sockets = []


def resume(
    sockets: ListeningSockets,
    address: SocketAddress | InheritedSocket,
    spec: ListenerSpec,
    workers: int,
    own: Sequence[socket.socket],
    cpus: Sequence[int],
) -> None:
    """Listen again, as `spec` says; the other arguments are those of `open_address`. OSError, and they stay suspended,
    when that is impossible."""
    assert isinstance(address, SocketAddress)  # what is inherited is never suspended
    if spec.protocol is Protocol.UDP:
        _replace(sockets, _open_anew(sockets, address, spec, workers, own).sockets)
    elif address.family == socket.AF_UNIX:
        _resume_unix(sockets, address, spec)
    else:
        _listen(sockets, spec, cpus)
    sockets.suspended = False


def _open_anew(
    sockets: ListeningSockets, address: SocketAddress, spec: ListenerSpec, workers: int, own: Sequence[socket.socket]
) -> ListeningSockets:
    """At the same port, also where the kernel had chosen it."""
    there = SocketAddress(address.family, address.host, sockets.port)
    return open_address(there, spec, workers, own)


def _replace(sockets: ListeningSockets, opened: list[socket.socket]) -> None:
    for sock in sockets.sockets:
        sock.close()
    sockets.sockets = opened


def _resume_unix(sockets: ListeningSockets, address: SocketAddress, spec: ListenerSpec) -> None:
    for sock in sockets.sockets:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # it never listened, and was not shut down
            sock.listen(spec.backlog)
            return
    if address.host.startswith("@"):  # the name is free once nobody has the socket
        _replace(sockets, [])
    opened = open_address(address, spec, 1)
    _replace(sockets, opened.sockets)
    sockets.take_file(opened)


def _listen(sockets: ListeningSockets, spec: ListenerSpec, cpus: Sequence[int]) -> None:
    """listen(2), EADDRINUSE: another program listens there, for all that."""
    try:
        for sock in sockets.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            set_options(sock, spec)
        sockets.listen(spec, cpus)
    except OSError:
        for sock in sockets.sockets:
            with contextlib.suppress(OSError):
                _stop_listening(sock)
        raise
