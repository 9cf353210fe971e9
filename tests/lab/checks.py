"""What `make lab ARGS=--check` asks of a lab, with the programs that users have: curl, dig, connections that stay.

Each check is a function of a lab that raises AssertionError with what it found.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from l4lb import Client
from tests.lab import servers
from tests.lab.labs import BACKENDS, Lab
from tests.support.waiting import wait_until

_REQUESTS = 30  # that all of three backends get one of them: all but certain, once in 60,000
_DATAGRAM_BYTES = 4000
_SETTLED_S = 30.0


def answers(lab: Lab, count: int = _REQUESTS) -> Counter[str]:
    """Of that many requests, each in a connection of its own, by what answered."""
    said = curl(lab, *[f"{lab.url}/#{number}" for number in range(count)], "-H", "Connection: close")
    lines = said.splitlines()
    assert len(lines) == count, said
    return Counter(lines)


def curl(lab: Lab, *arguments: str) -> str:
    return lab.client.run("curl", "-sS", "-m", "10", *arguments)


def dig(lab: Lab, name: str, *arguments: str) -> str:
    """An answer over UDP, or an AssertionError with what dig said."""
    options = ("+short", "+tries=3", "+timeout=2", "+ignore", f"-{lab.cell.family}")
    return lab.client.run("dig", *options, *arguments, "TXT", name, f"@{lab.service}")


class Visitor:
    """A client whose connection stays. OSError when it gets no answer."""

    def __init__(self, lab: Lab) -> None:
        self._socket = lab.client.connect(lab.service, 80)
        try:
            self.backend = self.ask()
        except OSError:
            self.close()
            raise

    def ask(self) -> str:
        """Who answers. OSError when the connection is lost."""
        self._socket.sendall(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
        said = b""
        while not re.search(rb"\r\n\r\n.*\n", said, re.DOTALL):
            piece = self._socket.recv(4096)
            if not piece:
                raise ConnectionResetError("closed by the other side")
            said += piece
        return said.rpartition(b"\r\n\r\n")[2].decode().strip()

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def visitors(lab: Lab, wanted: Iterable[str]) -> Iterator[list[Visitor]]:
    """At least one whose answers contain each of `wanted`."""
    with contextlib.ExitStack() as stack:
        made: list[Visitor] = []
        while not all(any(one in visitor.backend for visitor in made) for one in wanted):
            assert len(made) < 100, f"none of 100 connections went to one of {', '.join(wanted)}"
            made.append(Visitor(lab))
            stack.callback(made[-1].close)
        yield made


def requests(lab: Lab) -> None:
    """All backends answer, and see the address that the mode says."""
    found = answers(lab)
    assert set(found) == {f"{one}, for {lab.seen_client}" for one in BACKENDS}, found


def megabyte(lab: Lab) -> None:
    """A file of 1 MiB in either direction arrives whole."""
    got = lab.directory / "got"
    curl(lab, "-o", str(got), f"{lab.url}/big")
    assert hashlib.sha256(got.read_bytes()).digest() == hashlib.sha256(servers.BIG).digest()
    assert curl(lab, "--data-binary", f"@{got}", f"{lab.url}/upload").strip() == str(len(servers.BIG))


def datagrams(lab: Lab) -> None:
    """Each query is a flow of its own."""
    found = {dig(lab, "who.lab").strip().strip('"') for _ in range(_REQUESTS)}
    assert found == set(BACKENDS), found


def fragments(lab: Lab) -> None:
    """Datagrams of several packets each, from the backend and to it. Single ones may be lost, as datagrams may be."""
    said = dig(lab, "long.lab", "+bufsize=4096")
    assert said.count("x") == servers.LONG_ANSWER, said[:100]
    sent = ("--udp", "--length", str(_DATAGRAM_BYTES), "--bytes", str(_DATAGRAM_BYTES * 100), "--bitrate", "20M")
    found = json.loads(lab.client.run("iperf3", "--json", "--client", lab.service, *sent))["end"]["sum"]
    assert found["packets"] - found["lost_packets"] >= 50, found


def drain(lab: Lab) -> None:
    """What a backend has goes on, and new clients go to others."""
    with visitors(lab, BACKENDS) as known, Client(lab.admin["balancer"]) as balancer:
        balancer.pools["web"]["backend-1"].drain()
        assert not any("backend-1" in one for one in answers(lab)), "a new client of a backend that drains"
        assert [one.ask() for one in known] == [one.backend for one in known]
        balancer.pools["web"]["backend-1"].ready()
    assert wait_until(lambda: any("backend-1" in one for one in answers(lab)), _SETTLED_S)


def kill(lab: Lab) -> None:
    """A backend dies: what others have goes on, and once it was found, every new client is served."""
    with visitors(lab, BACKENDS) as known:
        lab.processes.kill("backend-2-nginx")
        assert wait_until(lambda: lab.up("web") == {"backend-1", "backend-3"}, _SETTLED_S)
        assert not any("backend-2" in one for one in answers(lab))
        others = [one for one in known if "backend-2" not in one.backend]
        assert [one.ask() for one in others] == [one.backend for one in others]


Check = Callable[[Lab], None]
ONE_TIER: dict[str, Check] = {
    "requests": requests,
    "1 MiB": megabyte,
    "datagrams": datagrams,
    "fragments": fragments,
    "drain": drain,
    "kill": kill,
}
