"""What is done to the process and its backends during the soak: one thing every few seconds, drawn at random."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from l4lb import Client
from l4lb.errors import AdminError
from tests.soak.judge import Judge
from tests.soak.world import SHAKY, STABLE, World
from tests.support.programs import L4lb, without_preload
from tests.support.waiting import wait_until

UPGRADE_EVERY_S = 45.0


class Trouble:
    def __init__(self, world: World, process: L4lb, judge: Judge, draw: random.Random) -> None:
        self._world = world
        self._process = process
        self._judge = judge
        self._draw = draw
        self._floods: list[subprocess.Popen[bytes]] = []
        self.pid = process.process.pid
        self.pids = [self.pid]
        self._upgrade_at = time.monotonic() + UPGRADE_EVERY_S
        self._kinds: list[tuple[int, Callable[[], None]]] = [
            (4, self._kill),
            (4, self._stop),
            (2, self._reset),
            (5, self._reload),
            (2, self._drain_backend),
            (3, self._kill_sessions),
            (1, self._flood),
            (1, self._idle_clients),
            (2, self._resetting_clients),
            (1, self._drain_listener),
            (2, self._pause),
        ]

    def once(self) -> None:
        """The next thing."""
        self._floods = [flood for flood in self._floods if flood.poll() is None]
        if time.monotonic() > self._upgrade_at:
            self._upgrade_at = time.monotonic() + UPGRADE_EVERY_S
            self.upgrade()
            return
        weights = [weight for weight, _ in self._kinds]
        self._draw.choices([kind for _, kind in self._kinds], weights)[0]()

    def all_once(self) -> None:
        """One of each kind, in any order, and an upgrade."""
        for kind in self._draw.sample([*(kind for _, kind in self._kinds), self.upgrade], len(self._kinds) + 1):
            kind()
            time.sleep(self._draw.uniform(0.2, 0.8))

    # ---- backends ----

    def _kill(self) -> None:
        server = self._world.servers[self._draw.choice(SHAKY)]
        self._judge.event(f"kill server {server.number}")
        server.kill()
        time.sleep(self._draw.uniform(0, 1.5))
        server.start()
        server.wait()
        self._judge.event(f"restart server {server.number}")

    def _stop(self) -> None:
        server = self._world.servers[self._draw.choice(SHAKY)]
        self._judge.event(f"stop server {server.number}")
        server.signal(signal.SIGSTOP)
        time.sleep(self._draw.choice((0.02, 0.3, 1.0, 2.5)))
        server.signal(signal.SIGCONT)
        self._judge.event(f"continue server {server.number}")

    def _reset(self) -> None:
        server = self._world.servers[self._draw.choice(SHAKY)]
        self._judge.event(f"resets by server {server.number}")
        server.signal(signal.SIGUSR1)

    # ---- the process ----

    def _reload(self) -> None:
        self._world.number += 1
        self._world.write()
        before = self._process.log.count("info    reloaded")
        self._judge.event(f"reload {self._world.number}")
        os.kill(self.pid, signal.SIGHUP)
        if not wait_until(lambda: self._process.log.count("info    reloaded") > before, 30):
            self._judge.violation("reload", "not done within 30 s")
        self._judge.event(f"reloaded {self._world.number}")

    def _pause(self) -> None:
        """The process itself stands still, as on a host that is busy: much is there at once when it goes on."""
        self._judge.event("pause of the process")
        os.kill(self.pid, signal.SIGSTOP)
        time.sleep(self._draw.choice((0.02, 0.1, 0.4)))
        os.kill(self.pid, signal.SIGCONT)

    def upgrade(self) -> None:
        old = self.pid
        self._judge.event(f"upgrade of {old}")
        os.kill(old, signal.SIGUSR2)

        def taken_over() -> bool:
            with contextlib.suppress(AdminError), Client(self._world.admin) as client:
                self.pid = int(client.status()["pid"])
            return self.pid != old

        if not wait_until(taken_over, 30):
            self._judge.violation("upgrade", "no new process within 30 s")
            return
        self.pids.append(self.pid)
        wait_until(lambda: f"upgraded pid={self.pid}" in self._process.log, 20)
        self._judge.event(f"upgraded to {self.pid}")

    def _drain_backend(self) -> None:
        """Its sessions go on, and new ones go elsewhere."""
        server = self._world.servers[self._draw.choice(STABLE)]
        with self._asking() as client:
            backend = client.pools["web"][f"127.0.0.1:{server.tcp}"]
            self._judge.event(f"drain server {server.number}")
            backend.drain()
            time.sleep(self._draw.uniform(0.5, 2))
            backend.ready()
            self._judge.event(f"ready server {server.number}")

    def _kill_sessions(self) -> None:
        with self._asking() as client:
            found = client.sessions(listener="victims", limit=100)
            self._judge.event(f"end {len(found)} sessions of victims")
            for one in found[: self._draw.randint(1, 4)]:
                with contextlib.suppress(AdminError):  # it has ended meanwhile
                    client.kill_session(one["id"])

    def _drain_listener(self) -> None:
        """Of one that comes and goes anyway."""
        with self._asking() as client:
            self._judge.event("drain listener moving")
            listener = client.listeners["moving"]
            listener.drain(timeout=60.0)
            time.sleep(0.5)
            listener.resume()
            self._judge.event("resume listener moving")

    @contextlib.contextmanager
    def _asking(self):  # type: ignore[no-untyped-def]
        with Client(self._world.admin) as client:
            try:
                yield client
            except AdminError as error:
                self._judge.violation("admin API", str(error))

    # ---- floods ----

    def _start_flood(self, how: str, listener: str, count: int) -> None:
        self._judge.event(f"flood {how} {listener} {count}")
        command = [sys.executable, "-m", "tests.soak.floods", how, self._world.addresses[listener], str(count)]
        self._floods.append(subprocess.Popen(command, env=without_preload()))

    def _flood(self) -> None:
        self._start_flood("udp", "flooded", 6000)

    def _idle_clients(self) -> None:
        self._start_flood("idle", self._draw.choice(("web", "headed")), 200)

    def _resetting_clients(self) -> None:
        self._start_flood("resets", self._draw.choice(("web", "splicing", "headed", "queueing")), 200)

    def end(self) -> None:
        for flood in self._floods:
            flood.wait(60)
