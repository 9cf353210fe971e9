"""`Client` has the verbs of `LoadBalancer`: the same lines run against an instance here and over its admin API."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from l4lb import AdminError, ChangeError, Client, LoadBalancer, UnknownNameError
from l4lb.config import AdminConfig
from l4lb.model.states import AdminState, Health
from l4lb.remote import RemoteBackend, RemoteBans, RemoteListener, RemotePool
from l4lb.views import BackendView, BansView, ListenerView, PoolView
from tests.support.balancing import make_config
from tests.support.peers import Server, connect, echo, read_until_end, serving
from tests.support.waiting import wait_until

Verbs = Any  # LoadBalancer or Client


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(echo) as server:
        yield server


@pytest.fixture(params=["here", "over the API"])
def balancer(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Verbs]:
    config = make_config([server.address, {"address": "127.0.0.1:1", "weight": 0}])
    admin = AdminConfig(bind=f"unix:{tmp_path}/admin.sock")
    with LoadBalancer(config.model_copy(update={"admin": admin})) as here:
        if request.param == "here":
            yield here
        else:
            with Client(here.admin_address) as client:
                yield client


def echoing(balancer: Verbs) -> socket.socket:
    sock = connect(balancer.listeners["web"].addresses[0])
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    return sock


def test_backends(balancer: Verbs, server: Server) -> None:
    pool = balancer.pools["web"]
    assert set(pool) == {server.address, "127.0.0.1:1"}
    added = pool.add("127.0.0.1:2", weight=2, tags={"rack": "4"})
    assert (added.id, added.address, added.weight, added.health) == ("127.0.0.1:2", "127.0.0.1:2", 2, Health.UP)
    added.set_weight(0)
    added.set_max_sessions(7)
    added.maint()
    assert (added.weight, added.max_sessions, added.admin_state) == (0, 7, AdminState.MAINT)
    added.ready()
    assert pool["127.0.0.1:2"].admin_state is AdminState.READY
    with echoing(balancer):
        assert pool.stats.sessions_active == pool[server.address].stats.sessions_active == 1
        assert not pool[server.address].drain()
        assert not pool[server.address].drain(wait=True, timeout=0.1)
    assert pool[server.address].drain(wait=True, timeout=10)
    pool.remove("127.0.0.1:2", drain=1)
    assert len(pool) == 2
    assert pool.explain("192.0.2.1")["pool"] == "web"
    with pytest.raises((ChangeError, AdminError), match="no backend"):
        pool.remove("127.0.0.1:2")
    with pytest.raises(KeyError):
        pool["127.0.0.1:2"]
    with pytest.raises((ChangeError, AdminError), match="weight"):
        pool[server.address].set(weight=-1)


def test_sessions(balancer: Verbs) -> None:
    with echoing(balancer) as one, echoing(balancer) as two:
        source = "{}:{}".format(*one.getsockname())
        (session,) = balancer.sessions(source=source)
        assert session["client"] == source
        assert balancer.kill_session(session["id"])["id"] == session["id"]
        assert read_until_end(one) == (b"", True)
        assert balancer.kill_sessions(pool="web", listener="web") == 1
        assert read_until_end(two) == (b"", True)
        assert balancer.sessions(limit=5) == []
    with pytest.raises((ChangeError, AdminError), match='no pool "none"'):
        balancer.sessions(pool="none")


def test_listeners(balancer: Verbs) -> None:
    web = balancer.listeners["web"]
    with echoing(balancer) as sock:
        assert not web.drain(wait=True, timeout=0.1)
        assert read_until_end(sock) == (b"", True)
    assert web.addresses == []
    web.resume()
    with echoing(balancer):
        assert not web.drain()
    assert web.drain(wait=True)


def test_the_process(balancer: Verbs) -> None:
    with pytest.raises(Exception, match="there is no file to reload"):
        balancer.reload()
    with pytest.raises(Exception, match="only a process of `l4lb serve`"):
        balancer.upgrade()
    assert balancer.status()["state"] == "running"
    with echoing(balancer):
        assert not balancer.drain(0.1)
    drain = balancer.status()["drain"]
    assert (drain["over"], drain["sessions_cut"], drain["remaining_s"]) == (True, 1, 0)
    assert wait_until(lambda: balancer.status()["drain"]["sessions_active"] == 0)
    with pytest.raises((ChangeError, AdminError), match="process is draining"):
        balancer.pools["web"].add("127.0.0.1:3")


def test_under_asyncio(balancer: Verbs, server: Server) -> None:
    async def main() -> None:
        pool = balancer.pools["web"]
        added = await pool.aadd("127.0.0.1:2", weight=2)
        await added.aset(weight=1, tags={"a": "b"})
        await added.aset_weight(3)
        await added.aset_max_sessions(1)
        await added.amaint()
        await added.aready()
        assert await added.adrain(wait=True, timeout=1)
        await pool.aremove("127.0.0.1:2")
        sock = await asyncio.to_thread(echoing, balancer)
        with sock:
            (session,) = await balancer.asessions(backend=server.address)
            await balancer.akill_session(session["id"])
        assert await balancer.akill_sessions(pool="web") == 0
        web = balancer.listeners["web"]
        assert await web.adrain(wait=True, timeout=1)
        await web.aresume()
        assert (await balancer.astatus())["state"] == "running"
        assert await balancer.adrain(1)

    asyncio.run(main())


def test_unknown_names_say_which_are_near(balancer: Verbs, server: Server) -> None:
    for ask, message in (
        (lambda: balancer.pools["wbe"], 'no pool "wbe" (did you mean "web"?)'),
        (lambda: balancer.listeners["none"], 'no listener "none" (known: web)'),
        (lambda: balancer.pools["web"]["none"], 'no backend "none" in pool "web" (known: '),
        (lambda: balancer.listener_addresses("none"), 'no listener "none" (known: web)'),
    ):
        with pytest.raises(UnknownNameError) as caught:
            ask()
        assert str(caught.value).startswith(message)
        assert isinstance(caught.value, KeyError)
    assert balancer.pools.get("wbe") is None
    assert "192.0.2.1" not in balancer.pools["web"]


def test_counters(balancer: Verbs, server: Server) -> None:
    with echoing(balancer):
        stats = balancer.stats()
        assert (stats.sessions_active, stats.pools["web"].backends[server.address].sessions_total) == (1, 1)
        assert stats.listeners["web"].addresses == tuple(balancer.listeners["web"].addresses)
    assert balancer.kill_sessions(pool="web") in (0, 1)
    assert wait_until(lambda: sum(balancer.stats().listeners["web"].closed.values()) == 1)
    assert balancer.stats().pools["web"].bytes_down == 1
    assert balancer.wait_ready(5) is True


def test_iteration_under_asyncio(balancer: Verbs, server: Server) -> None:
    async def main() -> None:
        pools = await balancer.apools()
        assert {name async for name in pools["web"]} == {server.address, "127.0.0.1:1"}
        backend = pools["web"][server.address]
        assert (await backend.astats()).sessions_total == (await pools["web"].astats()).sessions_total == 0
        assert (await pools["web"].aexplain("192.0.2.1"))["pool"] == "web"
        web = (await balancer.alisteners())["web"]
        assert await web.aaddresses() == await balancer.alistener_addresses("web")
        assert (await web.aexplain("192.0.2.1"))["listener"] == "web"
        assert (await balancer.astats()).sessions_active == 0
        assert await balancer.await_ready(5)
        assert (await balancer.aexplain("web", "192.0.2.1"))["pool"] == "web"

    asyncio.run(main())


# ---- the same verbs ----

# What only the one has: the life of an instance, and what its own process alone can do; requests.
OWN = {
    "on_session",
    "aon_session",
    "on_close",
    "aon_close",
    "start",
    "astart",
    "run",
    "arun",
    "plane",
    "admin_address",
    "reopen_logs",
    "areopen_logs",
}
OF_CLIENT = {"address", "ask", "pool", "apool", "kill_counted", "akill_counted", "aconfig"}
OF_REMOTE = {"status", "astatus", "find"}
PAIRS = [
    (LoadBalancer, Client, OWN, OF_CLIENT),
    (PoolView, RemotePool, set(), OF_REMOTE),
    (BackendView, RemoteBackend, set(), OF_REMOTE),
    (ListenerView, RemoteListener, set(), OF_REMOTE),
    (BansView, RemoteBans, set(), set()),
]
# Arguments that differ: a client names no configuration, and says whether it waits for a drain.
ARGUMENTS = {"reload": {"config"}, "areload": {"config"}, "drain": {"wait"}, "adrain": {"wait"}}


def public(kind: type) -> dict[str, Any]:
    found = {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_")}
    return {name: value for name, value in found.items() if not hasattr(Mapping, name)}


@pytest.mark.parametrize(("here", "there", "own", "remote"), PAIRS)
def test_both_have_the_same_verbs(here: type, there: type, own: set[str], remote: set[str]) -> None:
    one, other = public(here), public(there)
    instance = {"id", "name"}  # of those over the API set by the constructor
    assert one.keys() - own - instance == other.keys() - remote - instance
    for name in one.keys() & other.keys():
        if callable(one[name]):
            differ = ARGUMENTS.get(name, set()) if here is LoadBalancer else set()
            mine, theirs = (inspect.signature(kind[name]).parameters for kind in (one, other))
            assert [each for each in mine if each not in differ] == [each for each in theirs if each not in differ], (
                name
            )


@pytest.mark.parametrize("kind", [kind for pair in PAIRS for kind in pair[:2]])
def test_each_has_an_awaitable_twin(kind: type) -> None:
    """Of each method, and of each property that asks somebody; `ask` and `find` are for one request."""
    found = public(kind)
    fields = {"id", "name", "address", "weight", "max_sessions", "health", "admin_state", "table_digest"}
    without = {"run", "ask", "find", "plane", "admin_address", "bans", *fields}
    without |= {"config"} if kind is LoadBalancer else set()
    plain = {
        name
        for name in found
        if f"a{name}" in found or not name.startswith("a") or name in fields | {"add", "addresses"}
    }
    for name in sorted(plain - without):
        if name.startswith("a") and name[1:] in found:
            continue
        assert f"a{name}" in found, f"{kind.__name__}.{name}"
