"""The samples at work: real clients come to HAProxy or nginx with the original, to l4lb with what was made of it, and
reach the same backends through the same ports."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.convert import world
from tests.convert.samples import DIRECTORY
from tests.convert.world import Handle, naming
from tests.support import forking, hellos
from tests.support.datagrams import UdpClient, serving_udp
from tests.support.programs import l4lb, require, without_preload
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.external,
    pytest.mark.skipif(os.geteuid() != 0, reason="the samples' ports are below 1024: this takes root"),
]
DNS_FRONT, SYSLOG_FRONT = "127.2.101.1", "127.2.102.1"
ANSWERED_WITHIN_S = 5.0  # or asked again
Talk = Callable[[socket.socket], bytes]


class Client(NamedTuple):
    """Comes to `port` so many times, and reaches one of the backends with these names."""

    port: int
    names: set[str]
    talk: Talk
    times: int = 4


def says(data: bytes) -> Talk:
    def talk(sock: socket.socket) -> bytes:
        sock.sendall(data)
        return sock.recv(1 << 16)

    return talk


def listens(sock: socket.socket) -> bytes:
    """For servers that speak first."""
    return sock.recv(1 << 16).removeprefix(b"220 ")


def over_tls(sock: socket.socket) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(sock, server_hostname="api.example.com") as wrapped:
        wrapped.sendall(b"hello")
        return wrapped.recv(1 << 16)


def hello(name: str) -> Talk:
    return says(hellos.real(name))


ANY, SSH = says(b"hello"), says(b"SSH-2.0-OpenSSH_9.2\r\n")


class Scene(NamedTuple):
    handlers: dict[str, Handle]
    clients: list[Client]


def named(**addresses: str) -> dict[str, Handle]:
    return {address: naming(name) for name, address in addresses.items()}


def galera(directory: Path) -> Scene:
    nodes = named(node1="127.0.0.11:3306", node2="127.0.0.12:3306", node3="127.0.0.13:3306")
    checks = {f"127.0.0.{number}:9200": world.web("/") for number in (11, 12, 13)}
    return Scene(nodes | checks, [Client(3306, {"node1"}, ANY)])


def patroni(directory: Path) -> Scene:
    servers = named(pg1="127.0.1.11:5432", pg2="127.0.1.12:5432")
    checks = {"127.0.1.11:8008": world.web("/primary"), "127.0.1.12:8008": world.web("/replica")}
    return Scene(servers | checks, [Client(5000, {"pg1"}, ANY), Client(5001, {"pg2"}, ANY)])


def redis(directory: Path) -> Scene:
    roles = {"redis1": "slave", "redis2": "master", "redis3": "slave"}
    handlers = {f"127.0.2.1{name[-1]}:6379": world.redis(name, role) for name, role in roles.items()}
    return Scene(handlers, [Client(6379, {"redis2"}, says(b"GET x\r\n"))])


def mail(directory: Path) -> Scene:
    handlers = {f"127.0.3.1{number}:10025": world.mail(f"mx{number}") for number in (1, 2)}
    for port in (143, 993, 10143):
        handlers |= {f"127.0.3.2{number}:{port}": naming(f"imap{number}") for number in (1, 2)}
    both = {"imap1v2", "imap2v2"}
    return Scene(handlers, [Client(25, {"mx1v1", "mx2v1"}, listens), Client(143, both, ANY), Client(993, both, ANY)])


def kubernetes(directory: Path) -> Scene:
    context = world.server_context(directory)
    handlers = {f"127.0.4.1{number}:6443": world.tls(f"master{number}", context) for number in (1, 2, 3)}
    workers = named(worker1="127.0.4.21:30443", worker2="127.0.4.22:30443")
    clients = [Client(6443, {"master1", "master2", "master3"}, over_tls), Client(443, {"worker1", "worker2"}, ANY)]
    return Scene(handlers | workers, clients)


def sni(directory: Path) -> Scene:
    handlers = named(api1="127.0.5.21:443", api2="127.0.5.22:443", shop1="127.0.5.31:443", web1="127.0.5.51:443")
    clients = [
        Client(443, {"api1", "api2"}, hello("API.example.com")),
        Client(443, {"shop1"}, hello("shop.example.com")),
        Client(443, {"shop1"}, hello("a.b.shop.example.com")),
        Client(443, {"web1"}, hello("other.example.com")),
    ]
    return Scene(handlers, clients)


def ssh_and_https(directory: Path) -> Scene:
    handlers = named(sshd="127.0.6.11:22", nginx="127.0.6.12:8443")
    refused = Client(443, {""}, says(b"GET / HTTP/1.0\r\n\r\n"))
    return Scene(handlers, [Client(443, {"sshd"}, SSH), Client(443, {"nginx"}, hello("a.example")), refused])


def rdp(directory: Path) -> Scene:
    return Scene(named(ts1="127.0.7.11:3389", ts2="127.0.7.12:3389"), [Client(3389, {"ts1", "ts2"}, ANY, times=1)])


def mqtt(directory: Path) -> Scene:
    return Scene(named(emqx1="127.0.8.11:1883", emqx2="127.0.8.12:1883"), [Client(1883, {"emqx1"}, ANY)])


def minecraft(directory: Path) -> Scene:
    handlers = named(survival1="127.0.9.11:25565", survival2="127.0.9.12:25565", creative1="127.0.9.21:25565")
    return Scene(handlers, [Client(25565, {"survival1"}, ANY), Client(25566, {"creative1"}, ANY)])


def bastion(directory: Path) -> Scene:
    handlers = named(bastion1="127.0.10.11:22", bastion2="127.0.10.12:22", git="127.0.10.21:443")
    handlers |= named(portal="127.0.10.31:443")
    clients = [
        Client(2222, {"bastion1", "bastion2"}, SSH),
        Client(443, {"gitv2"}, hello("git.example.com")),
        Client(443, {"gitv2"}, hello("x.git.example.com")),
        Client(443, {"portal"}, hello("gitxexample.com")),
    ]
    return Scene(handlers, clients)


def nginx_sni(directory: Path) -> Scene:
    handlers = named(web1="127.1.2.11:443", web2="127.1.2.12:443", api="127.1.2.21:443", shop="127.1.2.31:443")
    handlers |= named(git="127.1.2.41:443", sshd="127.1.2.51:22")
    clients = [
        Client(443, {"api"}, hello("api.example.com")),
        Client(443, {"shop"}, hello("a.shop.example.com")),
        Client(443, {"git"}, hello("git.example.com")),
        Client(443, {"git"}, hello("x.git.example.com")),
        Client(443, {"web1", "web2"}, hello("shop.example.com")),
        Client(443, {"sshd"}, SSH),
    ]
    return Scene(handlers, clients)


def databases(directory: Path) -> Scene:
    handlers = named(mysql1="127.1.3.11:3306", mysql2="127.1.3.12:3306", pg="127.1.3.21:5432")
    return Scene(handlers, [Client(3306, {"mysql1"}, ANY), Client(5432, {"pgv1"}, ANY)])


def canary(directory: Path) -> Scene:
    handlers = named(stable1="127.1.4.11:8080", stable2="127.1.4.12:8080", canary="127.1.4.21:8080")
    stable = {"stable1", "stable2"}
    return Scene(handlers, [Client(8080, stable, ANY), Client(8081, {*stable, "canary"}, ANY)])


def game_rooms(directory: Path) -> Scene:
    handlers = named(castle="127.1.5.11:27015", harbour="127.1.5.12:27015", lobby="127.1.5.21:27015")
    rooms = {27015: "castle", 27016: "harbour", 27017: "lobby"}
    return Scene(handlers, [Client(port, {name}, ANY) for port, name in rooms.items()])


def dns_over_tcp(directory: Path) -> Scene:
    return Scene(named(dns1="127.1.0.11:53", dns2="127.1.0.12:53"), [Client(53, {"dns1", "dns2"}, ANY)])


SCENES = {
    "haproxy/galera.cfg": galera,
    "haproxy/patroni.cfg": patroni,
    "haproxy/redis.cfg": redis,
    "haproxy/mail.cfg": mail,
    "haproxy/kubernetes.cfg": kubernetes,
    "haproxy/sni.cfg": sni,
    "haproxy/ssh-and-https.cfg": ssh_and_https,
    "haproxy/rdp.cfg": rdp,
    "haproxy/mqtt.cfg": mqtt,
    "haproxy/minecraft.cfg": minecraft,
    "nginx/sni.conf": nginx_sni,
    "nginx/databases.conf": databases,
    "nginx/canary.conf": canary,
    "nginx/dns.conf": dns_over_tcp,
    "nginx/game-rooms.conf": game_rooms,
    "haproxy/bastion.cfg": bastion,
}


def reached(client: Client, front: str) -> str:
    """The name of the backend that it gets to; empty when it is refused."""
    with contextlib.suppress(OSError, ssl.SSLError):
        with socket.create_connection((front, client.port), timeout=ANSWERED_WITHIN_S) as sock:
            sock.settimeout(ANSWERED_WITHIN_S)
            return client.talk(sock).partition(b"|")[0].decode("latin-1")
    return ""


def misled(clients: list[Client], front: str) -> list[tuple[int, str]]:
    """Whom each client reached that it should not have. HAProxy takes all servers for up until checks have failed."""
    found = [(client, reached(client, front)) for client in clients for _ in range(client.times)]
    return [(client.port, name) for client, name in found if name not in client.names]


@contextlib.contextmanager
def original(file: Path, directory: Path) -> Iterator[None]:
    if file.suffix == ".cfg":
        command = [require("haproxy"), "-db", "-f", str(file)]
    else:
        command = [require("nginx"), "-p", str(directory), "-c", str(file), "-e", f"{directory}/error.log"]
    with (directory / "said").open("ab") as out:
        process = subprocess.Popen(command, env=without_preload(), stdout=out, stderr=out)
    try:
        yield
        assert process.poll() is None, (directory / "said").read_text()
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def conversion(file: Path, directory: Path) -> Iterator[None]:
    result = directory / "lb.toml"
    done = forking.run("convert", str(file), "-o", str(result))
    assert done.returncode == 0, done.stderr
    checked = forking.run("check", str(result))
    assert checked.returncode == 0, checked.stderr
    with l4lb("serve", "-c", str(result)) as process:
        process.wait_for("listening listener=")
        yield
        assert process.process.poll() is None, process.log


def source(sample: str, front: str, directory: Path) -> Path:
    """The sample with addresses of this host."""
    path = DIRECTORY / sample
    of_haproxy = path.suffix == ".cfg"
    text = world.haproxy_text(path, front) if of_haproxy else world.nginx_text(path, front, directory)
    file = directory / path.name
    file.write_text(text)
    return file


@pytest.mark.parametrize("sample", SCENES)
def test_clients_reach_the_same_backends(sample: str, tmp_path: Path) -> None:
    scene = SCENES[sample](tmp_path)
    front = f"127.2.{list(SCENES).index(sample)}.1"  # others run beside
    file = source(sample, front, tmp_path)
    with world.backends(scene.handlers):
        for serving in (original, conversion):
            with serving(file, tmp_path):
                found = functools.partial(misled, scene.clients, front)
                assert wait_until(lambda found=found: found() == []), (serving.__name__, found())


def test_dns_over_udp(tmp_path: Path) -> None:
    file = source("nginx/dns.conf", DNS_FRONT, tmp_path)
    with serving_udp(lambda data: [b"one|" + data], "127.1.0.11", 53), contextlib.ExitStack() as stack:
        stack.enter_context(serving_udp(lambda data: [b"two|" + data], "127.1.0.12", 53))
        for serving in (original, conversion):
            with serving(file, tmp_path):
                answers: set[bytes] = set()
                assert wait_until(lambda answers=answers: answers >= {b"one|x", b"two|x"} or asked(answers))


def asked(answers: set[bytes]) -> None:
    """One more answer."""
    client = UdpClient((DNS_FRONT, 53), 1.0)
    with contextlib.closing(client.sock), contextlib.suppress(OSError):
        answers.add(client.ask(b"x"))


def test_syslog_goes_one_way_to_one_collector(tmp_path: Path) -> None:
    file = source("nginx/syslog.conf", SYSLOG_FRONT, tmp_path)
    for serving in (original, conversion):
        with (
            serving_udp(lambda data: [], "127.1.1.11", 514) as one,
            serving_udp(lambda data: [], "127.1.1.12", 514) as two,
        ):
            with serving(file, tmp_path):
                assert wait_until(lambda one=one, two=two: len(one.received + two.received) >= 20 or sent())
                assert bool(one.received) != bool(two.received), "one sender, one collector"


def sent() -> None:
    """A line of a sender, whose address is always the same."""
    client = UdpClient((SYSLOG_FRONT, 514), 1.0)
    with contextlib.closing(client.sock), contextlib.suppress(OSError):
        client.send(b"<14>a line")
