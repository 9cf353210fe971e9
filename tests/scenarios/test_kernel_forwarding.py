"""Forwarding in the kernel between hosts: real clients and servers, each way to attach, both families."""

from __future__ import annotations

import contextlib
import json

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from tests.support.forwarding import said
from tests.support.namespaces import BACKEND, FRONT, Hosts

SERVER = """
import socket, sys, threading
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
def serve(sock):
    with sock:
        wanted = int(sock.makefile("rb").readline())
        sock.sendall(bytes(range(256)) * (wanted // 256))
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)
listening = socket.create_server((sys.argv[1], 8080), family=family)
datagrams = socket.socket(family, socket.SOCK_DGRAM)
datagrams.bind((sys.argv[1], 8080))
def answer():
    while True:
        data, peer = datagrams.recvfrom(65536)
        datagrams.sendto(data, peer)
threading.Thread(target=answer, daemon=True).start()
print("up", flush=True)
while True:
    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()
"""
BALANCER = """
import json, socket, sys
from l4lb.engine.kernel.attaching import images
from l4lb.engine.kernel.forwarding import KernelForwarder
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import BackendSpec, HashKey, KernelTerms, ListenerSpec, PoolSpec, Selection, Snapshot
from l4lb.model.states import Protocol
attach, front, backend = sys.argv[1:]
family = socket.AF_INET6 if ":" in front else socket.AF_INET
forwarder = KernelForwarder(images(), slots=1 << 12, flows=1 << 12)
listeners, pools = [], []
for protocol in Protocol:
    backends = (BackendSpec("b", SocketAddress(family, backend, 8080)),)
    pools.append(PoolSpec(str(protocol), Selection.HASH, backends, (0,), [0] * 251))
    bind = (SocketAddress(family, front, 80),)
    listeners.append(ListenerSpec(str(protocol), bind, str(protocol), protocol, kernel=KernelTerms("nat", attach)))
forwarder.prepare(listeners)
forwarder.publish(Snapshot(1, tuple(pools), tuple(listeners)))
print(json.dumps([(one.device, one.way, one.why) for one in forwarder.attached]), flush=True)
for line in sys.stdin:
    found = {name: forwarder.listener(name)._asdict() for name in forwarder.names()}
    print(json.dumps({"counts": found, "verdicts": forwarder.verdicts()}), flush=True)
forwarder.close()
"""
CLIENT = """
import socket, sys
front = sys.argv[1]
family = socket.AF_INET6 if ":" in front else socket.AF_INET
for wanted in (256, 1 << 20, 256):
    with socket.create_connection((front, 80), timeout=10) as sock:
        sock.sendall(b"%d\\n" % wanted)
        got = b""
        while piece := sock.recv(1 << 16):
            got += piece
        assert got == bytes(range(256)) * (wanted // 256), len(got)
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.settimeout(10)
for size in (5, 1200, 4000, 30000):
    sock.sendto(bytes(size), (front, 80))
    assert sock.recv(65536) == bytes(size)
print("done", flush=True)
"""


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("attach", ["tcx", "native", "generic", "auto"])
def test_nat(attach: str, family: int, hosts: Hosts) -> None:
    """TCP up to 1 MB, datagrams up to many fragments; the backend sees the client's address."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(hosts.backend.python(SERVER, BACKEND[family]))
        assert said(server) == "up"
        balancer = stack.enter_context(hosts.balancer.python(BALANCER, attach, FRONT[family], BACKEND[family]))
        attached = json.loads(said(balancer))
        assert len(attached) == 2
        assert {way for _, way, _ in attached} == {"tcx" if attach == "auto" else attach}, attached
        assert hosts.client.run_python(CLIENT, FRONT[family]) == "done\n"
        print(file=balancer.stdin, flush=True)
        found = json.loads(said(balancer))
        assert found["counts"]["tcp"]["flows"] == 3
        assert found["counts"]["udp"]["packets_up"] == 1 + 1 + 3 + 21  # datagrams, and fragments of the larger ones
        assert found["verdicts"]["2"] > 0
