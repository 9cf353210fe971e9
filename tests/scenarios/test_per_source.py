"""Limits by source: what one client or network may have, over TCP and UDP, exactly and at nobody else's cost."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from l4lb import Client, LoadBalancer
from l4lb.config import PerSourceConfig
from l4lb.errors import AdminError, ChangeError
from l4lb.model.states import CloseReason, DropReason, SourceLimit
from tests.support.balancing import address_of, balancing, closed, make_config, wait_closed, wait_idle
from tests.support.datagrams import address_pair, serving_udp
from tests.support.peers import echo, hold, serving
from tests.support.programs import l4lb
from tests.support.waiting import wait_until

ONE, OTHER = "127.0.1.1", "127.0.2.1"
TRUSTED = {"accept_proxy": "any", "proxy_trusted": ["127.0.0.0/8"]}


@contextlib.contextmanager
def limiting(workers: int = 2, listener: dict[str, Any] | None = None, **limits: Any) -> Iterator[LoadBalancer]:
    options = {"per_source": PerSourceConfig(**limits), **(listener or {})}
    with serving(echo) as server, balancing([server.address], listener=options, workers=workers) as balancer:
        yield balancer


def come(balancer: LoadBalancer, source: str, header: str = "") -> socket.socket | None:
    """A session from `source` that has had an answer; None when it was refused."""
    try:
        client = socket.create_connection(address_pair(address_of(balancer)), 20, (source, 0))
    except ConnectionResetError:
        return None
    try:
        client.sendall(header.encode() + b"hello")
        if client.recv(5) == b"hello":
            return client
    except (ConnectionResetError, BrokenPipeError):
        pass
    client.close()
    return None


def leave(sessions: list[socket.socket]) -> None:
    for one in sessions:
        one.close()


def limited(balancer: LoadBalancer) -> dict[SourceLimit, int]:
    return balancer.stats().listeners["web"].source_limited


def test_a_source_has_as_many_sessions_as_it_may_whatever_worker_serves_them() -> None:
    with limiting(workers=4, sessions=5) as balancer:
        held: list[socket.socket] = []
        lock = threading.Lock()

        def many() -> None:
            for _ in range(10):
                if (session := come(balancer, ONE)) is not None:
                    with lock:
                        held.append(session)

        threads = [threading.Thread(target=many) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(held) == 5
        assert closed(balancer)[CloseReason.RESOURCE_LIMIT] == limited(balancer)[SourceLimit.SESSIONS] == 75
        other = [come(balancer, OTHER) for _ in range(5)]
        assert None not in other, "they are another source's places"
        leave([held.pop()])
        assert wait_until(lambda: (again := come(balancer, ONE)) is not None and not held.append(again), 10)
        assert come(balancer, ONE) is None
        leave([*held, *filter(None, other)])
        wait_idle(balancer)


def test_new_sessions_come_no_faster_than_the_rate() -> None:
    with limiting(session_rate="5/s") as balancer:
        began = time.monotonic()
        served = 0
        while time.monotonic() < began + 2:
            if (session := come(balancer, ONE)) is not None:
                served += 1
                session.close()
            time.sleep(0.01)
        took = time.monotonic() - began
        assert 5 <= served <= 5 + 5 * took + 1
        other = come(balancer, OTHER)
        assert other is not None
        other.close()
        assert closed(balancer)[CloseReason.RATE_LIMITED] == limited(balancer)[SourceLimit.SESSION_RATE] > 0


def test_who_is_over_his_own_limit_takes_nothing_of_what_all_share() -> None:
    with limiting(sessions=1, listener={"session_rate": "1/s", "session_burst": 2, "max_sessions": 3}) as balancer:
        held = [come(balancer, ONE)]
        assert [come(balancer, ONE) for _ in range(30)] == [None] * 30
        held.append(come(balancer, OTHER))
        assert None not in held
        assert closed(balancer) == {CloseReason.RESOURCE_LIMIT: 30}
        leave([*filter(None, held)])


@pytest.mark.parametrize(("action", "ends"), [("reset", errno.ECONNRESET), ("close", 0)])
@pytest.mark.parametrize("proxied", [False, True])
def test_a_refused_client_is_reset_or_closed(action: str, ends: int, proxied: bool) -> None:
    with limiting(sessions=1, action=action, listener=TRUSTED if proxied else None) as balancer:
        header = f"PROXY TCP4 {OTHER} 127.0.0.1 1000 80\r\n" if proxied else ""
        held = come(balancer, ONE, header)
        assert held is not None
        ended = 0
        try:  # the reset may come before connect has looked
            with socket.create_connection(address_pair(address_of(balancer)), 10, (ONE, 0)) as client:
                client.sendall(header.encode())
                assert client.recv(1) == b""
        except OSError as error:
            ended = error.errno or 0
        assert ended == ends
        wait_closed(balancer, CloseReason.RESOURCE_LIMIT)
        held.close()


def test_behind_a_proxy_the_header_names_the_source() -> None:
    def header(client: str) -> str:
        family = "TCP6" if ":" in client else "TCP4"
        return f"PROXY {family} {client} {'::1' if ':' in client else '127.0.0.1'} 1000 80\r\n"

    with limiting(sessions=2, prefix_v4=24, listener=TRUSTED) as balancer:
        clients = ["192.0.2.1", "192.0.2.2", "192.0.3.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
        held = [come(balancer, "127.0.0.1", header(one)) for one in clients]
        assert None not in held
        for full in ("192.0.2.77", "2001:db8::ffff:1"):
            assert come(balancer, "127.0.0.1", header(full)) is None
        shown = {one["source"]: one["sessions_active"] for one in balancer.sources()}
        assert shown == {"192.0.2.0/24": 2, "192.0.3.0/24": 1, "2001:db8::/64": 2, "2001:db8:0:1::/64": 1}
        leave([*filter(None, held)])


def test_a_unix_client_is_no_source() -> None:
    with limiting(sessions=1, listener={"bind": "unix:@l4lb-per-source"}) as balancer:
        held = []
        for _ in range(3):
            client = socket.socket(socket.AF_UNIX)
            client.connect("\0l4lb-per-source")
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            held.append(client)
        assert balancer.sources() == []
        leave(held)


def test_a_dry_run_counts_and_refuses_nobody() -> None:
    with limiting(sessions=1, session_rate="1/s", bandwidth_up="1KiB/s", dry_run=True) as balancer:
        held = [come(balancer, ONE) for _ in range(6)]
        assert None not in held
        assert limited(balancer)[SourceLimit.SESSIONS] == 5
        session = held[0]
        assert session is not None
        began = time.monotonic()
        session.sendall(bytes(1 << 20))
        got = 0
        while got < 1 << 20:
            got += len(session.recv(1 << 16))
        assert time.monotonic() - began < 60, "a limit of 1 KiB a second would take 17 minutes"
        assert limited(balancer)[SourceLimit.BANDWIDTH] > 0
        assert closed(balancer) == {}
        leave([*filter(None, held)])


def test_the_sessions_of_a_source_share_its_bandwidth() -> None:
    with limiting(bandwidth_down="1MiB/s") as balancer:
        held = [come(balancer, source) for source in (ONE, ONE, OTHER)]
        took: dict[int, float] = {}

        def pull(number: int) -> None:
            session = held[number]
            assert session is not None
            began = time.monotonic()
            threading.Thread(target=session.sendall, args=(bytes(1 << 20),)).start()
            got = 0
            while got < 1 << 20:
                got += len(session.recv(1 << 16))
            took[number] = time.monotonic() - began

        threads = [threading.Thread(target=pull, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(took[0], took[1]) > 1.7, "2 MiB at 1 MiB a second"
        assert took[2] > 0.8
        assert limited(balancer)[SourceLimit.BANDWIDTH] > 0
        leave([*filter(None, held)])


def ask(balancer: LoadBalancer, source: str, client: socket.socket | None = None) -> socket.socket | None:
    """A UDP session that has had an answer; None when there was none."""
    sock = client or socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if client is None:
        sock.bind((source, 0))
    sock.settimeout(0.5)
    sock.sendto(b"hello", address_pair(address_of(balancer)))
    with contextlib.suppress(TimeoutError):
        if sock.recv(5) == b"hello":
            return sock
    sock.close()
    return None


def test_udp_sessions_of_a_source_are_limited_too() -> None:
    limits = {"protocol": "udp", "per_source": PerSourceConfig(sessions=3)}
    with serving_udp() as server, balancing([server.address], listener=limits) as balancer:
        held = [ask(balancer, ONE) for _ in range(3)]
        assert None not in held
        assert [ask(balancer, ONE) for _ in range(2)] == [None, None]
        assert wait_until(lambda: balancer.stats().listeners["web"].dropped == {DropReason.MAX_SESSIONS: 2})
        other = ask(balancer, OTHER)
        assert other is not None
        assert ask(balancer, ONE, held[0]) is held[0], "its sessions go on"
        one, _ = sorted(balancer.sources(by="sessions"), key=lambda source: -source["sessions_active"])
        assert (one["source"], one["sessions_active"], one["limited"]) == (ONE, 3, 2)
        assert (one["bytes_up"], one["bytes_down"]) == (20, 20)
        leave([other, *filter(None, held)])


def test_udp_above_the_rate_and_the_bandwidth_of_a_source_is_dropped() -> None:
    limits = {"protocol": "udp", "per_source": PerSourceConfig(session_rate="2/s", bandwidth_up="20KiB/s")}
    with serving_udp() as server, balancing([server.address], listener=limits) as balancer:
        held = [ask(balancer, ONE) for _ in range(2)]
        assert None not in held
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as more:
            more.bind((ONE, 0))
            for _ in range(3):
                more.sendto(b"hello", address_pair(address_of(balancer)))
            stats = balancer.stats
            assert wait_until(lambda: DropReason.RATE_LIMITED in stats().listeners["web"].dropped, 20)
        session = held[0]
        assert session is not None
        for _ in range(30):
            session.sendto(bytes(1200), address_pair(address_of(balancer)))
        assert wait_until(lambda: DropReason.BANDWIDTH in balancer.stats().listeners["web"].dropped, 20)
        assert limited(balancer)[SourceLimit.BANDWIDTH] > 0
        leave([*filter(None, held)])


def test_limits_change_while_sessions_run() -> None:
    with serving(echo) as server:

        def config(**limits: Any) -> Any:
            return make_config([server.address], listener={"per_source": PerSourceConfig(**limits)})

        with LoadBalancer(config(sessions=2)) as balancer:
            held = [come(balancer, ONE), come(balancer, ONE)]
            assert come(balancer, ONE) is None
            balancer.reload(config(sessions=3))
            held.append(come(balancer, ONE))
            assert None not in held
            assert come(balancer, ONE) is None
            balancer.reload(config())
            held.append(come(balancer, ONE))
            assert None not in held
            balancer.reload(config(sessions=3))
            assert come(balancer, ONE) is None, "those that were counted are there still"
            leave([*filter(None, held)])
            wait_idle(balancer)
            again = come(balancer, ONE)
            assert again is not None
            again.close()


FILE = """
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
per_source = {{ sessions = 1 }}
[listeners.free]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = ["{backend}"]
health = {{ type = "none" }}
"""


def test_who_is_heaviest_and_what_was_refused_is_told(tmp_path: Any) -> None:
    with serving(hold) as server:
        (tmp_path / "lb.toml").write_text(FILE.format(backend=server.address))
        admin = f"unix:{tmp_path}/admin.sock"
        with l4lb("serve", "-c", str(tmp_path / "lb.toml"), "--admin", admin) as process, Client(admin) as client:
            web = process.address("web")
            with contextlib.ExitStack() as held:
                for source in (ONE, OTHER):
                    held.enter_context(socket.create_connection(web, 10, (source, 0)))
                held.enter_context(socket.create_connection(process.address("free"), 10, (ONE, 0)))
                assert wait_until(lambda: client.status()["sessions_active"] == 3, 10), (
                    "whoever is accepted first has it"
                )
                for _ in range(3):
                    with contextlib.suppress(ConnectionResetError):
                        with socket.create_connection(web, 10, (OTHER, 0)) as refused:
                            refused.recv(1)
                process.wait_for('sources limited listener=web reason="sessions')
                assert wait_until(lambda: client.listeners["web"].status["source_limited"] == {"sessions": 3}, 10)
                heaviest, second = client.sources(by="rate")
                assert (heaviest["source"], heaviest["listener"], heaviest["sessions_active"]) == (OTHER, "web", 1)
                assert (heaviest["sessions_total"], heaviest["limited"]) == (1, 3)
                assert heaviest["session_rate"] > second["session_rate"] > 0
                assert len(client.sources(limit=1)) == 1
                assert client.sources(listener="free") == []
                with pytest.raises(AdminError, match='no listener "nosuch"'):
                    client.sources(listener="nosuch")
                with pytest.raises(AdminError, match="by"):
                    client.ask("GET", "/v1/sources?by=colour")
                text = _metrics(tmp_path / "admin.sock")
                assert 'l4lb_source_limited_total{limit="sessions",listener="web"} 3.0' in text


def _metrics(path: Any) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b"GET /metrics HTTP/1.0\r\nHost: l4lb\r\n\r\n")
        return b"".join(iter(lambda: sock.recv(1 << 16), b"")).decode()


def test_the_library_says_so_for_a_listener_that_is_not_there() -> None:
    with limiting(sessions=1) as balancer, pytest.raises(ChangeError, match='no listener "nosuch"'):
        balancer.sources(listener="nosuch")
