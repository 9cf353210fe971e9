"""Sessions that are there now, listed and ended while others go on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from l4lb import ChangeError, LoadBalancer
from l4lb.model.states import CloseReason
from tests.support.balancing import address_of, balancing, closed, make_config, wait_closed, wait_idle
from tests.support.peers import Server, connect, echo, hold, read_until_end, running, serving
from tests.support.waiting import wait_until

MANY = 5_000


def endpoint(address: tuple[str, int]) -> str:
    return "{}:{}".format(*address)


def said(sock: socket.socket, text: bytes) -> bool:
    """Whether the session still echoes."""
    sock.sendall(text)
    return sock.recv(100) == text


def test_what_is_told_of_a_session() -> None:
    with serving(echo) as server, balancing([server.address]) as balancer, connect(address_of(balancer)) as client:
        assert said(client, b"hello")
        (session,) = balancer.sessions()
        assert session["client"] == endpoint(client.getsockname())
        assert session["local"] == endpoint(client.getpeername()) == address_of(balancer)
        named = {key: session[key] for key in ("listener", "protocol", "pool", "backend", "state")}  # type: ignore[literal-required]
        expected = {"listener": "web", "protocol": "tcp", "pool": "web", "backend": server.address}
        assert named == {**expected, "state": "relaying"}
        assert (session["bytes_up"], session["bytes_down"]) == (5, 5)
        assert 0 <= session["idle_s"] <= session["age_s"] + 0.1
        assert wait_until(lambda: balancer.sessions()[0]["idle_s"] > 0.05)
        assert balancer.sessions()[0]["id"] == session["id"]


def test_an_ipv6_client_and_one_in_a_queue() -> None:
    with serving(hold, "::1") as server:
        backend = {"address": server.address, "max_sessions": 1}
        options = {"listener": {"bind": "[::1]:0"}, "queue_size": 5}
        with balancing([backend], **options) as balancer:
            with connect(address_of(balancer)) as first:
                assert wait_until(lambda: [one["state"] for one in balancer.sessions()] == ["relaying"])
                with connect(address_of(balancer)) as second:
                    assert wait_until(lambda: len(balancer.sessions()) == 2)
                    (waits,) = [one for one in balancer.sessions() if one["state"] == "queued"]
                    assert (waits["client"], waits["backend"]) == (f"[::1]:{second.getsockname()[1]}", "")
                    (served,) = balancer.sessions(backend=server.address)
                    assert served["client"] == f"[::1]:{first.getsockname()[1]}"
                    balancer.kill_session(waits["id"])
                    assert read_until_end(second) == (b"", True)
                    assert len(balancer.sessions()) == 1


@contextlib.contextmanager
def two_pools() -> Iterator[tuple[LoadBalancer, str, str]]:
    """Listeners web and other, a pool each, of one backend each; their addresses."""
    with serving(echo) as one, serving(echo) as two:
        config = make_config([{"address": one.address, "id": "one"}])
        other = make_config([two.address])
        listener = other.listeners["web"].model_copy(update={"pool": "other"})
        config.listeners["other"] = listener
        config.pools["other"] = other.pools["web"]
        with LoadBalancer(config) as balancer:
            yield balancer, one.address, two.address


def test_filters() -> None:
    with two_pools() as (balancer, one, two), contextlib.ExitStack() as stack:
        web = [stack.enter_context(connect(address_of(balancer))) for _ in range(3)]
        other = [stack.enter_context(connect(balancer.listeners["other"].addresses[0])) for _ in range(2)]
        assert all(said(sock, b"x") for sock in (*web, *other))
        names = {endpoint(sock.getsockname()) for sock in web}

        def clients(**query: str) -> set[str]:
            return {session["client"] for session in balancer.sessions(**query)}  # type: ignore[arg-type]

        for query in ({"pool": "web"}, {"listener": "web"}, {"backend": "one"}, {"backend": one}):
            assert clients(**query) == names, query
        assert len(clients()) == len(clients(source="127.0.0.0/8")) == len(clients(source="127.0.0.1")) == 5
        assert len(clients(backend=two)) == len(clients(pool="other", source="::ffff:127.0.0.1")) == 2
        assert clients(pool="web", backend="one", source=min(names), listener="web") == {min(names)}
        assert clients(source="127.0.0.2") == clients(source="::1") == clients(source="::/0") == set()
        assert clients(pool="web", listener="other") == set()
        assert len(balancer.sessions(limit=2)) == 2
        for wrong in ({"pool": "no"}, {"backend": "no"}, {"listener": "no"}, {"pool": "web", "backend": two}):
            with pytest.raises(ChangeError, match=r"no (pool|listener|backend)"):
                balancer.sessions(**wrong)  # type: ignore[arg-type]
        with pytest.raises(ChangeError, match=r"source: .*expected an IP address"):
            balancer.sessions(source="localhost")


def test_networks_of_every_length() -> None:
    """Against the standard library's idea of them."""
    hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.1.1", "127.129.0.1", "127.255.255.254")
    with serving(hold) as server, balancing([server.address]) as balancer, contextlib.ExitStack() as stack:
        host, _, port = address_of(balancer).rpartition(":")
        for source in hosts:
            sock = socket.create_connection((host, int(port)), 20, (source, 0))
            stack.enter_context(sock)
        assert wait_until(lambda: len(balancer.sessions()) == len(hosts))
        for bits in range(33):
            for of in hosts:
                network = ip_network(f"{of}/{bits}", strict=False)
                found = {one["client"].rpartition(":")[0] for one in balancer.sessions(source=f"{of}/{bits}")}
                assert found == {one for one in hosts if ip_address(one) in network}, network


