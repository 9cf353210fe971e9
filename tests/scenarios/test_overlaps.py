"""Addresses of one process that include each other: side by side, after each other, and never shared with others."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from l4lb import ConfigError, LoadBalancer
from tests.scenarios.test_reload import asked, config_of, refused
from tests.support.datagrams import UdpClient, serving_udp
from tests.support.peers import connect, echo, one_answer, serving
from tests.support.programs import free_port, l4lb
from tests.support.traffic import Counted, one_session
from tests.support.users import OTHER_USER, directory_of_all, interpreter_of_all, require_root
from tests.support.waiting import wait_until

SHAPES = ["127.0.0.1:{}", "0.0.0.0:{}", "[::]:{}", ":{}"]


def web(bind: str | list[str], backend: str, **listener: object) -> dict[str, object]:
    return {"listeners": {"web": {"bind": bind, "pool": "web", **listener}}, "pools": {"web": {"backends": [backend]}}}


class Asking:
    """Clients, one after the other without a pause, until the block ends. None of them may fail."""

    def __init__(self, address: str) -> None:
        self.counted = Counted()
        self._address, self._ended = address, threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        draw = random.Random(1)
        while not self._ended.is_set():
            one_session(self._address, self.counted, draw)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def more(self, count: int = 20) -> bool:
        """Wait until so many more were served."""
        until = self.counted.sessions + count
        return wait_until(lambda: self.counted.sessions >= until or self.counted.failures, 20)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_widens_and_narrows_an_address_and_loses_no_client(workers: int) -> None:
    port = free_port()
    with serving(echo) as server:
        configs = [config_of(**web(one.format(port), server.address), workers=workers) for one in SHAPES]  # type: ignore[arg-type]
        with LoadBalancer(configs[0]) as balancer, Asking(f"127.0.0.1:{port}") as asking:
            for step in (1, 0, 2, 0, 3, 1, 2, 1, 3, 0):
                balancer.reload(configs[step])
                assert asking.more(), asking.counted
            assert refused(f"[::1]:{port}"), "it is narrow again"
        assert asking.counted.failures == []


def test_who_waits_in_the_queue_of_the_narrow_address_is_served() -> None:
    """Their connection is there already when the address is left."""
    port = free_port()
    with serving(echo) as server:
        narrow = config_of(**web(f"127.0.0.1:{port}", server.address))  # type: ignore[arg-type]
        wide = config_of(**web(f":{port}", server.address))  # type: ignore[arg-type]
        with LoadBalancer(narrow) as balancer:
            for config in (wide, narrow) * 3:
                waiting = [connect(f"127.0.0.1:{port}") for _ in range(20)]
                balancer.reload(config)
                for sock in waiting:
                    with sock:
                        sock.sendall(b"?")
                        assert sock.recv(10) == b"?"


@pytest.mark.parametrize("wide", SHAPES[1:])
@pytest.mark.parametrize("wide_first", [False, True])
def test_two_listeners_side_by_side_and_the_most_specific_answers(wide: str, wide_first: bool) -> None:
    port = free_port()
    with serving(one_answer(b"narrow")) as one, serving(one_answer(b"wide")) as two:
        both = {
            "narrow": {"bind": f"127.0.0.1:{port}", "pool": "one"},
            "wide": {"bind": wide.format(port), "pool": "two"},
        }
        listeners = dict(reversed(both.items())) if wide_first else both
        pools = {"one": {"backends": [one.address]}, "two": {"backends": [two.address]}}
        with LoadBalancer(config_of(listeners, pools)):
            assert asked(f"127.0.0.1:{port}") == b"narrow"
            assert asked(f"127.0.0.2:{port}") == b"wide"


def test_in_one_listener_with_a_range_of_ports_and_over_udp() -> None:
    port = free_port()
    with serving(echo) as server, serving_udp() as udp:
        tcp = {"bind": [f"127.0.0.1:{port}", f":{port}-{port + 1}"], "pool": "web"}
        datagrams = {"bind": [f"[::1]:{port}", f"[::]:{port}"], "pool": "udp", "protocol": "udp"}
        pools = {"web": {"backends": [server.address]}, "udp": {"backends": [udp.address]}}
        with LoadBalancer(config_of({"tcp": tcp, "udp": datagrams}, pools)):
            for address in (f"127.0.0.1:{port}", f"127.0.0.2:{port}", f"[::1]:{port + 1}"):
                assert asked(address) == b"?"
            for host in ("[::1]", "127.0.0.1"):
                client = UdpClient(f"{host}:{port}")
                with contextlib.closing(client):
                    assert client.ask(b"?") == b"?"


def test_a_listener_of_another_name_takes_the_wide_address() -> None:
    port = free_port()
    with serving(one_answer(b"one")) as one, serving(one_answer(b"two")) as two:
        pools = {"one": {"backends": [one.address]}, "two": {"backends": [two.address]}}
        before = config_of({"a": {"bind": f"127.0.0.1:{port}", "pool": "one"}}, pools)
        after = config_of({"b": {"bind": f":{port}", "pool": "two"}}, pools)
        with LoadBalancer(before) as balancer:
            for config, expected in ((after, b"two"), (before, b"one")) * 2:
                balancer.reload(config)
                assert asked(f"127.0.0.1:{port}") == expected


def test_a_udp_session_goes_on_when_its_address_widens_and_begins_anew_when_it_narrows() -> None:
    """The narrow sockets stay as long as a wider address includes them. Of a wide one that is left, the sockets close:
    its sessions end, and the client's next datagram begins another, by a policy that hashes at the same backend."""
    port = free_port()
    with serving_udp() as one, serving_udp() as two, contextlib.closing(UdpClient(f"127.0.0.1:{port}")) as client:
        pools = {"udp": {"backends": [one.address, two.address], "policy": "maglev"}}
        narrow, wide = (
            config_of({"udp": {"bind": f"{at}:{port}", "pool": "udp", "protocol": "udp"}}, pools)
            for at in ("127.0.0.1", "")
        )
        for started, steps, sessions in ((narrow, (narrow, wide, narrow, wide), 1), (wide, (wide, narrow, wide), 2)):
            with LoadBalancer(started) as balancer:
                for step, config in enumerate(steps):
                    balancer.reload(config)
                    assert balancer.listeners["udp"].addresses == list(balancer.plane.forwarder.addresses("udp"))
                    for number in range(5):
                        text = f"{step} {number}".encode()
                        assert client.ask(text) == text
                counted = balancer.stats().pools["udp"].backends
                assert sorted(one.sessions_total for one in counted.values()) == [0, sessions]


