"""What a change of one backend costs among 5,000 that come from one source, with and without health checks: from the
write until every worker goes by it, and as a client sees it."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.machines import cpu_seconds
from benchmarks.results import Results
from l4lb import Client
from l4lb.control.state.feed import EventIterator
from tests.support.etcd import Etcd, etcd
from tests.support.programs import l4lb

BACKENDS, CHANGES = 5000, 30
BAR_S = 0.2
_PROBE_EVERY_S = 0.002


class Source(ABC):
    """What backends come from: `entries` are the options of each, by address."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        self.entries = dict(entries)

    @property
    @abstractmethod
    def discovery(self) -> str:
        """As in a configuration."""

    @abstractmethod
    def put(self, address: str, options: str | None) -> float:
        """None: remove it. Returns when that was written, by the monotonic clock."""


class FileSource(Source):
    def __init__(self, entries: Mapping[str, str], path: Path) -> None:
        super().__init__(entries)
        self._path = path
        self._write()

    @property
    def discovery(self) -> str:
        return f'{{ type = "file", path = "{self._path}" }}'

    def put(self, address: str, options: str | None) -> float:
        self.entries.pop(address, None)
        if options is not None:
            self.entries[address] = options
        return self._write()

    def _write(self) -> float:
        new = self._path.with_suffix(".new")
        new.write_text("".join(f"{address} {options}\n" for address, options in self.entries.items()))
        new.replace(self._path)
        return time.monotonic()


class EtcdSource(Source):
    def __init__(self, entries: Mapping[str, str], server: Etcd) -> None:
        super().__init__(entries)
        self._server = server
        server.put_many({self._key(address): f"{address} {options}" for address, options in entries.items()})

    @property
    def discovery(self) -> str:
        return f'{{ type = "etcd", endpoints = ["{self._server.endpoint}"], prefix = "/web/" }}'

    def put(self, address: str, options: str | None) -> float:
        if options is None:
            self._server.delete(self._key(address))
        else:
            self._server.put_many({self._key(address): f"{address} {options}"})
        return time.monotonic()

    @staticmethod
    def _key(address: str) -> str:
        return f"/web/{address}"


@contextlib.contextmanager
def _source(kind: str, entries: Mapping[str, str], directory: Path) -> Iterator[Source]:
    if kind == "file":
        yield FileSource(entries, directory / "backends")
    else:
        with etcd() as server:
            yield EtcdSource(entries, server)


def _answer(listening: socket.socket) -> None:
    """To each connection: at which address it came."""
    while True:
        with contextlib.suppress(OSError), listening.accept()[0] as sock:
            sock.sendall(sock.getsockname()[0].encode())


@contextlib.contextmanager
def _backends() -> Iterator[list[str]]:
    """Of one process, by addresses of loopback."""
    with socket.create_server(("0.0.0.0", 0), backlog=4096) as listening:
        process = multiprocessing.get_context("fork").Process(target=_answer, args=(listening,), daemon=True)
        process.start()
        port = listening.getsockname()[1]
        try:
            yield [f"127.{1 + number // 250}.{number % 250}.1:{port}" for number in range(BACKENDS)]
        finally:
            process.kill()
            process.join()


def _config(source: Source, policy: str, health: str) -> str:
    interval = 'health.interval = "5s"\n' if health != "none" else ""
    return (
        '[listeners.default]\nbind = "127.0.0.1:0"\npool = "web"\n'
        f'[pools.web]\npolicy = "{policy}"\ndiscovery = {source.discovery}\n'
        f'health.type = "{health}"\n{interval}'
    )


@dataclass
class Measured:
    """Seconds, by what was done."""

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def figures(self, title: str) -> list[tuple[str, str]]:
        return [
            (f"{title}: {kind}, ms: median, 90 %, worst; CPU", f"{_spread(some)}; {_spread(self.cpu[kind])}")
            for kind, some in self.wall.items()
        ]


def _pause() -> None:
    time.sleep(random.uniform(0.2, 0.9))


