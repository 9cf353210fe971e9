"""``l4lb vrrp-config``: keepalived reads what it prints, and moves the addresses as promised."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import forking
from tests.support.namespaces import Host, link, namespaces
from tests.support.peers import echo, serving
from tests.support.programs import L4lb, l4lb, require
from tests.support.routers import Daemon
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external

V4, V6 = "192.0.2.10", "2001:db8::10"
OWN = ({4: "10.83.1.1", 6: "fd83:1::1"}, {4: "10.83.1.2", 6: "fd83:1::2"})
FILE = """
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = ["{backend}"]
health = {{ type = "none" }}
"""


def configuration(*arguments: str) -> str:
    program = str(Path(sys.executable).with_name("l4lb"))
    done = forking.run("vrrp-config", "--program", program, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Port:
    """Of the switch: where a node's cable ends."""

    switch: Host
    name: str

    def set(self, state: str) -> None:
        self.switch.ip("link", "set", self.name, state)


@dataclass
class Node:
    """A host with a balancer and keepalived."""

    host: Host
    port: Port
    device: str
    directory: Path
    keepalived: Daemon
    balancer: L4lb | None = None

    @property
    def admin(self) -> str:
        return f"unix:{self.directory}/admin.sock"

    def has(self, *addresses: str) -> bool:
        shown = self.host.ip("-o", "addr", "show", "dev", self.device)
        return all(f" {address}/" in shown for address in addresses)

    @contextlib.contextmanager
    def balancing(self, backend: str) -> Iterator[None]:
        file = self.directory / "lb.toml"
        file.write_text(FILE.format(backend=backend))
        with l4lb("serve", "-c", str(file), "--admin", self.admin) as self.balancer:
            self.balancer.wait_for("admin listening")
            yield

    @property
    def track_file(self) -> Path:
        return self.directory / "tracked" / "fit"

    @contextlib.contextmanager
    def announcing(self) -> Iterator[L4lb]:
        arguments = ("--admin", self.admin, "--track-file", str(self.track_file), "--rise", "100ms")
        with l4lb("announce", "keepalived", *arguments, "--fail-after", "10s") as announcer:
            announcer.wait_for("this node is fit")
            yield announcer

    @contextlib.contextmanager
    def becomes_backup(self) -> Iterator[None]:
        before = self.backups
        yield
        assert wait_until(lambda: self.backups > before), self.keepalived.log

    def command(self, *arguments: str) -> None:
        done = forking.run(*arguments, environment={"L4LB_ADMIN": self.admin})
        assert done.returncode == 0, done.stderr

    def kill_balancer(self) -> None:
        assert self.balancer is not None
        self.balancer.signal(signal.SIGKILL)

    @property
    def backups(self) -> int:
        """How often it has become the backup."""
        return self.keepalived.log.count("(l4lb_v4) Entering BACKUP STATE")

    def checks(self, outcome: str) -> int:
        """How often keepalived has said that of the check; "succeeded" or "failed"."""
        return len(re.findall(rf"VRRP_Script\(l4lb_health\) {outcome}", self.keepalived.log))


@contextlib.contextmanager
def two_nodes(directory: Path, *more: str) -> Iterator[list[Node]]:
    """On a switch; keepalived is not running yet."""
    with namespaces(*(f"l4lb-{os.getpid()}-v{name}" for name in ("switch", "a", "b"))) as (switch, *hosts):
        switch.ip("link", "add", "l4bridge", "type", "bridge")
        switch.ip("link", "set", "l4bridge", "up")
        nodes = []
        for index, host in enumerate(hosts):
            device, port = f"l4v{os.getpid() % 100000}{index}", f"l4p{os.getpid() % 100000}{index}"
            link(host, device, switch, port)
            switch.ip("link", "set", port, "master", "l4bridge", "up")
            host.ip("addr", "add", f"{OWN[index][4]}/24", "dev", device)
            host.ip("addr", "add", f"{OWN[index][6]}/64", "dev", device, "nodad")
            host.ip("link", "set", device, "up")
            nodes.append(_node(host, Port(switch, port), device, directory / str(index), index, more))
        try:
            yield nodes
        finally:
            for node in nodes:
                node.keepalived.stop()


