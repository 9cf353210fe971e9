"""What a hook costs a session, where 5,000 come a second: at most half of what the session costs without one. Where few
come, each wakes a thread and costs more."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchmarks.comparing import Bar
from benchmarks.conftest import Compare
from benchmarks.load import paced
from benchmarks.peers import Tcp, peer
from tests.support.programs import nginx

COST = 1.5  # of a session with a hook, of one without
HOOK = Tcp(pool='[hooks]\nmodule = "benchmarks.trivial_hook"\ndeadline = "1s"')
RATE, RATE_KEPT = 5_000, 0.99


def test_trivial_hook(compare: Compare, tmp_path: Path, seconds: int) -> None:
    with nginx("hello") as backend:
        with (
            peer("l4lb", backend.port, tmp_path, service=HOOK) as hooked,
            peer("l4lb", backend.port, tmp_path) as plain,
        ):
            running = [hooked, dataclasses.replace(plain, name="without")]
            title = f"one-request sessions with a trivial hook, {RATE:,} a second"
            bars = (Bar("CPU us", COST), Bar("rate kept", RATE_KEPT, higher_is_better=True))
            seen = compare(title, bars, running, lambda one: paced(one, "close", 200, RATE, seconds))
    assert seen.total("l4lb", "failed") == 0