def test_one_is_ended_and_the_others_go_on() -> None:
    with serving(echo) as server, balancing([server.address]) as balancer:
        with connect(address_of(balancer)) as ended, connect(address_of(balancer)) as kept:
            assert said(ended, b"x")
            assert said(kept, b"y")
            (session,) = balancer.sessions(source=endpoint(ended.getsockname()))
            assert balancer.kill_session(session["id"])["client"] == session["client"]
            assert read_until_end(ended) == (b"", True)
            assert said(kept, b"z")
            assert closed(balancer) == {CloseReason.ADMIN: 1}
            for unknown in (session["id"], "0", "x", "1", "-1", "9" * 20, "9" * 21, f"0{session['id']}", ""):
                with pytest.raises(ChangeError, match="no session"):
                    balancer.kill_session(unknown)


def test_those_of_a_removed_backend_are_known_by_its_id() -> None:
    with serving(echo) as one, serving(echo) as two:
        with balancing([one.address], on_backend_removed="keep") as balancer, connect(address_of(balancer)) as client:
            assert said(client, b"x")
            balancer.pools["web"].add(two.address)
            balancer.pools["web"].remove(one.address)
            assert len(balancer.sessions(backend=one.address, pool="web")) == 1
            assert balancer.sessions(backend=two.address) == []
            assert balancer.kill_sessions(backend=one.address) == 1
            assert read_until_end(client) == (b"", True)


def test_the_same_under_asyncio() -> None:
    async def main(backend: str) -> None:
        async with LoadBalancer(make_config([backend])) as balancer:
            address = (await asyncio.to_thread(address_of, balancer)).rpartition(":")
            _, first = await asyncio.open_connection(address[0], int(address[2]))
            _, second = await asyncio.open_connection(address[0], int(address[2]))
            while len(sessions := await balancer.asessions(pool="web")) < 2:
                await asyncio.sleep(0.01)
            assert (await balancer.akill_session(sessions[0]["id"]))["id"] == sessions[0]["id"]
            assert await balancer.akill_sessions() == 1
            for writer in (first, second):
                writer.close()

    with serving(hold) as server:
        asyncio.run(main(server.address))


@contextlib.contextmanager
def many_clients(address: str, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(address)) for _ in range(count)]


class Quiet(Server):
    """Accepts and keeps, without a thread for each."""

    def _serve(self, sock: socket.socket) -> None:
        pass

    def stop(self) -> None:
        super().stop()
        for sock in self._open:
            sock.close()


def test_thousands_are_listed_and_ended_while_one_session_echoes() -> None:
    """One worker has all of them. Its turns look at a few thousand and take a few, so an echo through it comes back
    between them, while sessions are listed again and again and at last all ended."""
    quiet = Quiet(hold)
    with running(quiet), serving(echo) as server, balancing([quiet.address], workers=1) as balancer:
        with many_clients(address_of(balancer), MANY) as clients:
            assert wait_until(lambda: balancer.stats().sessions_left == MANY, 60)
            pool = balancer.pools["web"]
            pool.add(server.address)
            pool[quiet.address].maint()
            with connect(address_of(balancer)) as talker:
                assert said(talker, b"first")
                turns = balancer.stats().workers[0].turns
                listed = balancer.sessions(limit=10_000)
                assert len({one["id"] for one in listed}) == len(listed) == MANY + 1
                assert balancer.stats().workers[0].turns - turns > MANY // 64, "it was one long turn"
                with listing(balancer) as counts:
                    assert all(said(talker, b"still") for _ in range(100))
                    assert wait_until(lambda: len(counts) > 3)
                assert set(counts) == {MANY + 1}
                assert balancer.kill_sessions(backend=quiet.address) == MANY
                assert said(talker, b"last")
                wait_closed(balancer, CloseReason.ADMIN, MANY)
                assert all(read_until_end(client) == (b"", True) for client in clients[::500])
        wait_idle(balancer)


@contextlib.contextmanager
def listing(balancer: LoadBalancer) -> Iterator[list[int]]:
    """Sessions are listed on another thread, again and again; how many each time."""
    counts: list[int] = []
    enough = threading.Event()

    def work() -> None:
        while not enough.is_set():
            counts.append(len(balancer.sessions(limit=10_000)))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield counts
    finally:
        enough.set()
        thread.join()