def _node(host: Host, port: Port, device: str, directory: Path, index: int, more: tuple[str, ...]) -> Node:
    (directory / "tracked").mkdir(parents=True)
    conf = directory / "keepalived.conf"
    peers = [
        word for version in (4, 6) for word in ("--peer", OWN[1 - index][version], "--source", OWN[index][version])
    ]
    addresses = ["--address", f"{V4}/24", "--address", f"{V6}/64"]
    conf.write_text(
        configuration(
            *addresses, "--interface", device, "--priority", str(150 - index * 50), *peers,
            "--admin", f"unix:{directory}/admin.sock", "--timeout", "20",
            "--track-file", f"{directory}/tracked/fit", *more,
        )
    )  # fmt: skip
    files = ["-p", str(directory / "pid"), "-r", str(directory / "vrrp.pid")]
    command = [require("keepalived"), "-n", "-l", "-D", "-P", "-f", str(conf), *files]
    return Node(host, port, device, directory, Daemon(host, command, directory / "keepalived.log"))


def wait_for_addresses(node: Node, nodes: list[Node]) -> None:
    """That node has them, and no other."""
    rest = [each for each in nodes if each is not node]
    moved = wait_until(lambda: node.has(V4, V6) and not any(each.has(V4) or each.has(V6) for each in rest))
    assert moved, [each.keepalived.log[-3000:] for each in nodes]


