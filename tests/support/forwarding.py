"""Hosts between which the kernel forwards: a client, a balancer, a backend."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from tests.support.namespaces import Host, Hosts, three_hosts
from tests.support.programs import without_preload

# Of the clients' and backends' devices: XDP sees what local senders leave to the hardware, of which there is none here:
# checksums that are not finished. And a veth device takes frames from XDP only where it may collect them (GRO).
AS_CARDS_ARE = """
import ctypes, fcntl, socket, struct, sys
sock = socket.socket()
for command, value in ((0x17, 0), (0x2C, 1)):  # ETHTOOL_STXCSUM, ETHTOOL_SGRO
    set_to = ctypes.create_string_buffer(struct.pack("=II", command, value), 8)
    for _, name in socket.if_nameindex():
        if name != "lo":
            request = struct.pack("=16sQ16x", name.encode(), ctypes.addressof(set_to))
            fcntl.ioctl(sock, 0x8946, request)  # SIOCETHTOOL
"""


def in_host(host: Host, code: str, *arguments: str) -> str:
    done = subprocess.run(
        [*host.command, sys.executable, "-c", code, *arguments],
        env=without_preload(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def forwarding_hosts() -> Iterator[Hosts]:
    with three_hosts() as made:
        made.balancer.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for host in (made.client, made.backend):
            in_host(host, AS_CARDS_ARE)
        yield made
