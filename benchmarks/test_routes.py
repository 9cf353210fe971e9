"""What lists, limits and routes of a listener cost each of its sessions, beside a listener without them."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest

from benchmarks.comparing import OWN, Bar
from benchmarks.conftest import Compare
from benchmarks.load import paced
from benchmarks.peers import Peer, Tcp, peer
from tests.support import hellos
from tests.support.programs import nginx

RATE = 5_000
ROUTES = """
[[listeners.web.routes]]
sni = ["api.example.com", "*.shop.example.com"]
pool = "web"
[[listeners.web.routes]]
starts_with = "SSH-"
pool = "web"
"""
KINDS = {
    "an SNI route": (ROUTES, 1.10),
    "100,000 CIDRs": ('deny = "file:{directory}/denied"', 1.02),
    "limits by source": ('per_source = {{ sessions = 100000, session_rate = "1000000/s" }}', 1.05),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_session_with(kind: str, compare: Compare, tmp_path: Path, seconds: int) -> None:
    hello, (lines, limit) = tmp_path / "hello", KINDS[kind]
    hello.write_bytes(hellos.real("a.shop.example.com"))
    (tmp_path / "denied").write_text("".join(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}\n" for n in range(0, 200_000, 2)))
    with nginx("one") as server, contextlib.ExitStack() as stack:
        services = (Tcp(listener=lines.format(directory=tmp_path)), Tcp())
        one, without = (stack.enter_context(peer("l4lb", server.port, tmp_path, service)) for service in services)
        bars = (Bar(OWN, limit), Bar("p99 us", 1.1))

        def work(timed: Peer) -> tuple[float, dict[str, float]]:
            return paced(timed, "file", 200, RATE, seconds, hello)

        seen = compare(f"a session with {kind}", bars, [one, dataclasses.replace(without, name="without")], work)
        assert seen.total("l4lb", "failed") == 0
