"""One run of the soak: start everything, make trouble, let it come to rest, look whether everything adds up."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l4lb import Client
from tests.soak.judge import Judge
from tests.soak.trouble import Trouble
from tests.soak.world import SHAKY, STABLE, Server, World, settled
from tests.support.programs import L4lb, l4lb, without_preload
from tests.support.waiting import wait_until

WARM_S = 3.0
MEMORY_ROOM = 64 << 20
FDS_ROOM = 80  # pipes that workers keep, and spares: sockets to UDP backends


@dataclass
class Result:
    seconds: float
    judge: Judge
    counts: Counter[str] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    final: dict[str, Any] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return not self.judge.violations

    def figures(self) -> list[tuple[str, str]]:
        """What was done, in words and numbers."""
        ok = sum(count for name, count in self.counts.items() if name.startswith("kind ") and name.endswith(" ok"))
        failed = sum(self.judge.excused.values())
        asked = sum(count for name, count in self.counts.items() if name.endswith(" asked"))
        answered = sum(count for name, count in self.counts.items() if name.endswith(" answered"))
        events = self.judge.counts
        return [
            ("duration", f"{self.seconds / 60:.1f} minutes"),
            ("TCP and unix sessions, every byte compared", f"{ok:,} whole, {failed:,} failed with a cause"),
            ("bytes compared", f"{self.counts['bytes'] / 1e9:.2f} GB"),
            ("questions over UDP", f"{asked:,}, {answered:,} answered"),
            ("reloads", str(events["reloaded"])),
            ("upgrades", str(events["upgraded"])),
            ("backends killed, stopped, made to reset", f"{events['kill']}, {events['stop']}, {events['resets']}"),
            ("drains of backends and listeners", str(events["drain"])),
            ("rounds of ended sessions", str(events["end"])),
            ("floods of sources, idle and resetting clients", str(events["flood"])),
            ("memory, first and last", " and ".join(f"{one >> 20} MiB" for one in (self.memory[0], self.memory[-1]))),
            ("file descriptors at rest, first and last", f"{self.fds[0]} and {self.fds[-1]}"),
            ("violations", str(len(self.judge.violations))),
        ]


class _Clients:
    """The process of tests/soak/clients.py."""

    def __init__(self, plan: dict[str, Any], judge: Judge) -> None:
        self.counts: Counter[str] = Counter()
        self._judge = judge
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.clients", json.dumps(plan)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=without_preload(),
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                said = json.loads(line)
                if "outcome" in said:
                    self._judge.outcome(said["outcome"])
                else:
                    self.counts = Counter(said["counts"])

    def finish(self, timeout_s: float) -> None:
        """Until what has begun is over."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(timeout_s)
            if code:
                self._judge.violation("clients", f"exit {code}")
        except subprocess.TimeoutExpired:
            self._judge.violation("clients", f"not done within {timeout_s:.0f} s")
        finally:
            self.stop()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdin is not None
        self._process.stdin.close()


class Soak:
    def __init__(self, directory: Path, seed: int) -> None:
        self.judge = Judge()
        self._draw = random.Random(seed)
        servers = {number: Server(number, directory, self._of_server) for number in (*STABLE, *SHAKY)}
        self.world = World(directory, servers)

    def _of_server(self, line: str) -> None:
        self.judge.server(json.loads(line))

    # ---- looking ----

    def _status(self) -> dict[str, Any]:
        with Client(self.world.admin) as client:
            return client.status()

    def _look(self, result: Result, pid: int) -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            private = sum(int(count) for count in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE)) * 1024
            fds = len(os.listdir(f"/proc/{pid}/fd"))
            result.memory.append(private)
            result.fds.append(fds)

    def _adds_up(self) -> bool:
        return all(
            one["sessions_active"] == 0 and one["sessions_total"] == sum(one["closed"].values())
            for one in self._status()["listeners"]
        )

    def _end(self, result: Result, process: L4lb, trouble: Trouble) -> None:
        """All is at rest: nothing is left of what went on, in this process and in those before it."""
        for problem in settled(self._adds_up, "sessions ended, and as many as began", 40):
            listeners = [
                (one["name"], one["sessions_active"], one["sessions_total"], one["closed"])
                for one in self._status()["listeners"]
            ]
            self.judge.violation("counters", f"{problem}: {listeners}")
        result.final = self._status()
        wait_until(lambda: len(os.listdir(f"/proc/{trouble.pid}/fd")) <= result.fds[0] + FDS_ROOM, 20)
        self._look(result, trouble.pid)
        if result.fds[-1] > result.fds[0] + FDS_ROOM:
            self.judge.violation("file descriptors", f"{result.fds[-1]} at rest, {result.fds[0]} at first")
        if result.memory[-1] > result.memory[0] + MEMORY_ROOM:
            self.judge.violation("memory", f"{result.memory[-1]:,} bytes at rest, {result.memory[0]:,} at first")
        os.kill(trouble.pid, signal.SIGTERM)
        for pid in trouble.pids:
            if not wait_until(lambda pid=pid: _gone(pid), 90):
                self.judge.violation("life", f"process {pid} did not end")
        if process.wait(20) != 0:
            self.judge.violation("life", f"exit {process.process.returncode}")
        self.judge.log(process.log)

    # ---- running ----

    @contextlib.contextmanager
    def _started(self) -> Iterator[tuple[L4lb, _Clients]]:
        try:
            self.world.start()
            with l4lb("serve", "-c", str(self.world.file), admin=True, module="tests.support.leaky") as process:
                process.wait_for("admin listening")
                process.wait_for("backend up")
                clients = _Clients(self.world.plan(), self.judge)
                try:
                    yield process, clients
                finally:
                    clients.stop()
        finally:
            self.world.stop()

    def run(self, seconds: float, *, all_kinds: bool = False) -> Result:
        """For about so long; with `all_kinds`, of everything once instead."""
        with self._started() as (process, clients):
            began = time.monotonic()
            result = Result(0.0, self.judge)
            trouble = Trouble(self.world, process, self.judge, self._draw)
            try:
                self._look(result, trouble.pid)
                time.sleep(WARM_S)
                if all_kinds:
                    trouble.all_once()
                while time.monotonic() - began < seconds:
                    trouble.once()
                    time.sleep(self._draw.uniform(0.3, 2.0))
                trouble.end()
                clients.finish(170)
                result.counts = clients.counts
                self.judge.questions(clients.counts)
                self._end(result, process, trouble)
                result.seconds = time.monotonic() - began
            finally:
                for pid in trouble.pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    (self.world.directory / "l4lb.log").write_text(process.log)
        return result


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
