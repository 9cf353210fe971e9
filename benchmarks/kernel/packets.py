"""Forwarders and what sends them packets at the rate that one CPU handles: for each a pair of hosts with one link.

    sender 10.85.0.1/16 --- wire --- 10.85.255.1 forwarder, the service 10.85.254.1:80, UDP

What comes in for the service goes out by the same link to 10.85.200.1, the sender again, where a sink takes it. All
that happens on one CPU (generate.c).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compiled import compiled
from benchmarks.kernel.hosts import host_made, link
from tests.support.namespaces import Host
from tests.support.programs import l4lb, run

DROP, ROUTED, NFTABLES = "drop", "routed", "nftables"
DEVICE, SENDER, FORWARDER = "wire", "10.85.0.1", "10.85.255.1"
SERVICE, BACKEND, PORT = "10.85.254.1", "10.85.200.1", 80
TRIES = 5
FORWARDS = ("net.ipv4.conf.all.send_redirects=0", f"net.ipv4.conf.{DEVICE}.send_redirects=0")
# A veth device takes frames from XDP only where it may collect them, or has a program of XDP's itself.
COLLECT = """
import ctypes, fcntl, socket, struct, sys
value = ctypes.create_string_buffer(struct.pack("=II", 0x2C, 1), 8)  # ETHTOOL_SGRO
request = struct.pack("=16sQ16x", sys.argv[1].encode(), ctypes.addressof(value))
fcntl.ioctl(socket.socket(), 0x8946, request)  # SIOCETHTOOL
"""
L4LB = """[listeners.queries]
bind = "{service}:{port}"
protocol = "udp"
pool = "queries"
engine = "kernel"
mode = "{mode}"
attach = "{attach}"

[pools.queries]
policy = "maglev"
hash_key = "source_ip_port"
backends = ["{backend}:{port}"]
"""
RULES = """table ip lb {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip daddr {service} udp dport {port} dnat to {backend}
  }}
}}
"""


@dataclass(frozen=True)
class Forwarder:
    """`name`: drop, routed, nftables, or how l4lb is attached and its mode, as in "native dsr"."""

    name: str
    sender: Host
    host: Host
    link_address: str

    @property
    def asked(self) -> str:
        return BACKEND if self.name == ROUTED else SERVICE


def _link_address(host: Host) -> str:
    return str(json.loads(host.run("ip", "-j", "link", "show", DEVICE))[0]["address"])


def _hosts(stack: contextlib.ExitStack, number: int) -> tuple[Host, Host]:
    sender, forwarder = host_made(stack, f"sender{number}"), host_made(stack, f"forwarder{number}")
    link(sender, forwarder, DEVICE, (SENDER, FORWARDER), bits=16)
    forwarder.run("sysctl", "-qw", *FORWARDS)
    forwarder.run("ip", "addr", "add", f"{SERVICE}/32", "dev", DEVICE)
    forwarder.run("ip", "neigh", "add", BACKEND, "lladdr", _link_address(sender), "dev", DEVICE)
    run(*forwarder.command, sys.executable, "-c", COLLECT, DEVICE)
    return sender, forwarder


@contextlib.contextmanager
def _sink(host: Host) -> Iterator[None]:
    command = [*host.command, compiled("kernel/generate", "bpf"), "sink", DEVICE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield
        process.communicate()


@contextlib.contextmanager
def _forwarding(name: str, host: Host, directory: Path) -> Iterator[None]:
    place = {"service": SERVICE, "backend": BACKEND, "port": PORT}
    file = directory / f"packets-{name.replace(' ', '-')}"
    if name == DROP:
        with _sink(host):
            yield
    elif name == ROUTED:
        yield
    elif name == NFTABLES:
        file.write_text(RULES.format(**place))
        host.run("nft", "-f", str(file))
        yield
    else:
        attach, mode = name.split()
        file.write_text(L4LB.format(**place, attach=attach, mode=mode))
        with l4lb("serve", "-c", str(file), "--admin", "off", within=host.command) as process:
            process.wait_for("listening listener=queries")
            yield


@contextlib.contextmanager
def forwarders(names: tuple[str, ...], directory: Path) -> Iterator[list[Forwarder]]:
    with contextlib.ExitStack() as stack:
        found = []
        for number, name in enumerate(names):
            sender, host = _hosts(stack, number)
            stack.enter_context(_forwarding(name, host, directory))
            found.append(Forwarder(name, sender, host, _link_address(host)))
        yield found


@dataclass(frozen=True)
class Sent:
    """CPU time of one packet, and which share of them came back."""

    ns: float
    returned: float


def _softirq_thread(cpu: int) -> str:
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):  # others may end meanwhile
            if path.read_text() == f"ksoftirqd/{cpu}\n":
                return path.parent.name
    raise AssertionError(f"no softirq thread of CPU {cpu}")


def send(to: Forwarder, flows: int, count: int) -> Sent:
    """`count` datagrams of so many clients in turn, each of whom it knows already. Sent once more when some are lost: a
    queue overflows when the forwarder has to wait for the CPU, and what is lost costs less."""
    for _ in range(TRIES):
        sent = _send(to, flows, count)
        if to.name == DROP or sent.returned > 0.99:
            return sent
    raise AssertionError(f"{to.name}: packets do not come back: {sent}")


def _send(to: Forwarder, flows: int, count: int) -> Sent:
    cpu = max(os.sched_getaffinity(0))
    command = [*to.sender.command, "taskset", "-c", str(cpu), compiled("kernel/generate", "bpf"), "packets", DEVICE]
    command += [to.link_address, to.asked, str(PORT), str(flows), str(count), _softirq_thread(cpu)]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert done["sent"] == count, done
    return Sent(done["ns"] / count, done["returned"] / count)
