"""The commands that talk to a running instance: each against `l4lb serve` as a process, as operators type them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import forking
from tests.support.commands import Commands
from tests.support.peers import Server, connect, echo, read_until_end, serving
from tests.support.programs import L4lb, free_port, l4lb
from tests.support.waiting import wait_until

FILE = """
[global]
workers = 1
drain_timeout = "20s"
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "web"
[listeners.side]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = ["{backend}"]
health = {{ type = "none" }}
"""


class Instance(Commands):
    """A served instance, and the command line on it."""

    def __init__(self, directory: Path, process: L4lb, server: Server, port: int) -> None:
        super().__init__(f"unix:{directory}/admin.sock")
        self.directory = directory
        self.process = process
        self.backend = server.address
        self.address = f"127.0.0.1:{port}"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """With the instance's address in the environment."""
        command = [sys.executable, "-m", "l4lb", *arguments]
        environment = {**os.environ, **self.environment}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def backends(self) -> dict[str, tuple[int, str]]:
        listed = json.loads(self.ok("backend", "list", "web", "--json"))
        return {one["id"]: (one["weight"], one["admin_state"]) for one in listed}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    with serving(echo) as server:
        port = free_port()
        (tmp_path / "lb.toml").write_text(FILE.format(port=port, backend=server.address))
        with l4lb("serve", "-c", str(tmp_path / "lb.toml"), "--admin", f"unix:{tmp_path}/admin.sock") as process:
            process.wait_for("admin listening")
            yield Instance(tmp_path, process, server, port)


@contextlib.contextmanager
def session(instance: Instance) -> Iterator[None]:
    """One that echoes, while the context lasts."""
    with connect(instance.address) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        yield


def test_backends(instance: Instance) -> None:
    first, second = instance.backend, "127.0.0.1:1"
    options = ("--weight", "3", "--max-sessions", "9", "--tag", "rack=4", "--admin-state", "maint", "--zone", "a")
    assert instance.ok("backend", "add", "web", second, *options) == f"web: {second}: added\n"
    assert instance.ok("backend", "add", "web", second) == f"web: {second}: was there\n"
    assert instance.backends() == {first: (1, "ready"), second: (3, "maint")}
    table = instance.ok("backend", "list", "web")
    assert re.search(rf"{second} .* maint .* 3 ", table), table
    assert instance.ok("backend", "weight", "web", second, "5") == f"web: {second}: weight 5\n"
    assert instance.ok("backend", "ready", "web", second) == f"web: {second}: admin state ready\n"
    assert instance.ok("backend", "maint", "web", first, second).count("admin state maint") == 2
    assert instance.backends() == {first: (1, "maint"), second: (5, "maint")}
    assert instance.ok("backend", "remove", "web", second, "--drain", "1s") == f"web: {second}: removed\n"
    assert list(instance.backends()) == [first]


def test_a_backend_drains_with_a_deadline(instance: Instance) -> None:
    with session(instance):
        said = f"web: {instance.backend}: drain, 1 session\n"
        assert instance.ok("backend", "drain", "web", instance.backend) == said
        code, out, err = instance.run("backend", "drain", "web", instance.backend, "--wait", "--timeout", "300ms")
        assert (code, out) == (1, said)
        assert err.startswith("1 session left, at most 0 s more\n")
        waits = instance.start("backend", "drain", "web", instance.backend, "--wait", "--timeout", "1m")
        assert waits.stderr is not None
        assert re.match("1 session left, at most (60|59) s more", waits.stderr.readline())
    with waits:
        out, _ = waits.communicate(timeout=30)
    assert (waits.returncode, out) == (0, f"web: {instance.backend}: drain, 0 sessions\n")


def test_what_cannot_be_done_is_one_line_and_an_exit_code(instance: Instance) -> None:
    cases: dict[tuple[str, ...], tuple[int, str]] = {
        ("backend", "list", "none"): (1, 'l4lb: no pool "none"'),
        ("backend", "drain", "web", "127.0.0.1:7"): (1, 'l4lb: no backend "127.0.0.1:7" in pool "web"'),
        ("backend", "weight", "web", "127.0.0.1:7", "2"): (1, 'l4lb: no backend "127.0.0.1:7" in pool "web"'),
        ("backend", "ready", "web", instance.backend, "127.0.0.1:7"): (1, 'l4lb: no backend "127.0.0.1:7"'),
        ("backend", "weight", "web", instance.backend, "70000"): (1, "l4lb: weight: "),
        ("backend", "add", "web", "nowhere"): (1, "l4lb: pools.web.backends[nowhere].address: "),
        ("backend", "add", "web", "127.0.0.1:7", "--tag", "rack"): (2, "l4lb: Invalid value for '--tag': \"rack\""),
        ("backend", "remove", "web", "127.0.0.1:7"): (1, 'l4lb: no backend "127.0.0.1:7" in pool "web"'),
        ("backend", "drain", "web", instance.backend, "--timeout", "soon"): (2, "l4lb: Invalid value for '--timeout'"),
        ("backend", "drain", "web"): (2, "l4lb: Missing argument 'ADDR...'"),
        ("session", "kill"): (2, "l4lb: which sessions? Give their ids, or a filter"),
        ("session", "kill", "4294967296", "--pool", "web"): (2, "l4lb: which sessions?"),
        ("session", "kill", "4294967296"): (1, 'l4lb: id: no session "4294967296"'),
        ("session", "list", "--source", "here"): (1, 'l4lb: source: "here": expected an IP address'),
        ("session", "list", "--limit", "0"): (2, "l4lb: Invalid value for '--limit'"),
        ("drain", "--listener", "none"): (1, 'l4lb: listener: no listener "none"'),
        ("drain", "--undo"): (2, "l4lb: --undo goes with --listener"),
        ("drain", "--listener", "web", "--undo"): (1, 'l4lb: listener: listener "web" does not drain'),
        ("reload", "--admin", "unix:/none.sock"): (1, "l4lb: no instance answers at unix:/none.sock: No such file"),
        ("upgrade", "--admin", "none"): (1, 'l4lb: "none": expected'),
    }
    for arguments, (expected, line) in cases.items():
        code, out, err = instance.run(*arguments)
        assert (code, err.splitlines()[0][: len(line)]) == (expected, line), (arguments, out, err)
        assert "Traceback" not in err
    assert instance.backends() == {instance.backend: (1, "ready")}


