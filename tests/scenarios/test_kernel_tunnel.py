"""Tunnels between hosts: real clients and servers, each way to attach, each family in each. The backend's end is a
small program of the tests, which takes the outer headers off."""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from tests.support.commands import Commands
from tests.support.forking import Forked
from tests.support.forwarding import said
from tests.support.frames import checksum, parse
from tests.support.namespaces import BACK, BACKEND, FRONT, Host, Hosts, three_hosts
from tests.support.programs import l4lb, require
from tests.support.slow import first_and_slow

SERVICE = {4: "203.0.113.80", 6: "2001:db8:80::80"}
SERVER = """
import socket, sys, threading
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
def serve(sock):
    with sock, sock.makefile("rb") as file:
        data = file.read(int(file.readline() or 0))  # a health check says nothing
        sock.sendall(data)
listening = socket.create_server((sys.argv[1], 80), family=family, dualstack_ipv6=sys.argv[1] == "::")
datagrams = socket.socket(family, socket.SOCK_DGRAM)
datagrams.bind((sys.argv[1], 80))
def answer():
    while True:
        data, peer = datagrams.recvfrom(65536)
        datagrams.sendto(data, peer)
threading.Thread(target=answer, daemon=True).start()
print("up", flush=True)
while True:
    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()
"""
# Up and down again, and whether it is the same.
CLIENT = """
import random, socket, sys, threading
service, sizes, datagrams = sys.argv[1], *(map(int, one.split(",")) if one else () for one in sys.argv[2:])
family = socket.AF_INET6 if ":" in service else socket.AF_INET
for size in sizes:
    wanted = random.randbytes(size)
    with socket.create_connection((service, 80), timeout=20) as sock:
        sender = threading.Thread(target=sock.sendall, args=(b"%d\\n" % size + wanted,))
        sender.start()
        got = b""
        while piece := sock.recv(1 << 16):
            got += piece
        sender.join()
        assert got == wanted, (len(got), size)
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.settimeout(10)
for size in datagrams:
    wanted = random.randbytes(size)
    sock.sendto(wanted, (service, 80))
    assert sock.recv(65536) == wanted, size
print("done", flush=True)
"""
BALANCER = """
import contextlib, json, socket, sys
import psutil
from l4lb.engine.kernel.attaching import images
from l4lb.engine.kernel.forwarding import KernelForwarder
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import BackendSpec, KernelTerms, ListenerSpec, PoolSpec, Selection, Snapshot
from l4lb.model.states import Protocol
attach, front, service, backend, gue_port = sys.argv[1:]
def address(host):
    return SocketAddress(socket.AF_INET6 if ":" in host else socket.AF_INET, host, 80)
devices = tuple(name for name, found in psutil.net_if_addrs().items() if any(one.address == front for one in found))
forwarder = KernelForwarder(images(), slots=1 << 12, flows=1 << 12)
terms = KernelTerms("tunnel", attach, devices, int(gue_port))
pools, listeners = [], []
for protocol in Protocol:
    pools.append(PoolSpec(str(protocol), Selection.HASH, (BackendSpec("b", address(backend)),), (0,), [0] * 251))
    listeners.append(ListenerSpec(str(protocol), (address(service),), str(protocol), protocol, kernel=terms))
forwarder.prepare(listeners)
forwarder.publish(Snapshot(1, tuple(pools), tuple(listeners)))
with contextlib.suppress(ConnectionRefusedError):  # as a health check: XDP asks for no neighbour
    socket.create_connection((backend, 80), timeout=10).close()
print("up", flush=True)
for line in sys.stdin:
    print(json.dumps({verdict.name: count for verdict, count in forwarder.verdicts().items()}), flush=True)
forwarder.close()
"""
DECAPSULATE = """
import pathlib, psutil, socket, sys, threading
from l4lb._native import kernel
program = kernel.load(pathlib.Path(sys.argv[1]).read_bytes(), "decapsulate", {}, {})[0]
(device,) = (name for name in psutil.net_if_addrs() if name != "lo")
link = program.attach(socket.if_nametoindex(device), kernel.ATTACH_XDP, 1 << 2)
print("up", flush=True)
threading.Event().wait()
"""