def test_a_udp_listener_that_is_removed_leaves_its_address_to_the_wider_one() -> None:
    """Its session goes on, and who is new is not dropped, though the narrow socket is still there."""
    port = free_port()
    with serving_udp() as one, serving_udp(lambda data: [b"two"]) as two, contextlib.ExitStack() as stack:
        old = stack.enter_context(contextlib.closing(UdpClient(f"127.0.0.1:{port}")))
        new = stack.enter_context(contextlib.closing(UdpClient(f"127.0.0.1:{port}")))
        pools = {"one": {"backends": [one.address]}, "two": {"backends": [two.address]}}
        before = config_of({"a": {"bind": f"127.0.0.1:{port}", "pool": "one", "protocol": "udp"}}, pools)
        after = config_of({"b": {"bind": f":{port}", "pool": "two", "protocol": "udp"}}, pools)
        with LoadBalancer(before) as balancer:
            assert old.ask(b"?") == b"?"
            balancer.reload(after)
            assert old.ask(b"again") == b"again"
            assert new.ask(b"?") == b"two"


def test_a_refused_reload_takes_no_client_from_who_is_served() -> None:
    """Another listener's port is taken: the narrow address that was opened for a moment must not have answered."""
    port = free_port()
    with serving(echo) as server, socket.create_server(("127.0.0.1", 0)) as taken:
        wide = config_of(**web(f":{port}", server.address))  # type: ignore[arg-type]
        other = {"bind": f"127.0.0.1:{taken.getsockname()[1]}", "pool": "web"}
        narrow = {"web": {"bind": f"127.0.0.1:{port}", "pool": "web"}, "other": other}
        wrong = config_of(narrow, {"web": {"backends": [server.address]}})
        with LoadBalancer(wide) as balancer, Asking(f"127.0.0.1:{port}") as asking:
            for _ in range(10):
                with pytest.raises(ConfigError, match=r"listeners\.other\.bind: .*Address already in use"):
                    balancer.reload(wrong)
                assert asking.more(5)
        assert asking.counted.failures == []


