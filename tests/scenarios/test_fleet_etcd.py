"""What the client of etcd does with a real one."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from l4lb.net.services.etcd import Done, Etcd, KeyValue, Login, get_op, lease_is, put_op, range_op, txn_op, version_is
from l4lb.net.services.etcd_servers import EtcdServers
from l4lb.net.services.json_api import Access, ApiError
from tests.support.etcd import etcd
from tests.support.programs import free_port

T = TypeVar("T")


def asked(endpoints: list[str], call: Callable[[Etcd], Awaitable[T]], timeout_s: float = 10.0) -> T:
    async def ask() -> T:
        servers = EtcdServers(Access(endpoints, timeout_s), Login())
        try:
            return await servers.ask(call)
        finally:
            await servers.close()

    return asyncio.run(ask())


def test_keys_are_put_read_and_deleted() -> None:
    async def call(one: Etcd) -> None:
        assert await one.get("/a/x") is None
        await one.put("/a/x", b"\xff first")
        await one.put("/a/x", "zwölf".encode())
        await one.put("/ab", b"")
        found = await one.get("/a/x")
        assert found is not None
        assert (found.value.decode(), found.version, found.lease) == ("zwölf", 2, 0)
        kvs, revision = await one.range("/a/", "/ab")
        assert [(kv.key, kv.value) for kv in kvs] == [("/a/x", "zwölf".encode()), ("/ab", b"")]
        assert revision > found.revision
        await one.delete("/a/x")
        await one.delete("/a/x")
        assert await one.get("/a/x") is None

    with etcd() as server:
        asked([server.endpoint], call)


def test_a_transaction_does_all_of_one_side() -> None:
    async def call(one: Etcd) -> None:
        put = put_op("/k", b"1")
        done = await one.txn([version_is("/k", 0)], [put, get_op("/k")])
        assert done.succeeded
        assert isinstance(done.found[1], list)
        assert [kv.value for kv in done.found[1]] == [b"1"]
        inner = txn_op([version_is("/k", 0)], [put], [range_op("/k")])
        done = await one.txn([lease_is("/k", 77)], [put], [inner])
        assert not done.succeeded
        within = done.found[0]
        assert isinstance(within, Done)
        assert not within.succeeded
        assert within.found == [[KeyValue("/k", b"1", done.revision, 1)]]

    with etcd() as server:
        asked([server.endpoint], call)


def test_a_lease_keeps_its_keys_until_it_is_revoked() -> None:
    async def call(one: Etcd) -> None:
        lease = await one.grant(60)
        assert await one.keep_alive(lease)
        await one.put("/k", b"1", lease)
        found = await one.get("/k")
        assert found is not None
        assert found.lease == lease
        await one.revoke(lease)
        assert await one.get("/k") is None
        assert not await one.keep_alive(lease)
        with pytest.raises(ApiError, match="requested lease not found"):
            await one.put("/k", b"1", lease)
        with pytest.raises(ApiError, match="requested lease not found"):
            await one.revoke(lease)

    with etcd() as server:
        asked([server.endpoint], call)


def test_the_next_server_is_asked_when_one_does_not_answer() -> None:
    with etcd() as server:
        server.put("/k", "1")
        found = asked([f"http://127.0.0.1:{free_port()}", server.endpoint], lambda one: one.get("/k"))
        assert found is not None
        assert found.value == b"1"
        server.hang()
        try:
            with pytest.raises(ApiError, match=re.escape(f"{server.endpoint}: no answer within 0.2 s")):
                asked([server.endpoint], lambda one: one.get("/k"), 0.2)
        finally:
            server.signal(signal.SIGCONT)
