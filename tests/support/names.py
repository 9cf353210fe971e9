"""Names for tests: a table in the place of the system's resolver, and a DNS server whose answers change as a test says,
for a process that runs where /etc/resolv.conf names it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from l4lb.net.resolving import Answer, NotResolved
from tests.support.programs import require


@dataclass
class Table:
    """To be given as `lookup`. A name without hosts is NXDOMAIN; look-ups of `held` names wait until it is set."""

    hosts: dict[str, list[str]] = field(default_factory=dict)
    ttl_s: float = 1.0
    held: dict[str, threading.Event] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def __call__(self, name: str) -> Answer:
        self.asked[name] += 1
        if name in self.held:
            self.held[name].wait(30)
        hosts = self.hosts.get(name)
        if not hosts:
            raise NotResolved("NXDOMAIN")
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return Answer(tuple((int(family[":" in host]), host) for host in hosts), self.ttl_s)


class DnsServer:
    """A DNS server on a loopback address of its own, port 53. `records` by name; a name that has none is NXDOMAIN; one
    in `rcodes` is answered so, one in `silent` not at all."""

    def __init__(self) -> None:
        self.host = f"127.77.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
        self.records: dict[str, list[str]] = {}
        self.rcodes: dict[str, dns.rcode.Rcode] = {}
        self.silent: set[str] = set()
        self.ttl_s = 1
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._sock.bind((self.host, 53))
        except OSError as error:
            self._sock.close()
            pytest.skip(f"port 53 of a loopback address cannot be had: {error.strerror}")
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, client = self._sock.recvfrom(4096)
            if data == b"stop":
                return
            with contextlib.suppress(dns.exception.DNSException):
                question = dns.message.from_wire(data)
                if (answer := self._answer(question)) is not None:
                    self._sock.sendto(answer.to_wire(), client)

    def _answer(self, question: dns.message.Message) -> dns.message.Message | None:
        asked = question.question[0]
        name = asked.name.to_text(omit_final_dot=True).lower()
        if name in self.silent:
            return None
        answer = dns.message.make_response(question)
        answer.flags |= dns.flags.AA | dns.flags.RA
        if name in self.rcodes:
            answer.set_rcode(self.rcodes[name])
        elif name not in self.records:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            kind = dns.rdatatype.to_text(asked.rdtype)
            wanted = [one for one in self.records[name] if (":" in one) is (kind == "AAAA")]
            if wanted and kind in ("A", "AAAA"):
                answer.answer.append(dns.rrset.from_text(asked.name, self.ttl_s, "IN", kind, *wanted))
        return answer

    def stop(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"stop", (self.host, 53))
        self._thread.join()
        self._sock.close()


@contextlib.contextmanager
def dns_answering() -> Iterator[DnsServer]:
    if os.geteuid() != 0:
        pytest.skip("port 53 and mount namespaces are root's alone")
    server = DnsServer()
    try:
        yield server
    finally:
        server.stop()


def resolving_by(host: str, directory: Path, hosts: str = "") -> list[str]:
    """A command that starts another where names are looked up at `host`, and in a /etc/hosts that says `hosts`."""
    (directory / "resolv.conf").write_text(f"nameserver {host}\noptions timeout:1 attempts:1\n")
    (directory / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
    shell = f"""
        set -e
        mount --bind '{directory}/resolv.conf' /etc/resolv.conf
        mount --bind '{directory}/hosts' /etc/hosts
        exec "$@"
    """
    return [require("unshare"), "--mount", "--propagation", "private", "sh", "-c", shell, "sh"]