def _spread(some: list[float]) -> str:
    ordered = sorted(some)
    return ", ".join(f"{1000 * one:.0f}" for one in (ordered[len(some) // 2], _p90(some), ordered[-1]))


def _p90(some: list[float]) -> float:
    return sorted(some)[int(0.9 * (len(some) - 1))]


class Balancer:
    """`l4lb serve`, seen from outside: `change` something and see when it holds."""

    def __init__(self, pid: int, address: tuple[str, int], events: EventIterator, source: Source) -> None:
        self._address, self._pid, self._events, self._source = address, pid, events, source
        self.measured = Measured()

    def server(self) -> str:
        """Which backend this client gets."""
        with socket.create_connection(self._address, timeout=5) as sock:
            return sock.recv(100).decode()

    def change(self, kind: str, address: str, options: str | None) -> None:
        before = cpu_seconds(self._pid)
        written = self._source.put(address, options)
        live = next(event.time for event in self._events if event.kind == "discovery_changed")
        took = live - (time.time() - time.monotonic()) - written
        self._note(kind, took, cpu_seconds(self._pid) - before)

    def change_until(self, kind: str, address: str, options: str | None, holds: Callable[[str], bool]) -> None:
        """... until this client's server is the one that it is to be."""
        before = cpu_seconds(self._pid)
        written = self._source.put(address, options)
        while not holds(self.server()):
            time.sleep(_PROBE_EVERY_S)
        took = time.monotonic() - written
        next(event for event in self._events if event.kind == "discovery_changed")
        self._note(kind, took, cpu_seconds(self._pid) - before)

    def _note(self, kind: str, wall_s: float, cpu_s: float) -> None:
        self.measured.wall.setdefault(kind, []).append(wall_s)
        self.measured.cpu.setdefault(kind, []).append(cpu_s)


def _change(balancer: Balancer, entries: Mapping[str, str], *, sticky: bool) -> None:
    """One of each kind, at moments that have nothing to do with what else goes on. `sticky`: equal clients get equal
    backends, so that this one sees when its backend goes and comes back."""
    other = random.choice(list(entries))
    for kind, options in (("weight", f"weight={random.randint(2, 9)}"), ("remove", None), ("add", "")):
        balancer.change(kind, other, options)
        _pause()
    if sticky:
        mine = balancer.server()
        address = next(one for one in entries if one.startswith(f"{mine}:"))
        balancer.change_until("remove, as seen", address, None, lambda server: server != mine)
        _pause()
        balancer.change_until("add, as seen", address, "", lambda server: server == mine)
        _pause()


@pytest.mark.parametrize("health", ["tcp", "none"])
@pytest.mark.parametrize("policy", ["maglev", "least_sessions"])
@pytest.mark.parametrize("kind", ["file", "etcd"])
def test_discovery(
    benchmark: BenchmarkFixture, results: Results, tmp_path: Path, kind: str, policy: str, health: str
) -> None:
    with _backends() as addresses, _source(kind, dict.fromkeys(addresses, ""), tmp_path) as source:
        file, admin = tmp_path / "lb.toml", f"unix:{tmp_path}/admin.sock"
        file.write_text(_config(source, policy, health))
        with (
            l4lb("serve", "-c", str(file), "--admin", admin, fresh=True) as process,
            Client(admin, timeout=60) as client,
        ):
            listening = process.address()
            while client.status()["pools"][0]["usable"] < BACKENDS:
                time.sleep(0.5)
            time.sleep(10)  # two intervals: the second check of each comes at its own phase
            with client.events() as events:
                balancer = Balancer(process.process.pid, listening, events, source)
                benchmark.pedantic(
                    _change, (balancer, source.entries), {"sticky": policy == "maglev"}, rounds=CHANGES, iterations=1
                )
    title = f"one of {BACKENDS} backends of {kind}, {policy}, checks each 5 s: {health} (bar: {BAR_S:g} s for 90 %)"
    results.figures += balancer.measured.figures(title)
