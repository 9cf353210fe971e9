"""Clients that are kept out at runtime: by the library, the API and the command line, for a time or until the ban is
removed; after a restart, a reload and an upgrade too; by fail2ban."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l4lb import Client, LoadBalancer
from l4lb.control.state.events import Event
from l4lb.errors import AdminError, ChangeError
from l4lb.model.states import CloseReason, DropReason
from tests.support import forking
from tests.support.balancing import address_of, balancing, closed, make_config, wait_closed, wait_idle
from tests.support.datagrams import address_pair, serving_udp
from tests.support.peers import connect, echo, serving
from tests.support.programs import L4lb, l4lb
from tests.support.waiting import wait_until

HERE, THERE = "127.0.0.1", "127.0.0.2"


def asked(target: tuple[str, int], source: str) -> bool:
    """Whether a client from `source` is served."""
    try:
        with socket.create_connection(target, 10, (source, 0)) as client:
            client.sendall(b"hello")
            return client.recv(5) == b"hello"
    except (ConnectionResetError, BrokenPipeError):
        return False


def asked_by_udp(target: tuple[str, int], source: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((source, 0))
        client.settimeout(0.3)
        client.sendto(b"hello", target)
        with contextlib.suppress(TimeoutError):
            return client.recv(5) == b"hello"
    return False


def kinds(heard: list[Event]) -> list[str]:
    return [event.kind for event in heard if event.kind in ("banned", "unbanned", "ban_over")]


def test_a_ban_refuses_and_ends_sessions_until_it_is_removed() -> None:
    heard: list[Event] = []
    with serving(echo) as server, balancing([server.address]) as balancer:
        balancer.plane.events.subscribe(heard.append)
        target = address_pair(address_of(balancer))
        with socket.create_connection(target, 10, (THERE, 0)) as banned, connect(address_of(balancer)) as other:
            for one in (banned, other):
                one.sendall(b"x")
                assert one.recv(1) == b"x"
            said = balancer.bans.add(THERE, reason="too many logins")
            assert said["sessions_ended"] == 1
            with pytest.raises(ConnectionResetError):
                banned.recv(1)
            other.sendall(b"y")
            assert other.recv(1) == b"y"
        assert not asked(target, THERE)
        assert asked(target, HERE)
        assert [one["cidr"] for one in balancer.bans.list()] == ["127.0.0.2/32"]
        assert balancer.bans.remove("127.0.0.2/32")["reason"] == "too many logins"
        assert asked(target, THERE)
        assert balancer.bans.list() == []
        wait_closed(balancer, CloseReason.DENIED, 2)
    assert kinds(heard) == ["banned", "unbanned"]
    fields = next(event.fields for event in heard if event.kind == "banned")
    assert fields == {"source": "127.0.0.2/32", "reason": "too many logins", "sessions": 1}


def test_a_ban_wins_over_allow_and_is_over_at_its_time() -> None:
    heard: list[Event] = []
    with serving(echo) as server, balancing([server.address], listener={"allow": ["127.0.0.2"]}) as balancer:
        balancer.plane.events.subscribe(heard.append)
        target = address_pair(address_of(balancer))
        assert asked(target, THERE)
        began = time.monotonic()
        balancer.bans.add("127.0.0.0/8", for_s=4)
        assert not asked(target, THERE)
        assert wait_until(lambda: asked(target, THERE), 20)
        assert time.monotonic() - began >= 4
        assert wait_until(lambda: kinds(heard) == ["banned", "ban_over"])
        assert balancer.bans.list() == []


def test_a_ban_is_over_also_when_its_end_fails_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without another thread to be had."""
    with serving(echo) as server, balancing([server.address]) as balancer:
        target = address_pair(address_of(balancer))
        change, failed = balancer.plane.applying.change_bans, []

        async def fails_once(*arguments: Any, **options: Any) -> None:
            if options and not failed:
                failed.append(True)
                raise RuntimeError("can't start new thread")
            await change(*arguments, **options)

        monkeypatch.setattr(balancer.plane.applying, "change_bans", fails_once)
        balancer.bans.add(THERE, for_s=0.2)
        assert wait_until(lambda: asked(target, THERE), 20)
        assert failed


def test_udp_is_banned_too_and_its_sessions_end() -> None:
    with serving_udp() as server, balancing([server.address], listener={"protocol": "udp"}) as balancer:
        target = address_pair(address_of(balancer))
        assert asked_by_udp(target, THERE)
        assert balancer.bans.add("127.0.0.2/31")["sessions_ended"] == 1
        assert not asked_by_udp(target, THERE)
        assert asked_by_udp(target, HERE)
        assert wait_until(lambda: balancer.stats().listeners["web"].dropped == {DropReason.DENIED: 1})