SHARER = """
import socket, sys
kind = socket.SOCK_DGRAM if sys.argv[1] == "udp" else socket.SOCK_STREAM
sock = socket.socket(socket.AF_INET, kind)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
sock.bind((sys.argv[2], int(sys.argv[3])))
if kind == socket.SOCK_STREAM:
    sock.listen()
print("bound", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("theirs", ["127.0.0.1", "0.0.0.0"])
def test_another_process_is_never_shared_with_and_is_named(protocol: str, theirs: str) -> None:
    """It is of the same user and would share its port."""
    port = free_port()
    command = [sys.executable, "-c", textwrap.dedent(SHARER), protocol, theirs, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "bound\n"
        name = Path(f"/proc/{other.pid}/comm").read_text().strip()
        expected = rf"Address already in use: port {port} is taken by {name} \(pid {other.pid}\)"
        listener = {"bind": f"127.0.0.1:{port}", "pool": "web", "protocol": protocol}
        pools = {"web": {"backends": ["127.0.0.1:1"]}}
        with pytest.raises(ConfigError, match=expected):
            LoadBalancer(config_of({"web": listener}, pools)).start()
        # and not when an address of our own is in the way too
        mine = {"web": {**listener, "bind": f"[::1]:{port}"}}
        with LoadBalancer(config_of(mine, pools)) as balancer:
            with pytest.raises(ConfigError, match=expected):
                balancer.reload(config_of({"web": {**listener, "bind": f":{port}"}}, pools))
        other.communicate()


FILE = """
[global]
workers = 2
user = "{user}"
[admin]
bind = "off"
[listeners.web]
bind = "{bind}"
pool = "web"
[pools.web]
backends = ["{backend}"]
health.type = "none"
"""


@pytest.mark.parametrize("user", ["", OTHER_USER])
def test_it_works_in_a_process_that_gave_roots_rights_up_and_through_an_upgrade(user: str) -> None:
    """SO_REUSEPORT asks for one owner: what root bound must be the user's."""
    if user:
        require_root()
    port = free_port()
    with serving(echo) as server, directory_of_all() as directory:
        file = directory / "lb.toml"

        def write(shape: str) -> None:
            file.write_text(FILE.format(user=user, bind=shape.format(port), backend=server.address))

        write(SHAPES[0])
        with l4lb("serve", "-c", str(file), within=interpreter_of_all() if user else ()) as process:
            process.address("web")
            with Asking(f"127.0.0.1:{port}") as asking:
                for number, shape in enumerate((SHAPES[3], SHAPES[0], SHAPES[1], SHAPES[0]), 1):
                    write(shape)
                    process.signal(signal.SIGHUP)
                    assert wait_until(lambda n=number: process.log.count(" reloaded ") >= n), process.log
                    assert asking.more()
                write(SHAPES[3])
                process.signal(signal.SIGUSR2)
                process.wait_for("upgraded pid=")
                assert asking.more(50)
                assert wait_until(lambda: not refused(f"[::1]:{port}"))
            assert asking.counted.failures == []
            os.kill(int(process.wait_for(r"upgraded pid=(\d+)")[1]), signal.SIGTERM)
