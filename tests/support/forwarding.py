"""Hosts between which the kernel forwards: a client, a balancer, a backend."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from tests.support.namespaces import Host, Hosts, three_hosts
from tests.support.programs import without_preload


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
            host.make_devices_cards()
        yield made