def test_behind_a_proxy_header_it_is_the_client_that_is_banned() -> None:
    options = {"accept_proxy": "any", "proxy_trusted": ["127.0.0.0/8"]}
    with serving(echo) as server, balancing([server.address], listener=options) as balancer:
        balancer.bans.add("192.0.2.0/24")
        balancer.bans.add(HERE)
        for source, served in (("192.0.2.7", False), ("198.51.100.7", True)):
            with connect(address_of(balancer)) as client:
                client.sendall(f"PROXY TCP4 {source} 127.0.0.1 1000 80\r\nhello".encode())
                with contextlib.suppress(ConnectionResetError):
                    assert (client.recv(5) == b"hello") is served
        wait_idle(balancer)
        assert closed(balancer)[CloseReason.DENIED] == 1


@contextlib.contextmanager
def two_listeners() -> Iterator[LoadBalancer]:
    with serving(echo) as server:
        config = make_config([server.address])
        both = dict.fromkeys(("one", "two"), config.listeners["web"])
        with LoadBalancer(config.model_copy(update={"listeners": both})) as balancer:
            yield balancer


def test_a_ban_of_one_listener_leaves_the_other_alone() -> None:
    with two_listeners() as balancer:
        one, two = (address_pair(balancer.listeners[name].addresses[0]) for name in ("one", "two"))
        balancer.bans.add(THERE, listener="one")
        assert [asked(one, THERE), asked(two, THERE)] == [False, True]
        balancer.bans.add(THERE)
        assert [asked(one, THERE), asked(two, THERE)] == [False, False]
        assert [one["listener"] for one in balancer.bans.list(listener="two")] == [None]
        balancer.bans.remove(THERE)
        assert [asked(one, THERE), asked(two, THERE)] == [False, True]
        with pytest.raises(ChangeError, match="is not banned"):
            balancer.bans.remove(THERE)
        balancer.bans.remove(THERE, listener="one")
        assert asked(one, THERE)


@pytest.mark.parametrize(
    ("cidr", "options", "expected"),
    [
        ("x", {}, "expected an address or a network"),
        ("192.0.2.1/24", {}, 'did you mean "192.0.2.0/24"'),
        ("192.0.2.1", {"listener": "none"}, 'no listener "none"'),
        ("192.0.2.1", {"for_s": 0}, "above 0"),
        ("192.0.2.1", {"for_s": float("nan")}, "above 0"),
        ("192.0.2.1", {"for_s": 1e12}, "ten years"),
        ("192.0.2.1", {"reason": "two\nlines"}, "one line"),
        ("192.0.2.1", {"reason": "x" * 256}, "at most 255"),
    ],
)
def test_a_ban_that_cannot_be_is_an_error(cidr: str, options: dict[str, Any], expected: str) -> None:
    with balancing(["127.0.0.1:1"]) as balancer:
        with pytest.raises(ChangeError, match=expected):
            balancer.bans.add(cidr, **options)
        assert balancer.bans.list() == []


def test_under_asyncio() -> None:
    import asyncio

    async def all_of_it(balancer: LoadBalancer) -> None:
        await balancer.bans.aadd("192.0.2.1", for_s=60)
        assert [one["cidr"] for one in await balancer.bans.alist("192.0.2.0/24")] == ["192.0.2.1/32"]
        assert await balancer.bans.alist("2001:db8::/32") == []
        await balancer.bans.aremove("192.0.2.1")
        assert await balancer.bans.alist() == []

    with balancing(["127.0.0.1:1"]) as balancer:
        asyncio.run(all_of_it(balancer))


# ---- a process of its own ----