# Sends a datagram that does not fit and says which frames came back, until ICMP's.
TOO_LARGE = """
import socket, sys
service = sys.argv[1]
v6 = ":" in service
sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
if v6:
    sock.setsockopt(socket.IPPROTO_IPV6, 23, 2)  # IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO
else:
    sock.setsockopt(socket.IPPROTO_IP, 10, 2)
frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD if v6 else 0x0800))
frames.settimeout(10)
sock.sendto((bytes(range(256)) * 6)[: 1452 if v6 else 1472], (service, 80))
while True:
    frame, where = frames.recvfrom(65536)
    is_icmp, kind = frame[20 if v6 else 23] == (58 if v6 else 1), frame[54 if v6 else 34]
    if where[2] == socket.PACKET_HOST and is_icmp and kind < 128:
        print(frame.hex())
        break
"""

# Ten datagrams that leave the client's device in one piece.
TRAIN = """
import socket, struct, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(10)
wanted = [bytes([number]) * 1000 for number in range(10)]
in_pieces = (socket.IPPROTO_UDP, 103, struct.pack("=H", 1000))  # UDP_SEGMENT
sock.sendmsg([b"".join(wanted)], [in_pieces], 0, (sys.argv[1], 80))
assert sorted(sock.recv(65536) for _ in wanted) == wanted
print("done", flush=True)
"""
FILE = """
[listeners.web]
bind = ["{service[4]}:80", "[{service[6]}]:80"]
pool = "web"
engine = "kernel"
mode = "tunnel"
encapsulation = "gue"
attach = "tcx"
devices = ["{device}"]
[pools.web]
policy = "maglev"
backends = ["{backend}:80"]
health = {{ interval = "100ms" }}
"""


@pytest.fixture(scope="module")
def decapsulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("decapsulator") / "decapsulate.o"
    headers = f"-I/usr/include/{platform.machine()}-linux-gnu"
    command = [require("clang"), "-target", "bpf", "-O2", "-g", headers, "-c", "tests/native/decapsulate.bpf.c"]
    subprocess.run([*command, "-o", str(made)], check=True)
    return made


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """The service's addresses are the backend's alone; its answers go by way of the balancer, which only forwards."""
    with three_hosts() as made:
        made.balancer.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for address, bits in ((SERVICE[4], 32), (SERVICE[6], 128)):
            made.backend.run("ip", "addr", "add", f"{address}/{bits}", "dev", "lo", "nodad")
        yield made


def device_of(host: Host, address: str) -> str:
    name: str = json.loads(host.run("ip", "-j", "addr", "show", "to", address))[0]["ifname"]
    return name


def set_mtu_of_the_backends_net(hosts: Hosts, mtu: int) -> None:
    """Answers to clients stay as large as the clients' net allows."""
    for host, address in ((hosts.balancer, BACK[4]), (hosts.backend, BACKEND[4])):
        host.run("ip", "link", "set", device_of(host, address), "mtu", str(mtu))
    for family in (4, 6):
        hosts.backend.run("ip", f"-{family}", "route", "replace", "default", "via", BACK[family], "mtu", "1500")


@contextlib.contextmanager
def tunnelled(
    hosts: Hosts, decapsulator: Path, attach: str, family: int, outside: int, gue_port: int = 0
) -> Iterator[Forked]:
    """The balancer's process, which says its verdicts for each line."""
    with contextlib.ExitStack() as stack:
        for host, code, arguments in (
            (hosts.backend, SERVER, [SERVICE[family]]),
            (hosts.backend, DECAPSULATE, [str(decapsulator)]),
            (hosts.balancer, BALANCER, [attach, FRONT[family], SERVICE[family], BACKEND[outside], str(gue_port)]),
        ):
            process = stack.enter_context(host.python(code, *arguments))
            assert said(process) == "up"
        yield process


def verdicts(balancer: Forked) -> dict[str, int]:
    print(file=balancer.stdin, flush=True)
    found: dict[str, int] = json.loads(said(balancer))
    return found


