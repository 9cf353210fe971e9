"""Datagrams to a target: the one place where checks open UDP sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

from l4lb.control.checks.checks import Target, failed
from l4lb.control.checks.stream import connecting_socket

MAX_DATAGRAM_BYTES = 65535


class Datagrams:
    """Owns a connected socket: the kernel passes only the target's datagrams, and its ICMP refusals as errors."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    def send(self, data: bytes) -> None:
        try:
            self._sock.send(data)
        except BlockingIOError:
            return  # the send buffer is full: lost, as datagrams may be
        except OSError as error:  # also an ICMP error for the previous datagram
            raise failed(error, self._sock.family) from error

    async def receive(self) -> bytes:
        try:
            return await self._loop.sock_recv(self._sock, MAX_DATAGRAM_BYTES)
        except OSError as error:
            raise failed(error, self._sock.family, reported=True) from error


@contextlib.contextmanager
def open_datagrams(target: Target) -> Iterator[Datagrams]:
    """A UDP socket that is connected to the target, from the source that the pool says. Raises `CheckFailed`."""
    sock = connecting_socket(target, socket.SOCK_DGRAM)
    try:
        try:
            sock.connect(target.sockaddr)  # UDP: no packet, no waiting; ENETUNREACH when there is no route
        except OSError as error:
            raise failed(error, target.address.family) from error
        yield Datagrams(sock)
    finally:
        sock.close()
