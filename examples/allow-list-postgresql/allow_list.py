"""Networks from a table of PostgreSQL, in memory.

A task on the event loop of the hooks reads the table, listens for changes and reads it again. While the database is
away, what was read last goes on. libpq finds the database by its own environment: PGHOST, PGUSER, PGPASSFILE and so on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from psycopg import AsyncConnection

CONNECTION = "connect_timeout=5 client_encoding=utf8"
READ_WITHIN_S = 30.0
READ_EVERY_S = 60.0  # even if no change was heard of: the trigger may be missing, or the connection dead
AGAIN_AFTER_S = 1.0

logger = logging.getLogger("l4lb.allow_list")  # below l4lb's own, so that its lines are in the same log


class NotRead(Exception):
    """There are no networks yet. l4lb reports it, and `on_error` decides."""


class Networks:
    """A set of networks. To ask it takes one look for each length of prefix that there is, however many networks."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._prefixes: dict[tuple[int, int], set[int]] = {}  # by IP version and by how many bits the prefix leaves out
        for network in map(ip_network, networks):
            bits_left = network.max_prefixlen - network.prefixlen
            prefixes = self._prefixes.setdefault((network.version, bits_left), set())
            prefixes.add(int(network.network_address) >> bits_left)

    def __len__(self) -> int:
        return sum(map(len, self._prefixes.values()))

    def __contains__(self, client: str) -> bool:
        address = ip_address(client)
        number = int(address)
        return any(
            number >> bits_left in prefixes
            for (version, bits_left), prefixes in self._prefixes.items()
            if version == address.version
        )


class AllowList:
    """Used on one event loop at a time."""

    def __init__(self) -> None:
        self._networks: Networks | None = None
        self._error = ""  # why they could not be read; empty: they were
        self._task: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()

    async def networks(self) -> Networks:
        """What was read last, at once. Only who comes before the first attempt has ended waits for it. NotRead when
        there is nothing."""
        self._keep_fresh()
        if self._networks is None:
            await self._tried.wait()
        if self._networks is None:
            raise NotRead(f"the allow-list could not be read yet: {self._error}")
        return self._networks

    def _keep_fresh(self) -> None:
        """Begins with the first session: when this module is imported there is no event loop yet."""
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._tried = asyncio.Event()
            self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        """Until it is cancelled, when l4lb stops."""
        while True:
            try:
                await self._follow()
            except Exception as error:  # whatever it is, the next attempt may succeed
                self._failed(error)
            await asyncio.sleep(AGAIN_AFTER_S)

    async def _follow(self) -> None:
        """Read the table now and after each change, until the connection fails."""
        async with await AsyncConnection.connect(CONNECTION, autocommit=True) as connection:
            async with asyncio.timeout(READ_WITHIN_S):
                await connection.execute("LISTEN allow_list")  # before the first read: no change is missed in between
            while True:
                async with asyncio.timeout(READ_WITHIN_S):
                    await self._read(connection)
                async for _ in connection.notifies(timeout=READ_EVERY_S, stop_after=1):
                    pass  # those that came together are one change

    async def _read(self, connection: AsyncConnection) -> None:
        cursor = await connection.execute("SELECT network::text FROM allowed")
        texts = [text for (text,) in await cursor.fetchall()]
        networks = await asyncio.to_thread(Networks, texts)  # of a hundred thousand it takes a while
        if self._networks is None or self._error:
            logger.info("allow-list read", extra={"fields": {"networks": len(networks)}})
        self._networks = networks
        self._error = ""
        self._tried.set()

    def _failed(self, error: Exception) -> None:
        """Reported once, until it has been read again."""
        if not self._error:
            known = len(self._networks) if self._networks is not None else "none"
            fields = {"reason": _text(error), "networks": known}
            logger.warning("allow-list cannot be read, what is known goes on", extra={"fields": fields})
        self._error = _text(error)
        self._tried.set()


def _text(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


ALLOW_LIST = AllowList()
