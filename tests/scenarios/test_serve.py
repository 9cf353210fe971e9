"""`l4lb serve` as users start it, with curl and real nginx servers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.peers import connect, echo, hold, read_all, serving
from tests.support.programs import answers, free_port, l4lb, nginx, run
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external

FAST = """
[global]
workers = 2
[admin]
bind = "off"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = ["{one}", "{two}"]
[pools.web.health]
interval = "200ms"
fast_interval = "100ms"
down_interval = "200ms"
timeout = "200ms"
fall = 2
"""


def curl(address: tuple[str, int]) -> str:
    """What one request answers; fails when curl does."""
    url = f"http://{address[0]}:{address[1]}/"
    return run("curl", "--silent", "--show-error", "--fail", "--max-time", "10", url).strip()


def test_curl_alternates_between_two_nginx() -> None:
    with nginx("one") as one, nginx("two") as two:
        flags = ("--listen", "127.0.0.1:0", "--backend", one.address, "--backend", two.address)
        with l4lb("serve", *flags) as process:
            address = process.address()
            process.wait_for(rf"backend up pool=default backend={one.address}")
            process.wait_for(rf"backend up pool=default backend={two.address}")
            got = [curl(address) for _ in range(20)]
    assert sorted(got[:2]) == ["one", "two"]
    assert got == got[:2] * 10


def test_killing_one_fails_no_request_and_moves_all_to_the_other(tmp_path: Path) -> None:
    with nginx("one") as one, nginx("two") as two:
        config = tmp_path / "lb.toml"
        config.write_text(FAST.format(one=one.address, two=two.address))
        with l4lb("serve", "-c", str(config)) as process:
            address = process.address("web")
            process.wait_for(f"backend up .*{one.address}")
            process.wait_for(f"backend up .*{two.address}")
            one.kill()
            before = [curl(address) for _ in range(10)]  # until it is known, the connect is retried on the other
            process.wait_for(rf'backend down pool=web backend={one.address} reason="connect: connection refused"', 3)
            after = [curl(address) for _ in range(10)]
            one.start()
            process.wait_for(rf"backend down [^\n]*\n(.*\n)*.*backend up pool=web backend={one.address}", 3)
            again = Counter(curl(address) for _ in range(10))
    assert set(before) == {"two"}
    assert set(after) == {"two"}
    assert again == {"one": 5, "two": 5}


def test_sigterm_drains_and_a_new_client_is_refused() -> None:
    def answer_late(sock: socket.socket) -> None:
        if sock.recv(10) == b"question":  # and not a health check
            asked.set()
            assert released.wait(20)
            sock.sendall(b"late answer")

    asked, released = threading.Event(), threading.Event()
    with serving(answer_late) as server:
        with l4lb("serve", "--listen", "127.0.0.1:0", "--backend", server.address) as process:
            address = process.address()
            with connect(address) as sock:
                sock.sendall(b"question")
                assert asked.wait(20)
                process.signal(signal.SIGTERM)
                process.wait_for("draining sessions=1")
                assert wait_until(lambda: not answers(address[1]))
                released.set()
                assert read_all(sock) == b"late answer"
            assert process.wait() == 0
            assert "drained sessions_left=0" in process.log


def test_a_second_signal_ends_at_once() -> None:
    with serving(echo) as server, l4lb("serve", "--listen", "127.0.0.1:0", "--backend", server.address) as process:
        with connect(process.address()) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            process.signal(signal.SIGINT)
            process.wait_for("draining")
            process.signal(signal.SIGTERM)
            assert process.wait(5) == 0
            with pytest.raises(ConnectionResetError):
                read_all(sock)


def test_status_of_a_running_instance(tmp_path: Path) -> None:
    with serving(hold) as server:
        admin = f"unix:{tmp_path}/admin.sock"
        flags = ("--listen", "127.0.0.1:0", "--backend", server.address, "--admin", admin)
        with l4lb("serve", *flags) as process:
            process.wait_for("backend up")
            url = "http://l4lb/v1/status"
            by_curl = json.loads(run("curl", "--silent", "--unix-socket", f"{tmp_path}/admin.sock", url))
            with l4lb("status", "--json", "--admin", admin) as client:
                output = client.process.communicate()[0]
            with l4lb("serve", *flags) as second:
                assert second.wait() == 2
                assert second.log.startswith("--admin: ")
                assert f"held by a live instance (pid {process.process.pid})" in second.log
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
    answer = json.loads(output)
    assert answer["pid"] == by_curl["pid"] == process.process.pid
    assert answer["state"] == "running"
    assert answer["pools"][0]["backends"][0]["health"] == "up"


POOL = '[pools.web]\nbackends = ["127.0.0.1:1"]\n'
WRONG = {
    "typo": ('[listeners.web]\nbnd = ":0"', r':2: listeners.web.bnd: unknown key \(did you mean "bind"'),
    "pool": (f'{POOL}[listeners.web]\nbind = ":0"\npool = "wbe"', r":5: listeners.web.pool: \"wbe\": no such pool"),
    "address": ('[listeners.web]\nbind = "here"', r':2: listeners.web.bind: "here": expected "host:port"'),
    "duration": (
        '[listeners.web]\nbind = ":0"\nidle_timeout = "5x"',
        r':3: listeners.web.idle_timeout: "5x": expected',
    ),
    "duplicate": (
        f'{POOL}[listeners]\na = {{ bind = ":8", pool = "web" }}\nb = {{ bind = ":8", pool = "web" }}',
        r':5: listeners.b.bind\[0\]: ":8": already bound by listener "a"',
    ),
    "prime": ('[pools.web]\npolicy = "maglev"\ntable_size = 100', r":3: pools.web.table_size: 100: expected a prime"),
    "weight": (
        '[pools.web]\nbackends = [{ address = "127.0.0.1:1", weight = -1 }]',
        r":2: pools.web.backends\[0\].weight: -1: expected greater than or equal to 0",
    ),
    "not toml": ("[listeners.web\n", r":1: not TOML"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("command", [("check",), ("serve", "-c")])
def test_a_wrong_config_says_where_and_starts_nothing(case: str, command: tuple[str, ...], tmp_path: Path) -> None:
    text, expected = WRONG[case]
    file = tmp_path / "lb.toml"
    file.write_text(text)
    with l4lb(*command, str(file)) as process:
        assert process.wait() == 2
        lines = process.log.splitlines()
    assert not any("Traceback" in line for line in lines)
    assert any(re.search(str(file) + expected, line) for line in lines), lines


@pytest.mark.parametrize("command", [("check",), ("serve", "-c")])
def test_a_missing_file(command: tuple[str, ...], tmp_path: Path) -> None:
    with l4lb(*command, str(tmp_path / "none.toml")) as process:
        assert process.wait() == 2
        assert process.log.splitlines() == [f"{tmp_path}/none.toml: cannot be read: No such file or directory"]


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = tmp_path / "lb.toml"
        text = f'[listeners.web]\npool = "web"\nbind = "127.0.0.1:{port}"\n[pools.web]\nbackends = ["127.0.0.1:1"]\n'
        file.write_text(text)
        with l4lb("serve", "-c", str(file)) as process:
            assert process.wait() == 2
            message = f"127.0.0.1:{port}: cannot listen: Address already in use: port {port} is taken by "
            assert process.log.startswith(f"{file}:3: listeners.web.bind: {message}")
            assert process.log.endswith(f" (pid {os.getpid()})\n")


def test_a_second_instance_on_the_same_port_is_an_error_and_not_a_share() -> None:
    port = free_port()
    flags = ("--listen", f"127.0.0.1:{port}", "--backend", "127.0.0.1:1")
    with l4lb("serve", *flags) as first:
        first.address()
        with l4lb("serve", *flags) as second:
            assert second.wait() == 2
            assert "Address already in use" in second.log


def test_neither_file_nor_flags() -> None:
    with l4lb("serve") as process:
        assert process.wait() == 2
        assert "-c lb.toml" in process.log
        assert "--listen" in process.log


def test_demo_once() -> None:
    with l4lb("demo", "--once") as process:
        output = process.process.communicate(timeout=30)[0]
        assert process.process.returncode == 0
    assert output.count("10 x hello from backend") == 3
    assert "10 came back" in output


@pytest.mark.alone
def test_detection_takes_no_longer_than_its_checks(tmp_path: Path) -> None:
    with nginx("one") as one, nginx("two") as two:
        file = tmp_path / "lb.toml"
        file.write_text(FAST.format(one=one.address, two=two.address))
        with l4lb("serve", "-c", str(file)) as process:
            process.wait_for(f"backend up .*{one.address}")
            one.kill()
            killed = time.monotonic()
            process.wait_for(f"backend down .*{one.address}", 5)
            assert time.monotonic() - killed < 5 * 0.2
