"""QUIC servers and clients of aioquic on a thread of their own; a client's socket can be replaced while it talks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from tests.support.datagrams import address_pair
from tests.support.servers import certificate

T = TypeVar("T")
TIMEOUT_S = 20.0


class _Counting(QuicServer):
    """Counts what comes, understood or not."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.datagrams = 0

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        self.datagrams += 1
        super().datagram_received(data, addr)


class QuicPeers:
    """The thread and its loop. Methods are called from outside of it and return when it is done."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._answers: set[asyncio.Task[None]] = set()
        with tempfile.TemporaryDirectory() as directory:
            self._chain = certificate(Path(directory), "quic.example")
            self._server = QuicConfiguration(is_client=False)
            self._server.load_cert_chain(*self._chain)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, TIMEOUT_S), self._loop).result()

    @contextlib.contextmanager
    def serving(
        self, *names: str, retry: bool = False, id_bytes: int = 8, alpn: Sequence[str] = ()
    ) -> Iterator[dict[str, RunningServer]]:
        """Servers that answer each stream with their name; their connection ids have `id_bytes`."""
        self._server.connection_id_length = id_bytes
        self._server.alpn_protocols = list(alpn) or None
        servers = {name: self.run(self._serve(name, retry)) for name in names}
        try:
            yield servers
        finally:
            for server in servers.values():
                self._loop.call_soon_threadsafe(server.native.close)

    async def _serve(self, name: str, retry: bool) -> RunningServer:
        def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(_answer(name, reader, writer))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

        _, native = await self._loop.create_datagram_endpoint(
            lambda: _Counting(configuration=self._server, stream_handler=answer, retry=retry),
            local_addr=("127.0.0.1", 0),
        )
        return RunningServer(name, native)

    def connect(self, address: str, **options: Any) -> QuicClient:
        """A connection whose handshake is complete; `options` are QuicConfiguration's."""
        given = {"verify_mode": ssl.CERT_NONE, "server_name": "quic.example", **options}
        configuration = QuicConfiguration(**given)
        return self.run(self._connect(address, configuration))

    async def _connect(self, address: str, configuration: QuicConfiguration) -> QuicClient:
        protocol = QuicConnectionProtocol(QuicConnection(configuration=configuration))
        client = QuicClient(self, protocol)
        await client.bind(free_udp_socket())
        protocol.connect(address_pair(address))
        await protocol.wait_connected()
        return client

    def close(self) -> None:
        async def cancel() -> None:
            mine = asyncio.current_task()
            tasks = [task for task in asyncio.all_tasks() if task is not mine]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(cancel(), self._loop).result(TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.close()


async def _answer(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.write(name.encode())
    writer.write_eof()


class RunningServer:
    def __init__(self, name: str, native: _Counting) -> None:
        self.name = name
        self.native = native
        assert native._transport is not None
        self.address = "{}:{}".format(*native._transport.get_extra_info("sockname"))

    @property
    def datagrams(self) -> int:
        return self.native.datagrams


class QuicClient:
    def __init__(self, peers: QuicPeers, protocol: QuicConnectionProtocol) -> None:
        self._peers = peers
        self._protocol = protocol
        self._transport: asyncio.BaseTransport | None = None

    async def bind(self, sock: socket.socket) -> None:
        """From now on it sends and hears by `sock` alone, as when its NAT forgot it; its connection is not told."""
        before = self._transport
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self._protocol, sock=sock)
        if before is not None:
            before.close()

    def move(self, sock: socket.socket | None = None) -> None:
        """Go on from another port."""
        self._peers.run(self.bind(sock or free_udp_socket()))

    def ask(self, timeout_s: float = TIMEOUT_S) -> str:
        """The name of its server, by a stream of its own; TimeoutError."""
        return self._peers.run(asyncio.wait_for(self._ask(), timeout_s))

    async def _ask(self) -> str:
        reader, writer = await self._protocol.create_stream()
        writer.write(b"who?")
        writer.write_eof()
        return (await reader.read()).decode()

    def close(self) -> None:
        async def close() -> None:
            self._protocol.close()
            assert self._transport is not None
            self._transport.close()

        self._peers.run(close())

    def __enter__(self) -> QuicClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def free_udp_socket() -> socket.socket:
    """Bound to a port that is its own; not blocking."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


@contextlib.contextmanager
def quic_peers() -> Iterator[QuicPeers]:
    peers = QuicPeers()
    try:
        yield peers
    finally:
        peers.close()
