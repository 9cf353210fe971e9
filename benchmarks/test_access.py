"""What clients who are refused by address cost the others."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import hostile, trains
from benchmarks.comparing import Bar
from benchmarks.conftest import Compare
from benchmarks.peers import Peer, Tcp, Udp, listens, peer
from tests.support.peers import echo, serving
from tests.support.programs import free_port
from tests.support.waiting import wait_until

RATE = 50_000  # the machine may reach less: see denied/s
BARS = (Bar("p50 us", 1.05), Bar("p99 us", 1.1))
DENY = f'deny = ["{hostile.DENIED}"]'

Ask = Callable[[Peer, float], tuple[float, dict[str, float]]]


def _beside(compare: Compare, title: str, attack: hostile.Attack, ask: Ask, three: list[Peer], seconds: int) -> None:
    """The denied come to the one whose client is timed, or to another: the machine is as busy either way."""
    one, without, other = three

    def work(timed: Peer) -> tuple[float, dict[str, float]]:
        with hostile.attacker((one if timed is one else other).port, RATE, attack) as sent:
            before, began = sent.value, time.monotonic()
            answers, figures = ask(timed, seconds)
            return answers, {**figures, "denied/s": (sent.value - before) / (time.monotonic() - began)}

    seen = compare(title, BARS, [one, dataclasses.replace(without, name="without")], work)
    assert seen.total("l4lb", "failed") == 0


def test_denied_datagrams(compare: Compare, tmp_path: Path, seconds: int) -> None:
    udp, backend = Udp(listener=DENY), free_port()
    with contextlib.ExitStack() as stack:
        stack.enter_context(trains.echo_server(backend))
        assert wait_until(lambda: listens(backend, udp=True))
        three = [stack.enter_context(peer("l4lb", backend, tmp_path, udp)) for _ in range(3)]
        title = "asking by UDP among denied datagrams, against asking beside them"
        _beside(compare, title, hostile.denied_datagrams, lambda one, s: hostile.ask(one, s, b""), three, seconds)


@pytest.mark.parametrize("action", ["reset", "drop"])
def test_denied_connects(action: str, compare: Compare, tmp_path: Path, seconds: int) -> None:
    tcp = Tcp(listener=f'{DENY}\ndeny_action = "{action}"')
    with serving(echo) as server, contextlib.ExitStack() as stack:
        three = [stack.enter_context(peer("l4lb", server.port, tmp_path, tcp)) for _ in range(3)]
        title = f"asking by TCP among denied connects ({action}), against asking beside them"
        _beside(compare, title, hostile.denied_connects, hostile.ask_by_tcp, three, seconds)
