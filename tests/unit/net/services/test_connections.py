"""Connections to other systems end when they are to end, though a server of TLS answers nothing any more."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
import uvloop

from l4lb.net.services.connections import Connector
from tests.support.servers import certificate

pytestmark = pytest.mark.external
TIMES = 30


def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("closed_before", [0, 1, 2])
def test_one_that_was_closed_before_is_broken_off(
    closed_before: int, new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    """Closed twice, asyncio forgets how it could be."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*certificate(tmp_path, "localhost"))
    ended = threading.Event()

    def answer_once(listening: socket.socket) -> None:
        accepted, _ = listening.accept()
        accepted.settimeout(20)
        with serving.wrap_socket(accepted, server_side=True) as tls:
            tls.recv(65536)
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
            with socket.socket(fileno=os.dup(tls.fileno())) as below:
                below.settimeout(20)
                try:
                    while below.recv(65536):
                        pass
                except ConnectionResetError:
                    pass
                except TimeoutError:
                    return
                ended.set()

    async def ask(port: int) -> None:
        connector = Connector(ssl=trusting())
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.get(f"https://127.0.0.1:{port}/") as response:
                assert await response.read() == b"[]"
            (transport,) = connector._open
            for close in (transport.get_protocol().close, transport.close)[:closed_before]:
                close()
        assert await asyncio.to_thread(ended.wait, 10)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer_once, args=(listening,))
        thread.start()
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(ask(listening.getsockname()[1]))
        thread.join()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_those_that_are_reset_after_the_handshake_are_forgotten(
    new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(tmp_path, "localhost"))

    def reset_each(listening: socket.socket) -> None:
        for _ in range(TIMES):
            accepted, _ = listening.accept()
            accepted.settimeout(20)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError), context.wrap_socket(accepted, server_side=True):
                pass

    async def ask(port: int) -> None:
        connector = Connector(ssl=trusting())
        async with aiohttp.ClientSession(connector=connector) as session:
            for _ in range(TIMES):
                with pytest.raises(aiohttp.ClientError):
                    await session.post(f"https://127.0.0.1:{port}/")
            async with asyncio.timeout(20):
                while connector._open:
                    await asyncio.sleep(0.01)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=reset_each, args=(listening,))
        thread.start()
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(ask(listening.getsockname()[1]))
        thread.join()
