"""Many slow clients of a few sources, on a listener that limits sources: they have their places, all others go on as if
they were not there. The long form, with 10,000 of them and the time that others wait, runs with L4LB_SOAK=1."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb import Client
from l4lb.net.limits import raise_file_limit
from tests.support.load import echo_servers
from tests.support.programs import L4lb, l4lb
from tests.support.slow_clients import Crowd, asking, dribbling
from tests.support.waiting import wait_until

SOAK = bool(os.environ.get("L4LB_SOAK"))
PLACES = 500  # of a source
SLOW, FEW = (10_000, 8) if SOAK else (2000, 3)
SLOW_SOURCES = [f"127.0.1.{number}" for number in range(1, FEW + 1)]
OTHER_SOURCES = [f"127.0.2.{number}" for number in range(1, 101)]
RATE = 200
ROUNDS, REQUESTS = 4, 1500

FILE = """
[global]
workers = 2
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
per_source = {{ sessions = {places} }}
[pools.web]
backends = [{backends}]
health = {{ type = "none" }}
"""


@contextlib.contextmanager
def limiting(directory: Path) -> Iterator[tuple[L4lb, Client, str]]:
    if raise_file_limit() < 2 * PLACES * FEW + 1000:
        pytest.skip(f"RLIMIT_NOFILE allows {raise_file_limit()} files only")
    admin = f"unix:{directory}/admin.sock"
    with echo_servers(2) as backends:
        listed = ", ".join(f'"{one}"' for one in backends)
        (directory / "lb.toml").write_text(FILE.format(places=PLACES, backends=listed))
        with l4lb("serve", "-c", str(directory / "lb.toml"), "--admin", admin) as process, Client(admin) as client:
            yield process, client, "{}:{}".format(*process.address("web"))


def sessions_of(client: Client) -> dict[str, int]:
    """Of the slow sources that have any."""
    held = {one["source"]: one["sessions_active"] for one in client.sources(limit=200) if one["source"] in SLOW_SOURCES}
    assert all(count <= PLACES for count in held.values()), held
    return held


def has_settled(client: Client, slow: Crowd) -> bool:
    """Every place is taken, and who has none has been refused."""
    full = sessions_of(client) == dict.fromkeys(SLOW_SOURCES, PLACES)
    counts = slow.counts
    return full and counts["in"] == FEW * PLACES and counts["refused"] >= SLOW - FEW * PLACES


def test_slow_clients_have_their_places_and_all_others_are_answered(tmp_path: Path) -> None:
    with limiting(tmp_path) as (_, client, address), asking(address, RATE, OTHER_SOURCES) as others:
        with dribbling(address, SLOW, SLOW_SOURCES) as slow:
            assert wait_until(lambda: has_settled(client, slow), 120), (sessions_of(client), slow.counts)
            before = others.counts["ok"]
            assert wait_until(lambda: sessions_of(client) and others.counts["ok"] >= before + 3 * RATE)
            assert slow.counts["in"] == FEW * PLACES, slow.counts
            assert set(slow.counts) <= {"in", "refused"}, slow.counts
            status = client.listeners["web"].status
            assert set(status["closed"]) == {"normal", "resource_limit"}, status
            assert set(status["source_limited"]) == {"sessions"}
            assert status["closed"]["resource_limit"] >= SLOW - FEW * PLACES
            limited = {one["source"]: one["limited"] for one in client.sources(limit=200) if one["limited"]}
            assert set(limited) == set(SLOW_SOURCES)
        assert wait_until(lambda: not any(sessions_of(client).values()), 60), "their places are free again"
        assert set(others.finish()["counts"]) == {"ok"}


def percentile(took: list[float], of_hundred: float) -> float:
    return sorted(took)[int(len(took) * of_hundred / 100)]


@pytest.mark.alone
@pytest.mark.skipif(not SOAK, reason="measures for minutes: with L4LB_SOAK=1")
def test_others_wait_about_as_long_as_without_them(tmp_path: Path) -> None:
    """Calm and attacked by turns, so that whatever else the machine does is in both."""
    took: dict[str, list[float]] = {"calm": [], "attacked": []}

    def measure(address: str, when: str) -> None:
        with asking(address, RATE, OTHER_SOURCES) as others:
            assert wait_until(lambda: others.counts["ok"] >= REQUESTS, 120), others.counts
            said = others.finish()
        assert set(said["counts"]) == {"ok"}
        took[when] += said["took"]

    with limiting(tmp_path) as (_, client, address):
        for _ in range(ROUNDS):
            measure(address, "calm")
            with dribbling(address, SLOW, SLOW_SOURCES, processes=4) as slow:
                assert wait_until(lambda: has_settled(client, slow), 120), (sessions_of(client), slow.counts)
                refused = slow.counts["refused"]
                measure(address, "attacked")
                assert slow.counts["refused"] >= refused + SLOW // 10, "they come again all the time"
                assert slow.counts["in"] == FEW * PLACES
                assert "lost" not in slow.counts
            assert wait_until(lambda: not any(sessions_of(client).values()), 60)
    calm, attacked = (percentile(took[when], 99) for when in ("calm", "attacked"))
    assert attacked <= 2 * calm + 0.005, (calm, attacked)