@pytest.mark.parametrize("gue_port", [0, 6080], ids=["ipip", "gue"])
@pytest.mark.parametrize("outside", [4, 6], ids=["over4", "over6"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("attach", first_and_slow("tcx", "native", "generic"))
def test_with_room_for_the_outer_headers(
    attach: str, family: int, outside: int, gue_port: int, hosts: Hosts, decapsulator: Path
) -> None:
    """TCP up to 1 MB, datagrams up to many fragments."""
    set_mtu_of_the_backends_net(hosts, 1600)
    for host in (hosts.client, hosts.backend):
        host.make_devices_cards()
    with tunnelled(hosts, decapsulator, attach, family, outside, gue_port) as balancer:
        assert hosts.client.run_python(CLIENT, SERVICE[family], "1,1000000", "5,1200,4000,30000") == "done\n"
        found = verdicts(balancer)
        assert found["FORWARDED"] > 700
        assert (found["TOO_LARGE"], found["TOO_LARGE_ANSWERED"], found["NO_ROOM"]) == (0, 0, 0)


@pytest.mark.parametrize("outside", [4, 6], ids=["over4", "over6"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("attach", first_and_slow("tcx", "native", "generic"))
def test_a_client_learns_what_fits(attach: str, family: int, outside: int, hosts: Hosts, decapsulator: Path) -> None:
    """The same MTU everywhere: what is full size does not fit, and the client is told so by ICMP."""
    for host in (hosts.client, hosts.backend):
        host.make_devices_cards()
    with tunnelled(hosts, decapsulator, attach, family, outside) as balancer:
        assert hosts.client.run_python(CLIENT, SERVICE[family], "1000000", "1400") == "done\n"
        assert verdicts(balancer)["TOO_LARGE_ANSWERED"] > 0
        way = hosts.client.run("ip", f"-{family}", "route", "get", SERVICE[family])
        assert f"mtu {1500 - (20 if outside == 4 else 40)}" in way


@pytest.mark.parametrize("gue_port", [0, 6080], ids=["ipip", "gue"])
@pytest.mark.parametrize("outside", [4, 6], ids=["over4", "over6"])
@pytest.mark.parametrize("family", [4, 6])
def test_trains_of_segments(family: int, outside: int, gue_port: int, hosts: Hosts, decapsulator: Path) -> None:
    """The client's device passes on in one piece what is to be cut later, with checksums to be finished later."""
    with tunnelled(hosts, decapsulator, "tcx", family, outside, gue_port) as balancer:
        assert hosts.client.run_python(CLIENT, SERVICE[family], "1,3000000", "5,1200") == "done\n"
        found = verdicts(balancer)
        assert found["FORWARDED"] < 3000000 / 1500  # so there were trains
        assert (found["TOO_LARGE"], found["NO_ROOM"]) == (0, 0)


@pytest.mark.parametrize("gue_port", [0, 6080], ids=["ipip", "gue"])
@pytest.mark.parametrize("family", [4, 6])
def test_trains_of_datagrams(family: int, gue_port: int, hosts: Hosts, decapsulator: Path) -> None:
    with tunnelled(hosts, decapsulator, "tcx", family, 4, gue_port) as balancer:
        assert hosts.client.run_python(TRAIN, SERVICE[family]) == "done\n"
        assert verdicts(balancer)["FORWARDED"] == 1


def finished(frame: bytes, at: int, checksum_at: int) -> bytes:
    """As it is once a network card has made the checksum that the client left to it: over all from `at` on."""
    made = checksum(frame[at:]).to_bytes(2, "big")
    return frame[: at + checksum_at] + made + frame[at + checksum_at + 2 :]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("checksums", ["made", "left"])
def test_an_error_about_a_packet_whose_checksum_was_left(
    checksums: str, family: int, hosts: Hosts, decapsulator: Path
) -> None:
    """By a client on a device that makes checksums, or says so: ICMP's is right when that one has been made."""
    if checksums == "made":
        hosts.client.make_devices_cards()
    with tunnelled(hosts, decapsulator, "tcx", family, 4):
        frame = bytes.fromhex(hosts.client.run_python(TOO_LARGE, SERVICE[family]))
        if checksums == "left":
            with pytest.raises(AssertionError, match="ICMP's checksum"):
                parse(frame)
            quoted = 14 + (20 + 8 + 20 if family == 4 else 40 + 8 + 40)
            frame = finished(frame, quoted, 6)
        assert parse(frame).source == SERVICE[family]


def test_a_listener_of_both_families(hosts: Hosts, decapsulator: Path, tmp_path: Path) -> None:
    """In the whole product: the backend is checked by its own address, of one family."""
    file = tmp_path / "lb.toml"
    device = device_of(hosts.balancer, FRONT[4])
    file.write_text(FILE.format(service=SERVICE, device=device, backend=BACKEND[4]))
    with contextlib.ExitStack() as stack:
        for code, argument in ((SERVER, "::"), (DECAPSULATE, str(decapsulator))):
            assert said(stack.enter_context(hosts.backend.python(code, argument))) == "up"
        admin = f"unix:{tmp_path}/admin.sock"
        serving = stack.enter_context(l4lb("serve", "-c", str(file), "--admin", admin, network=hosts.balancer.name))
        serving.wait_for("backend up")
        for family in (4, 6):
            assert hosts.client.run_python(CLIENT, SERVICE[family], "1,1000000", "") == "done\n"
        status = json.loads(Commands(admin).ok("status", "--json"))
        assert status["listeners"][0]["sessions_total"] == 4
