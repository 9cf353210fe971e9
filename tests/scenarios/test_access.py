"""Listeners with allow and deny: who is let in, what the others see, and files that change."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from l4lb import Config, LoadBalancer
from l4lb.control.state.bans import Bans
from l4lb.control.state.events import Event
from l4lb.errors import ConfigError
from l4lb.model.bans import Ban
from l4lb.model.states import CloseReason, DropReason
from l4lb.net.listen.filters import DROP_SYN
from l4lb.net.listen.options import SO_ATTACH_FILTER, attach
from tests.support.balancing import address_of, balancing, closed, make_config, wait_closed, wait_idle
from tests.support.datagrams import address_pair, serving_udp
from tests.support.peers import connect, echo, hold, serving
from tests.support.programs import free_port, nginx, require, without_preload
from tests.support.waiting import wait_until

INSIDE, OUTSIDE = "127.0.0.1", "127.0.0.2"
FILE = '[listeners.web]\nbind = "127.0.0.1:0"\npool = "web"\n'
POOL = '[pools.web]\nbackends = ["127.0.0.1:1"]\n'
TRUSTED = {"accept_proxy": "any", "proxy_trusted": ["127.0.0.0/8"]}


@contextlib.contextmanager
def letting_in(**listener: Any) -> Iterator[LoadBalancer]:
    with serving(echo) as server, balancing([server.address], listener=listener) as balancer:
        yield balancer


def is_served(balancer: LoadBalancer, source: str) -> bool:
    """A session from `source`: False when it ends without an answer."""
    try:
        with socket.create_connection(address_pair(address_of(balancer)), 10, (source, 0)) as client:
            client.sendall(b"hello")
            return client.recv(5) == b"hello"
    except (ConnectionResetError, BrokenPipeError):
        return False


def asks_by_udp(balancer: LoadBalancer, source: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((source, 0))
        client.settimeout(0.3)
        client.sendto(b"hello", address_pair(address_of(balancer)))
        with contextlib.suppress(TimeoutError):
            return client.recv(5) == b"hello"
    return False


@pytest.mark.parametrize(
    ("lists", "inside", "outside"),
    [
        ({"deny": ["127.0.0.2"]}, True, False),
        ({"allow": ["127.0.0.1/32"]}, True, False),
        ({"allow": ["127.0.0.0/8"], "deny": ["127.0.0.2/31"]}, True, False),
        ({"allow": ["127.0.0.2"], "deny": ["127.0.0.0/8"]}, False, True),
        ({"allow": ["2001:db8::/32"]}, False, False),
        ({"deny": ["2001:db8::/32", "10.0.0.0/8"]}, True, True),
        ({"deny": ["::ffff:127.0.0.2/128"]}, True, False),
    ],
)
def test_the_address_decides(lists: dict[str, Any], inside: bool, outside: bool) -> None:
    refused = [inside, outside].count(False)
    with letting_in(**lists) as balancer:
        assert [is_served(balancer, one) for one in (INSIDE, OUTSIDE)] == [inside, outside]
        wait_idle(balancer)
        assert closed(balancer).get(CloseReason.DENIED, 0) == refused
    with serving_udp() as server, balancing([server.address], listener={"protocol": "udp", **lists}) as balancer:
        assert [asks_by_udp(balancer, one) for one in (INSIDE, OUTSIDE)] == [inside, outside]
        denied = {DropReason.DENIED: refused} if refused else {}
        assert wait_until(lambda: balancer.stats().listeners["web"].dropped == denied)


@pytest.mark.parametrize(("action", "ends"), [("reset", errno.ECONNRESET), ("close", 0)])
@pytest.mark.parametrize("proxied", [False, True])
def test_a_refused_client_is_reset_or_closed_and_its_bytes_reach_nobody(action: str, ends: int, proxied: bool) -> None:
    lists = {"deny": [OUTSIDE], "deny_action": action, **(TRUSTED if proxied else {})}
    with letting_in(**lists) as balancer:
        ended = 0
        try:  # the reset may come before connect has looked
            source = INSIDE if proxied else OUTSIDE
            with socket.create_connection(address_pair(address_of(balancer)), 10, (source, 0)) as client:
                if proxied:
                    client.sendall(b"PROXY TCP4 127.0.0.2 127.0.0.1 1000 80\r\n")
                assert client.recv(1) == b""
        except OSError as error:
            ended = error.errno or 0
        assert ended == ends
        wait_closed(balancer, CloseReason.DENIED)
        assert balancer.stats().pools["web"].backends["{}:{}".format(*_backend(balancer))].sessions_total == 0
        assert balancer.stats().sessions_left == 0


def _backend(balancer: LoadBalancer) -> tuple[str, int]:
    (key,) = balancer.stats().pools["web"].backends
    return address_pair(key)


def test_behind_a_proxy_the_header_names_the_client() -> None:
    with letting_in(deny=[OUTSIDE, INSIDE], **TRUSTED) as balancer:
        for client, served in (("192.0.2.1", True), (OUTSIDE, False), (INSIDE, False)):
            with connect(address_of(balancer)) as sock:
                sock.sendall(f"PROXY TCP4 {client} 127.0.0.1 1000 80\r\nhello".encode())
                got = b""
                with contextlib.suppress(ConnectionResetError):
                    got = sock.recv(5)
                assert (got == b"hello") is served


@pytest.mark.parametrize("pieces", [1, 3])
def test_who_is_refused_waits_for_no_hello(pieces: int) -> None:
    """The pool passes the name in the ClientHello on: it is awaited after the header."""
    header = b"PROXY TCP4 127.0.0.2 127.0.0.1 1000 80\r\n"
    with serving(hold) as server:
        pool = {"send_proxy": "v2", "send_proxy_tlvs": ["authority"]}
        with balancing([server.address], listener={"deny": [OUTSIDE], **TRUSTED}, **pool) as balancer:
            with connect(address_of(balancer)) as sock:
                size = len(header) // pieces + 1
                for at in range(0, len(header), size):
                    sock.sendall(header[at : at + size])
                    time.sleep(0.02)
                with contextlib.suppress(ConnectionResetError):
                    assert sock.recv(1) == b""
            wait_closed(balancer, CloseReason.DENIED)
            assert balancer.stats().pools["web"].backends[server.address].sessions_total == 0


def test_who_is_refused_takes_no_place_from_others() -> None:
    with letting_in(deny=[OUTSIDE], session_rate="1/s", session_burst=1, max_sessions=1) as balancer:
        assert not any(is_served(balancer, OUTSIDE) for _ in range(20))
        assert is_served(balancer, INSIDE)
        assert closed(balancer)[CloseReason.DENIED] == 20
        assert CloseReason.RATE_LIMITED not in closed(balancer)


def test_sessions_go_on_when_the_lists_change() -> None:
    with letting_in() as balancer, connect(address_of(balancer)) as held:
        held.sendall(b"a")
        assert held.recv(1) == b"a"
        config = balancer.plane.state.config
        web = config.listeners["web"].model_validate({**config.listeners["web"].model_dump(), "deny": ["127.0.0.0/8"]})
        balancer.reload(config.model_copy(update={"listeners": {"web": web}}))
        assert not is_served(balancer, INSIDE)
        held.sendall(b"b")
        assert held.recv(1) == b"b"


def test_a_file_that_changes_holds_within_moments_and_a_broken_one_does_not(tmp_path: Path) -> None:
    file = tmp_path / "denied"
    file.write_text(f"{OUTSIDE}\n")
    told: list[Event] = []
    with letting_in(deny=[f"file:{file}"]) as balancer:
        balancer.plane.events.subscribe(told.append)
        assert [is_served(balancer, one) for one in (INSIDE, OUTSIDE)] == [True, False]
        file.write_text(f"# the other one\n{INSIDE}\n")
        assert wait_until(lambda: is_served(balancer, OUTSIDE), 20)
        assert not is_served(balancer, INSIDE)
        file.write_text(f"{OUTSIDE}\n\nnobody\n")
        assert wait_until(lambda: [one for one in told if one.kind == "access_lists_reload_failed"], 20)
        said = next(one for one in told if one.kind == "access_lists_reload_failed")
        assert f'{file}:3: "nobody": expected an address or a network' in str(said.fields["reason"])
        assert [is_served(balancer, one) for one in (INSIDE, OUTSIDE)] == [False, True], "the old list holds"
        file.unlink()
        assert wait_until(lambda: "No such file" in str(told[-1].fields.get("reason")), 20)
        assert [is_served(balancer, one) for one in (INSIDE, OUTSIDE)] == [False, True]
        replaced = tmp_path / "new"
        replaced.write_text("")
        replaced.rename(file)
        assert wait_until(lambda: is_served(balancer, INSIDE), 20)
        assert wait_until(lambda: [one for one in told if one.kind == "clients_denied"], 20)
        assert len([one for one in told if one.kind == "access_lists_reload_failed"]) == 2, "each once"


def test_a_process_that_drains_does_not_watch_its_files(tmp_path: Path) -> None:
    file = tmp_path / "denied"
    file.write_text(f"{OUTSIDE}\n")
    told: list[Event] = []
    with letting_in(deny=[f"file:{file}"]) as balancer, connect(address_of(balancer)) as held:
        held.sendall(b"a")
        assert held.recv(1) == b"a"
        balancer.plane.events.subscribe(told.append)
        with ThreadPoolExecutor(1) as aside:
            drained = aside.submit(balancer.drain, 2.5)
            assert wait_until(lambda: [one for one in told if one.kind == "draining"])
            file.write_text(f"{INSIDE}\n")
            assert not drained.result()
        assert not [one for one in told if one.kind.startswith("access_lists")]


def test_a_reload_with_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "denied"
    file.write_text(f"{OUTSIDE}\n")
    with letting_in() as balancer:
        backend = next(iter(balancer.stats().pools["web"].backends))
        file.write_text("10.0.0.1/8\n")
        with pytest.raises(ConfigError, match="denied:1: "):
            balancer.reload(make_config([backend], listener={"deny": [f"file:{file}"]}))
        assert is_served(balancer, OUTSIDE)


def hears_nothing(address: str, source: str, for_s: float = 0.5) -> bool:
    """Whether a connect from `source` stays without an answer."""
    host, port = address_pair(address)
    with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as client:
        client.bind((source, 0))
        client.settimeout(for_s)
        try:
            client.connect((host, port))
        except TimeoutError:
            return True
        except ConnectionResetError:
            pass
    return False


@pytest.fixture
def may_filter() -> None:
    """Linux 6.18 lets only CAP_NET_ADMIN filter TCP."""
    with socket.socket() as probe:
        try:
            attach(probe, SO_ATTACH_FILTER, DROP_SYN)
        except PermissionError:
            if os.environ.get("CI"):
                raise
            pytest.skip("this needs CAP_NET_ADMIN here")


@pytest.mark.external
def test_who_is_dropped_hears_nothing_until_it_is_let_in(may_filter: None) -> None:
    with serving(echo) as server:
        options = {"bind": "127.0.0.1:0", "deny_action": "drop"}
        with balancing([server.address], listener={**options, "deny": ["127.0.0.2/31"]}) as balancer:
            address = address_of(balancer)
            assert hears_nothing(address, OUTSIDE)
            assert is_served(balancer, INSIDE)
            wait_idle(balancer)
            assert closed(balancer).get(CloseReason.DENIED, 0) == 0, "no worker has seen it"
            balancer.reload(make_config([server.address], listener={**options, "deny": [INSIDE]}))
            assert hears_nothing(address, INSIDE)
            assert is_served(balancer, OUTSIDE)
            balancer.reload(make_config([server.address], listener={"bind": "127.0.0.1:0"}))
            assert is_served(balancer, INSIDE)


@pytest.mark.external
def test_who_is_banned_is_dropped_too_and_sessions_end_with_a_reset(may_filter: None) -> None:
    with letting_in(deny_action="drop") as balancer:
        address = address_of(balancer)
        with socket.create_connection(address_pair(address), 10, (OUTSIDE, 0)) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            balancer.bans.add(OUTSIDE)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert hears_nothing(address, OUTSIDE)
        assert is_served(balancer, INSIDE)
        balancer.bans.remove(OUTSIDE)
        assert is_served(balancer, OUTSIDE)
        balancer.listeners["web"].drain()
        balancer.bans.add(OUTSIDE)
        balancer.listeners["web"].resume()
        assert hears_nothing(address_of(balancer), OUTSIDE)
        assert is_served(balancer, INSIDE)


@pytest.mark.external
def test_both_families_of_a_dual_stack_socket_are_dropped(may_filter: None) -> None:
    lists = {"bind": "[::]:0", "deny": ["::1", OUTSIDE], "deny_action": "drop"}
    with letting_in(**lists) as balancer:
        port = address_pair(address_of(balancer))[1]
        assert hears_nothing(f"[::1]:{port}", "::1")
        assert hears_nothing(f"127.0.0.1:{port}", OUTSIDE)
        assert not hears_nothing(f"127.0.0.1:{port}", INSIDE)


@pytest.mark.external
def test_a_socket_that_a_wider_address_covers_drops_whom_its_listener_drops_now(may_filter: None) -> None:
    """Its sockets stay when 127.0.0.1 becomes every address, and so would a filter that nobody changes."""
    address = f"127.0.0.1:{free_port()}"
    wide = {"bind": f":{address_pair(address)[1]}"}
    with (
        serving(echo) as server,
        balancing([server.address], listener={"bind": address, "deny": [OUTSIDE], "deny_action": "drop"}) as balancer,
    ):
        assert hears_nothing(address, OUTSIDE)
        balancer.reload(make_config([server.address], listener={**wide, "deny": [INSIDE], "deny_action": "drop"}))
        assert hears_nothing(address, INSIDE)
        assert not hears_nothing(address, OUTSIDE)
        balancer.reload(make_config([server.address], listener=wide))
        assert not hears_nothing(address, INSIDE)


@pytest.mark.external
def test_bans_that_no_filter_holds_are_resets(may_filter: None) -> None:
    with letting_in(deny=[f"10.{one}.0.0/17" for one in range(200)], deny_action="drop") as balancer:
        bans = Bans({(one, ""): Ban(one) for one in (f"10.{n >> 8}.{n & 255}.0/25" for n in range(256, 5000, 2))})

        async def all_at_once() -> None:
            await balancer.plane.applying.change_bans(lambda _: bans)

        balancer.run(all_at_once())
        balancer.bans.add(OUTSIDE)
        assert not hears_nothing(address_of(balancer), OUTSIDE)
        assert not is_served(balancer, OUTSIDE)
        assert is_served(balancer, INSIDE)
        wait_closed(balancer, CloseReason.DENIED, 2)


@pytest.mark.parametrize(
    ("listener", "said"),
    [
        ({"deny": ["10.0.0.1/8"]}, 'listeners.web.deny[0]: "10.0.0.1/8": has bits set beyond its prefix'),
        ({"allow": ["file:/nowhere/list"]}, "listeners.web.allow[0]: "),
        ({"deny_action": "drop", **TRUSTED}, 'listeners.web.deny_action: "drop": a PROXY header names the client'),
        (
            {"deny": [f"10.{one >> 8}.{one & 255}.0/25" for one in range(5000)], "deny_action": "drop"},
            'listeners.web.deny_action: "drop": 5000 ranges of addresses are more than a socket filter can hold',
        ),
        ({"deny": ["10.0.0.0/8"], "deny_action": "no"}, "listeners.web.deny_action: "),
        ({"deny": ["::/0"], "deny_action": "close", "protocol": "udp"}, 'listeners.web.deny_action: "close": a UDP'),
    ],
)
def test_what_cannot_be_is_an_error_with_its_place(listener: dict[str, Any], said: str) -> None:
    keys = "".join(f"{key} = {value!r}\n" for key, value in listener.items())
    with pytest.raises(ConfigError) as caught:
        Config.loads(FILE + keys + POOL)
    assert said in str(caught.value)


@pytest.mark.external
def test_curl_is_let_in_by_its_address() -> None:
    with nginx("a") as server, balancing([server.address], listener={"allow": [INSIDE]}) as balancer:
        url = f"http://{address_of(balancer)}/"
        for source, said in ((INSIDE, b"a\n"), (OUTSIDE, b"")):
            done = subprocess.run(
                [require("curl"), "-sS", "--interface", source, url], env=without_preload(), capture_output=True
            )
            assert (done.stdout, done.returncode == 0) == (said, bool(said)), done.stderr