def test_the_addresses_move_and_stay(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(serving(echo)).address
        one, other = nodes = stack.enter_context(two_nodes(tmp_path))

        def wait(node: Node) -> None:
            wait_for_addresses(node, nodes)

        one.keepalived.start()
        assert wait_until(lambda: one.checks("failed")), one.keepalived.log
        first = contextlib.ExitStack()
        stack.callback(first.close)
        first.enter_context(one.balancing(backend))
        wait(one)
        stack.enter_context(other.balancing(backend))
        other.keepalived.start()
        assert wait_until(lambda: other.checks("succeeded")), other.keepalived.log

        one.kill_balancer()
        wait(other)

        with one.balancing(backend):  # which has the higher priority, but nopreempt
            before = one.checks("succeeded")
            assert wait_until(lambda: one.checks("succeeded") > before), one.keepalived.log
            wait(other)

            other.port.set("down")
            wait(one)
            with other.becomes_backup():
                other.port.set("up")
            wait(one)
            one.kill_balancer()
            wait(other)


def test_the_file_moves_them_before_any_check(tmp_path: Path) -> None:
    """Each node has one check, when keepalived starts; the next is due in an hour."""
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(serving(echo)).address
        one, other = nodes = stack.enter_context(two_nodes(tmp_path, "--interval", "3600", "--rise", "1"))

        def wait(node: Node) -> None:
            wait_for_addresses(node, nodes)

        first = stack.enter_context(contextlib.ExitStack())
        first.enter_context(one.balancing(backend))
        stack.enter_context(other.balancing(backend))
        for node in nodes:
            node.keepalived.start()
            assert wait_until(lambda node=node: node.checks("succeeded")), node.keepalived.log  # type: ignore[misc]
            assert node.track_file.read_text().split() == ["0"]  # by keepalived
            stack.enter_context(node.announcing())
        wait(one)

        one.kill_balancer()
        wait(other)
        first.close()
        with one.becomes_backup():
            stack.enter_context(one.balancing(backend))  # which has the higher priority, but nopreempt
        wait(other)

        assert other.balancer is not None
        with other.becomes_backup():
            other.balancer.hang()
            wait(one)
            other.balancer.signal(signal.SIGCONT)
        wait(one)
        one.command("drain")
        wait(other)


def test_an_upgrade_leaves_the_file_alone(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(serving(echo)).address
        node = stack.enter_context(two_nodes(tmp_path))[0]
        stack.enter_context(node.balancing(backend))
        announcer = stack.enter_context(node.announcing())
        before = node.track_file.stat()
        node.command("upgrade")
        assert node.balancer is not None
        assert node.balancer.wait() == 0
        assert (node.track_file.stat(), announcer.log) == (before, "l4lb announce: this node is fit\n")
        node.command("drain")
        assert wait_until(lambda: node.track_file.read_text() == "1\n"), announcer.log
        announcer.wait_for("this node is unfit: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--address", "192.0.2.10/24"),
        ("--address", "2001:db8::10/64"),
        ("--address", "192.0.2.10/24", "--address", "192.0.2.11/24", "--address", "2001:db8::10/64"),
        ("--address", "192.0.2.10/32", "--peer", "10.83.1.2", "--source", "10.83.1.1", "--router-id", "255"),
        ("--address", "192.0.2.10/32", "--pool", "web", "--listener", "w:1", "--min-backends", "2", "--rise", "5"),
        ("--address", "192.0.2.10/32", "--priority", "254", "--advert-int", "40.95s", "--interval", "3"),
    ],
)
def test_keepalived_takes_it(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with namespaces(f"l4lb-{os.getpid()}-va", f"l4lb-{os.getpid()}-vb") as hosts:
        link(hosts[0], "l4veth0", hosts[1], "l4veth1")
        file = tmp_path / "keepalived.conf"
        places = ("--admin", "unix:/run/a.sock", "--track-file", str(tmp_path / "fit"))
        file.write_text(configuration("--interface", "l4veth0", *places, *arguments))
        command = [*hosts[0].command, require("keepalived"), "-t", "-l", "-f", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


WRONG = {
    ("--interface", "eth0", "--address", "192.0.2.10"): '"192.0.2.10": expected an address with its prefix',
    ("--interface", "eth0", "--address", "192.0.2.300/24"): "expected an address with its prefix",
    ("--interface", "eth0", "--address", "192.0.2.10/24", "--address", "192.0.2.10/32"): "given twice",
    ("--interface", "eth0 {", "--address", "192.0.2.10/24"): "expected the name of an interface",
    ("--interface", "a" * 16, "--address", "192.0.2.10/24"): "expected the name of an interface",
    ("--interface", "lo", "--address", "192.0.2.10/24"): "not lo",
    ("--address", "192.0.2.10/24"): "Missing option '--interface'",
    ("--interface", "eth0"): "Missing option '--address'",
}
WRONG_MORE = {
    ("--router-id", "0"): "1<=x<=255",
    ("--router-id", "256"): "1<=x<=255",
    ("--priority", "255"): "1<=x<=254",
    ("--advert-int", "41s"): "10ms to 40.95s",
    ("--advert-int", "15ms"): "10ms to 40.95s",
    ("--advert-int", "0"): "10ms to 40.95s",
    ("--peer", "2001:db8::2"): "no --address is of this family",
    ("--peer", "node2"): "expected an IP address",
    ("--peer", "fe80::2%}"): "expected an IP address",
    ("--source", "10.0.0.1"): "goes with a --peer",
    ("--peer", "10.0.0.2", "--source", "10.0.0.1", "--source", "10.0.0.3"): "at most one",
    ("--program", "l4lb"): "absolute path",
    ("--program", '/usr/bin/l4lb"'): "letters, digits",
    ("--pool", "two words"): "letters, digits",
    ("--script-user", "a b"): "name of a user",
    ("--track-file", "fit"): "an absolute path",
    ("--track-file", '/run/a"b'): "an absolute path",
    ("--interval", "0"): "1<=x",
    ("--admin", "lb.example:1"): "expected",
    ("--min-backends", "0"): "1<=x",
}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [*WRONG.items(), *(((*more, "--interface", "eth0", "--address", "192.0.2.1/24"), said) for more, said in
                       WRONG_MORE.items())],
)  # fmt: skip
def test_wrong_usage(arguments: tuple[str, ...], said: str) -> None:
    done = forking.run("vrrp-config", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.split()), done.stderr
