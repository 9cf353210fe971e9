"""Streams to a target: the one place where checks open TCP, unix and TLS connections.

Uses non-blocking sockets without a transport's buffers: a check reads only what it asked for, and closing never waits,
so that a cancelled check leaves nothing behind. Errors are CheckFailed at the current step.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator
from typing import Protocol

from l4lb.control.checks.checks import OUR_OWN, CheckFailed, Target, begin_step, failed, not_checked
from l4lb.model.verdicts import shortage_of_bind

PROXY_V2_LOCAL = b"\r\n\r\n\0\r\nQUIT\n" + b"\x20\0\0\0"  # section 2.2: version 2, LOCAL, unspecified family, no length
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; the port is chosen at connect, by the four-tuple
CHUNK_BYTES = 16384
MAX_ANSWER_BYTES = 65536  # no check looks at more: an endless answer costs no memory


class Stream(Protocol):
    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes:
        """The next bytes, at most CHUNK_BYTES; empty at the end."""

    def close(self) -> None: ...


class SocketStream:
    """Owns a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        try:
            await self._loop.sock_sendall(self._sock, data)
        except OSError as error:
            raise failed(error, self._sock.family, reported=True) from error

    async def receive(self) -> bytes:
        try:
            return await self._loop.sock_recv(self._sock, CHUNK_BYTES)
        except OSError as error:
            raise failed(error, self._sock.family, reported=True) from error

    def send_now(self, data: bytes) -> None:
        """Send as much as possible without waiting, whether or not the peer still reads."""
        with contextlib.suppress(OSError):
            self._sock.send(data)

    def close(self) -> None:
        """Close with a FIN, even with unread bytes, for which close(2) alone would send a reset."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self._sock.close()


class TlsStream:
    """TLS over a stream that it owns."""

    def __init__(self, under: SocketStream, context: ssl.SSLContext, server_name: str | None) -> None:
        self._under = under
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)

    async def handshake(self) -> None:
        while not self._shaken():
            await self._flush()
            await self._feed()
        await self._flush()

    def _shaken(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise _tls_failed(error) from error
        return True

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self._under.send(data)

    async def _feed(self) -> None:
        if data := await self._under.receive():
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def send(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()

    async def receive(self) -> bytes:
        while True:
            try:
                return self._tls.read(CHUNK_BYTES)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                raise _tls_failed(error) from error

    def close(self) -> None:
        """Close with close_notify, RFC 8446, 6.1; does not wait for the peer's."""
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._tls.unwrap()
        self._under.send_now(self._outgoing.read())
        self._under.close()


def _tls_failed(error: ssl.SSLError) -> CheckFailed:
    if isinstance(error, ssl.SSLCertVerificationError):
        return CheckFailed("tls", f"certificate refused: {error.verify_message}")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):  # without and with close_notify; which, by release
        return CheckFailed("tls", "closed during the handshake")
    return CheckFailed("tls", (error.reason or str(error)).lower().replace("_", " "))


@functools.lru_cache(maxsize=64)
def _context(verify: bool | str, changed_ns: int) -> ssl.SSLContext:
    """Cached, since reading CA certificates takes milliseconds; another `changed_ns` reads a changed file again."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif verify is True:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cafile=verify)
    return context


def _changed_ns(path: str) -> int:
    """When a file was last changed. OSError if it is no file: opening a FIFO would block the control loop."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a file")
    return found.st_mtime_ns


def _tls_context(target: Target) -> ssl.SSLContext:
    verify = target.settings.verify
    try:
        return _context(verify, _changed_ns(verify) if isinstance(verify, str) else 0)
    except OSError as error:  # ssl.SSLError is one
        if error.errno in OUR_OWN and not isinstance(error, ssl.SSLError):
            raise failed(error) from error
        raise CheckFailed("tls", f"{verify}: {error.strerror or error}") from error


def connecting_socket(target: Target, kind: socket.SocketKind) -> socket.socket:
    """A new non-blocking socket, bound to the target's source address if both have the same family."""
    try:
        sock = socket.socket(target.address.family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise failed(error, target.address.family) from error
    source = target.source
    if source is not None and source.family == target.address.family:
        try:
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source.host, 0))
        except OSError as error:
            sock.close()
            number = error.errno or 0
            raise not_checked(shortage_of_bind(number, source.family), number) from error
    return sock


async def _connect(target: Target, sock: socket.socket) -> None:
    """connect(2) without blocking: a unix socket is never in progress, and EAGAIN means that its accept queue is full.
    The loop's own `sock_connect` resolves even numeric addresses on libuv's threads, and libuv ends the process when it
    cannot start one."""
    family = target.address.family
    error, reported = sock.connect_ex(target.sockaddr), False
    if error == errno.EINPROGRESS:
        await _writable(sock)
        error, reported = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), True
    if error == errno.EAGAIN and family == socket.AF_UNIX:
        raise CheckFailed("connect", "accept queue full")
    if error:
        raise failed(OSError(error, os.strerror(error)), family, reported=reported)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(sock.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sock.fileno())


@contextlib.asynccontextmanager
async def open_stream(target: Target) -> AsyncIterator[SocketStream]:
    """A connection to `target`, with the PROXY header sent if the settings ask for one."""
    begin_step("connect")
    stream = SocketStream(sock := connecting_socket(target, socket.SOCK_STREAM))
    try:
        await _connect(target, sock)
        if target.settings.send_proxy:
            await stream.send(PROXY_V2_LOCAL)
        yield stream
    finally:
        stream.close()


@contextlib.asynccontextmanager
async def open_tls(target: Target, server_name: str) -> AsyncIterator[TlsStream]:
    """The same with TLS. Sends `server_name` as SNI and, with `verify`, expects it in the certificate; when it is
    empty, the certificate must have the address."""
    async with open_stream(target) as under:
        begin_step("tls")
        context = _tls_context(target)
        asked = server_name or (target.address.host if context.check_hostname else None)
        stream = TlsStream(under, context, asked)
        try:
            await stream.handshake()
            yield stream
        finally:
            stream.close()
