"""Hosts between which the kernel forwards: a client, a balancer, a backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.support.forking import Forked
from tests.support.namespaces import Hosts, three_hosts


def said(process: Forked) -> str:
    """Its next line."""
    return process.stdout.readline().strip()


@contextlib.contextmanager
def forwarding_hosts() -> Iterator[Hosts]:
    with three_hosts() as made:
        made.balancer.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for host in (made.client, made.backend):
            host.make_devices_cards()
        yield made