CONFIG = """
[global]
state_file = "{state}"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = ["{backend}"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    with serving(echo) as server:
        found = tmp_path / "lb.toml"
        found.write_text(CONFIG.format(state=tmp_path / "state.json", backend=server.address))
        yield found


def started(file: Path, **options: Any) -> contextlib.AbstractContextManager[L4lb]:
    return l4lb("serve", "-c", str(file), "--admin", f"unix:{file.parent}/admin", **options)


def client_of(file: Path) -> Client:
    return Client(f"unix:{file.parent}/admin")


def test_bans_outlive_restart_reload_and_upgrade(file: Path) -> None:
    with started(file) as process, client_of(file) as client:
        process.wait_for("backend up")
        client.bans.add("127.0.0.2", for_s=600, reason="logins")
        client.bans.add("127.0.0.3", for_s=0.3)
        client.reload()
        assert not asked(process.address("web"), THERE)
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    time.sleep(0.3)  # then the short one is over
    with started(file) as process, client_of(file) as client:
        process.wait_for("backend up")
        found = client.bans.list()
        assert [(one["cidr"], one["reason"]) for one in found] == [("127.0.0.2/32", "logins")]
        target = process.address("web")
        assert not asked(target, THERE)
        assert asked(target, HERE)
        assert asked(target, "127.0.0.3")
        client.upgrade()
        assert client.bans.list() == found
        assert not asked(target, THERE)
        assert asked(target, HERE)
        client.bans.remove(THERE)
        assert asked(target, THERE)


def test_a_ban_that_cannot_be_saved_is_not_made(file: Path) -> None:
    with started(file) as process, client_of(file) as client:
        process.wait_for("backend up")
        (file.parent / "state.json.new").mkdir()
        with pytest.raises(AdminError, match="cannot be saved") as caught:
            client.bans.add(THERE)
        assert caught.value.status == 507
        assert client.bans.list() == []
        assert asked(process.address("web"), THERE)


def requested(file: Path, method: str, path: str, body: str = "") -> tuple[int, Any]:
    connection = http.client.HTTPConnection("l4lb", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(f"{file.parent}/admin")
    with contextlib.closing(connection):
        connection.request(method, path, body or None)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_the_api(file: Path) -> None:
    with started(file) as process:
        process.wait_for("admin listening")
        status, said = requested(file, "PUT", "/v1/bans/192.0.2.0/24", '{"for": "1h", "reason": "scans"}')
        assert (status, said["cidr"], said["listener"], said["sessions_ended"]) == (201, "192.0.2.0/24", None, 0)
        assert 3590 < said["until"] - time.time() <= 3600
        assert requested(file, "PUT", "/v1/bans/192.0.2.0%2F24", "{}")[0] == 200
        status, said = requested(file, "GET", "/v1/bans/192.0.2.0/24")
        assert (status, said["until"], said["reason"]) == (200, None, "")
        assert requested(file, "GET", "/v1/bans?source=192.0.2.9")[1] == [said]
        assert requested(file, "GET", "/v1/bans?source=192.0.3.9")[1] == []
        assert requested(file, "PUT", "/v1/bans/2001:db8::1", '{"listener": "web"}')[0] == 201
        assert requested(file, "DELETE", "/v1/bans/2001:db8::1")[0] == 404
        assert requested(file, "DELETE", "/v1/bans/2001:db8::1?listener=web")[0] == 200
        for method, path, body, expected, message in (
            ("PUT", "/v1/bans/192.0.2.1/24", "", 422, "did you mean"),
            ("PUT", "/v1/bans/192.0.2.1", '{"for": 0}', 422, "for: expected a duration"),
            ("PUT", "/v1/bans/192.0.2.1", '{"for": "11y"}', 422, "for: expected a duration"),
            ("PUT", "/v1/bans/192.0.2.1", '{"listener": "x"}', 404, 'no listener "x"'),
            ("PUT", "/v1/bans/192.0.2.1", '{"reason": "a\\nb"}', 422, "reason"),
            ("PUT", "/v1/bans/192.0.2.1", '{"more": 1}', 422, "more: unknown"),
            ("PUT", "/v1/bans", "", 405, "method"),
            ("GET", "/v1/bans/192.0.2.1", "", 404, "is not banned"),
            ("GET", "/v1/bans?source=x", "", 422, "expected an address"),
            ("DELETE", "/v1/bans/x", "", 422, "expected an address"),
        ):
            status, said = requested(file, method, path, body)
            assert (status, message in said["error"]["message"]) == (expected, True), (method, path, said)
        assert len(requested(file, "GET", "/v1/bans")[1]) == 1


def test_the_command(file: Path) -> None:
    with started(file) as process:
        process.wait_for("backend up")

        def l4lb_ban(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
            return forking.run("ban", verb, "--admin", f"unix:{file.parent}/admin", *arguments)

        with socket.create_connection(process.address("web"), 10, (THERE, 0)) as held:
            held.sendall(b"x")
            assert held.recv(1) == b"x"
            done = l4lb_ban("add", "--for", "1h", "--reason", "too many", "127.0.0.2", "2001:db8::/32")
            assert done.stdout.splitlines() == [
                "127.0.0.2/32: banned for 1h0m, 1 session ended",
                "2001:db8::/32: banned for 1h0m, 0 sessions ended",
            ]
        assert "too many" in l4lb_ban("list").stdout
        assert [one["cidr"] for one in json.loads(l4lb_ban("list", "--json", "127.0.0.0/8").stdout)] == ["127.0.0.2/32"]
        assert l4lb_ban("remove", "127.0.0.2").stdout == "127.0.0.2/32: removed\n"
        missing = l4lb_ban("remove", "127.0.0.2")
        assert (missing.returncode, missing.stderr) == (1, 'l4lb: cidr: "127.0.0.2" is not banned\n')
        assert l4lb_ban("remove", "--ignore-missing", "127.0.0.2").returncode == 0
        wrong = l4lb_ban("add", "--for", "soon", "127.0.0.2")
        assert (wrong.returncode, "expected a duration" in wrong.stderr) == (2, True)
        assert l4lb_ban("add", "127.0.0.2/8").returncode == 1


def test_hundreds_of_bans_at_once_hold(file: Path) -> None:
    """As after an attack: each is saved and in use when its request returns."""
    with started(file) as process, client_of(file) as client:
        process.wait_for("backend up")
        for number in range(300):
            client.bans.add(f"10.0.{number >> 8}.{number & 255}", for_s=600)
        client.bans.add(THERE)
        assert not asked(process.address("web"), THERE)
        assert asked(process.address("web"), HERE)
        assert len(client.bans.list()) == 301
    assert len(json.loads((file.parent / "state.json").read_text())["bans"]) == 301