def test_sessions(instance: Instance) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(instance.address)) for _ in range(3)]
        names = ["{}:{}".format(*client.getsockname()) for client in clients]
        assert wait_until(lambda: len(json.loads(instance.ok("session", "list", "--json"))) == 3)
        listed = json.loads(instance.ok("session", "list", "--pool", "web", "--source", names[0], "--json"))
        assert [one["client"] for one in listed] == [names[0]]
        table = instance.ok("session", "list", "--backend", instance.backend, "--listener", "web")
        assert all(name in table for name in names), table
        code, out, err = instance.run("session", "list", "--limit", "2", "--json")
        assert (code, len(json.loads(out)), err) == (0, 2, "l4lb: 2 sessions, and perhaps more: see --limit\n")
        code, out, err = instance.run("session", "kill", listed[0]["id"], "4294967299")
        assert (code, out, err) == (1, "ended 1 session\n", 'l4lb: id: no session "4294967299"\n')
        assert read_until_end(clients[0]) == (b"", True)
        assert instance.ok("session", "kill", "--source", "127.0.0.0/8") == "ended 2 sessions\n"
        assert all(read_until_end(client) == (b"", True) for client in clients[1:])


def test_reload(instance: Instance) -> None:
    file = instance.directory / "lb.toml"
    good = file.read_text()
    file.write_text(good.replace("workers = 1", "workers = 2").replace('"]', '", "127.0.0.1:1"]'))
    code, out, err = instance.run("reload")
    assert (code, out.splitlines()[-1]) == (0, "backends: 1 added, 0 removed, 0 changed")
    assert err == "l4lb: from the next upgrade or restart on: global.workers\n"
    file.write_text(good.replace("[pools.web]", "[pools.web]\npolcy = 1\ntable_size = 10"))
    code, out, err = instance.run("reload")
    assert (code, out) == (2, "")
    assert [line.split(": ")[1] for line in err.splitlines()] == ["pools.web.polcy", "pools.web.table_size"]
    assert len(instance.backends()) == 2


def test_a_listener_drains_and_accepts_again(instance: Instance) -> None:
    with session(instance):
        said = instance.ok("drain", "--listener", "web", "--timeout", "1m")
        assert said == "listener web: drains, 1 session, at most 60 s\n"
        assert "drains, at most" in instance.ok("status")
        code, out, err = instance.run("drain", "--listener", "web", "--timeout", "300ms", "--wait")
        assert (code, out) == (1, "listener web: drained, 1 session reset\n")
        assert err.startswith("1 session left, at most ")
    assert instance.ok("drain", "--listener", "side", "--wait") == "listener side: drained, no session was left\n"
    assert instance.ok("drain", "--listener", "web", "--undo") == "listener web: accepts\n"
    with session(instance):
        pass


def test_the_instance_drains_and_exits(instance: Instance) -> None:
    with session(instance):
        assert instance.ok("drain") == "the instance: drains, 1 session, at most 20 s\n"
        waits = instance.start("drain", "--wait", "--timeout", "1m")
        assert waits.stderr is not None
        assert re.match("1 session left, at most [56][0-9] s more", waits.stderr.readline())
    with waits:
        out, _ = waits.communicate(timeout=30)
    assert (waits.returncode, out) == (0, "the instance: drained, no session was left\n")
    assert instance.process.wait() == 0


def test_a_drain_that_a_signal_ends_says_so(instance: Instance) -> None:
    with session(instance):
        waits = instance.start("drain", "--wait")
        instance.process.wait_for("draining sessions=1")
        assert waits.stderr is not None
        assert re.match("1 session left", waits.stderr.readline())
        instance.process.signal(signal.SIGTERM)
        with waits:
            out, _ = waits.communicate(timeout=30)
    assert (waits.returncode, out) == (1, "the instance: drained, 1 session reset\n")


def test_upgrade(instance: Instance) -> None:
    said = instance.ok("upgrade")
    match = re.fullmatch(r"process (\d+) accepts now; the one before it drains\n", said)
    assert match is not None, said
    try:
        assert instance.process.wait() == 0
        assert json.loads(instance.ok("status", "--json"))["pid"] == int(match[1])
        with session(instance):
            pass
    finally:
        os.kill(int(match[1]), signal.SIGKILL)


def test_check_warns_of_a_source_address_that_this_host_does_not_have(tmp_path: Path) -> None:
    """It may be meant for another one: not an error, as it is for serve."""
    file = tmp_path / "lb.toml"
    file.write_text(
        '[listeners.web]\nbind = "127.0.0.1:0"\npool = "web"\n'
        '[pools.web]\nbackends = ["127.0.0.1:9"]\nsource_address = "192.0.2.1"\n'
    )
    done = forking.run("check", str(file))
    assert done.returncode == 0
    assert re.search(
        r'warning: .*lb.toml:6: pools.web.source_address: "192.0.2.1": not an address of this', done.stderr
    )
    done = forking.run("serve", "-c", str(file))
    assert done.returncode == 2
    assert 'pools.web.source_address: "192.0.2.1": not an address of this host' in done.stderr
