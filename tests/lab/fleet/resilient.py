"""On the router: keeps a resilient group of next hops as BIRD's routes to the service are, until it is ended.

    python -m tests.lab.fleet.resilient BIRD-SOCKET SERVICE

One whose route was withdrawn leaves the group at once, and its flows alone are spread over the others. One whose MED is
higher than another's stays with the least weight: its buckets go to others as they fall idle, so that what it has ends
in peace.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time

from tests.lab.fleet.network import BALANCERS, port_to, uplink

GROUP = "10"
_POLL_S = 0.05
_TIMERS = ("buckets", "128", "idle_timer", "1", "unbalanced_timer", "0")
_FULL, _LEAST = 255, 1


class Bird:
    """Its control socket: a line is asked, and lines with numbers answer; a space after the number ends the answer."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(5)
        self._socket.connect(path)
        self._answer()

    def ask(self, question: str) -> str:
        self._socket.sendall(f"{question}\n".encode())
        return self._answer()

    def _answer(self) -> str:
        said = b""
        while not re.search(rb"(?:^|\n)[0-9]{4} [^\n]*\n$", said):
            piece = self._socket.recv(65536)
            if not piece:
                raise ConnectionError("BIRD has closed its socket")
            said += piece
        return said.decode()


def weights(said: str) -> dict[str, int]:
    """By next hop, of what BIRD answers to `show route for ... all`."""
    found: dict[str, int] = {}
    gateway = ""
    for line in said.splitlines():
        if via := re.search(r"via ([0-9.]+) on ", line):
            gateway = via[1]
        elif med := re.search(r"(?:BGP\.med|bgp_med): ([0-9]+)", line):
            found[gateway] = int(med[1])
    lowest = min(found.values(), default=0)
    return {gateway: _FULL if med == lowest else _LEAST for gateway, med in found.items()}


def apply(service: str, wanted: dict[str, int]) -> None:
    numbers = {uplink(name): str(number) for number, name in enumerate(BALANCERS, 1)}
    for name in BALANCERS:  # the kernel forgets those of a link that was down
        if uplink(name) in wanted:
            _ip("nexthop", "replace", "id", numbers[uplink(name)], "via", uplink(name), "dev", port_to(name))
    group = "/".join(f"{numbers[gateway]},{weight}" for gateway, weight in sorted(wanted.items()))
    if not group:
        with contextlib.suppress(subprocess.CalledProcessError):  # it is not there
            _ip("route", "del", service)
        return
    _ip("nexthop", "replace", "id", GROUP, "group", group, "type", "resilient", *_TIMERS)
    _ip("route", "replace", service, "nhid", GROUP)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def main(path: str, service: str) -> None:
    bird, known = _connected(path), None
    while True:
        try:
            wanted = weights(bird.ask(f"show route for {service}/32 all"))
        except OSError:  # BIRD was started again: until it says something, what was known holds
            bird = _connected(path)
            continue
        if wanted != known:
            with contextlib.suppress(subprocess.CalledProcessError):  # a link that is down: see there the next time
                apply(service, wanted)
                print(f"{time.time():.3f} {wanted}", flush=True)
                known = wanted
        time.sleep(_POLL_S)


def _connected(path: str) -> Bird:
    while True:
        with contextlib.suppress(OSError):
            return Bird(path)
        time.sleep(_POLL_S)


if __name__ == "__main__":
    main(*sys.argv[1:3])
