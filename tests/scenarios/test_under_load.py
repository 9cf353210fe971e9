"""Reloads, upgrades and the end of the process while clients come all the time: none of them notices."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from l4lb import Client
from tests.scenarios.test_upgrade import end, gone, upgraded
from tests.support.load import echo_servers, load
from tests.support.peers import refused
from tests.support.programs import L4lb, free_port, free_ports, l4lb, require
from tests.support.waiting import wait_until

LONG_FORM = os.environ.get("L4LB_SOAK") == "1"
RATE, LONG = (2000, 200) if LONG_FORM else (600, 40)  # sessions a second, and those that stay
RELOADS, UPGRADES = (20, 3) if LONG_FORM else (6, 1)
BETWEEN = 2000 if LONG_FORM else 100  # sessions from one change to the next

FILE = """
[global]
workers = {workers}
drain_timeout = "{drain}"
[admin]
bind = "{admin}"
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "web"
max_sessions = {max_sessions}
idle_timeout = "{idle}m"
session_rate = "{session_rate}"
{more}
[pools.web]
policy = "{policy}"
backends = [{backends}]
[pools.web.health]
interval = "500ms"
"""
POLICIES = ["round_robin", "least_sessions", "maglev", "p2c"]


def write(file: Path, port: int, backends: list[str], number: int = 0, *, drain: str = "60s") -> None:
    """The configuration as of change `number`: backends come, go and weigh something else, a listener comes or goes,
    limits change that none of the clients reaches."""
    chosen = random.Random(number)
    named = backends[:1] + [one for one in backends[1:] if chosen.random() < 0.6]
    listed = ", ".join(f'{{ address = "{one}", weight = {chosen.randint(1, 9)} }}' for one in named)
    more = f'[listeners.more]\nbind = "127.0.0.1:{port + 1}"\npool = "web"' if number % 2 else ""
    temporary = file.with_suffix(".new")
    temporary.write_text(
        FILE.format(
            workers=1 + number % 3,
            drain=drain,
            admin=f"unix:{file.parent}/admin.sock",
            port=port,
            max_sessions=20_000 + number,
            idle=5 + number,
            session_rate=f"{50_000 + number}/s",
            more=more,
            policy=POLICIES[number % len(POLICIES)],
            backends=listed,
        )
    )
    temporary.rename(file)


def reloaded(process: L4lb, pid: int) -> None:
    before = process.log.count("info    reloaded")
    os.kill(pid, signal.SIGHUP)
    assert wait_until(lambda: process.log.count("info    reloaded") > before, 30), process.log
    assert "reload failed" not in process.log


def test_reloads_and_upgrades_refuse_reset_and_mix_up_nothing(tmp_path: Path) -> None:
    file, port, admin = tmp_path / "lb.toml", free_ports(2), f"unix:{tmp_path}/admin.sock"
    with echo_servers(8) as backends, contextlib.ExitStack() as stack:
        write(file, port, backends)
        process = stack.enter_context(l4lb("serve", "-c", str(file), "--admin", admin))
        process.wait_for("backend up")
        pid = process.process.pid
        running = stack.enter_context(load(f"127.0.0.1:{port}", RATE, LONG))
        others = stack.enter_context(load(f"127.0.0.1:{port + 1}", RATE / 10, 0, processes=1))
        upgrades = set(range(RELOADS // (UPGRADES + 1), RELOADS, RELOADS // (UPGRADES + 1))[:UPGRADES])
        assert len(upgrades) == UPGRADES
        for number in range(1, RELOADS + 1):
            write(file, port, backends, number)
            reloaded(process, pid)
            running.wait_for_more(BETWEEN)
            if number in upgrades:
                pid = upgraded(process, pid, admin)
                stack.callback(end, pid)
                running.wait_for_more(BETWEEN)
        ended = running.finish()
        of_others = others.finish()
        assert set(of_others) == {"short ok", "refused"}, of_others
        assert set(ended) == {"short ok", "long ok"}, ended
        assert ended["long ok"] == running.long
        assert process.wait(30) == 0
        with Client(admin) as client:
            closed = Counter(client.status()["listeners"][0]["closed"])
        assert set(closed) == {"normal"}, closed
        os.kill(pid, signal.SIGTERM)
        assert wait_until(lambda: gone(pid), 20)


class Asker:
    """Asks again and again whether the process calls itself ready, and once more whenever it refuses a client."""

    def __init__(self, port: int, admin: str) -> None:
        self.ready: list[int] = []
        self.ready_after_refusal: list[int] = []
        self._stop = threading.Event()
        self._where = port, admin
        self._threads = [threading.Thread(target=one) for one in (self._ask, self._connect)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._stop.wait(0.005):
            self.ready.append(_status_of(self._where[1], "/readyz"))

    def _connect(self) -> None:
        while not self._stop.wait(0.005):
            if refused(("127.0.0.1", self._where[0])):
                self.ready_after_refusal.append(_status_of(self._where[1], "/readyz"))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def _status_of(admin: str, path: str) -> int:
    """0: nobody answers."""
    try:
        connection = http.client.HTTPConnection(admin, timeout=10)
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@pytest.mark.parametrize("capable", [True, False])
def test_sigterm_refuses_cleanly_and_lets_sessions_finish(capable: bool, tmp_path: Path) -> None:
    """Without CAP_NET_ADMIN some kernels let one client in for each listening socket, here one, that is reset then."""
    within = [] if capable else [require("setpriv"), "--bounding-set=-all", "--inh-caps=-all"]
    file, port, admin = tmp_path / "lb.toml", free_ports(2), f"127.0.0.1:{free_port()}"
    with echo_servers(3) as backends, contextlib.ExitStack() as stack:
        write(file, port, backends)
        process = stack.enter_context(l4lb("serve", "-c", str(file), "--admin", admin, within=within))
        process.wait_for("backend up")
        running = stack.enter_context(load(f"127.0.0.1:{port}", RATE, LONG))
        running.wait_for_more()
        asker = Asker(port, admin)
        try:
            assert wait_until(lambda: asker.ready)
            process.signal(signal.SIGTERM)
            process.wait_for("draining sessions=")
            assert wait_until(lambda: running.counts["refused"] > 20 and asker.ready_after_refusal, 30), running.counts
            assert process.process.poll() is None, "the long sessions go on"
            ended = running.finish()
            assert process.wait(30) == 0
            assert "drained sessions_left=0" in process.log
        finally:
            asker.stop()
    reset = sum(ended.pop(how) for how in list(ended) if "reset" in how.lower())
    assert reset <= (0 if capable else 1), ended
    assert set(ended) == {"short ok", "refused", "long ok"}, ended
    assert ended["long ok"] == running.long
    assert set(asker.ready) <= {200, 503, 0}
    assert asker.ready_after_refusal[0] == 503
    assert 200 not in asker.ready_after_refusal, "whoever is refused could have known"
