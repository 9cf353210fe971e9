"""The same metrics pushed as StatsD datagrams: counters as increments, gauges as they are.

A flush sends a bounded number of datagrams at a time and never blocks. What could not be sent is in the next flush,
since only what was sent counts as reported.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from l4lb.control.reporting.families import families
from l4lb.control.reporting.gathered import Gathered, Sources
from l4lb.control.state.events import Events
from l4lb.model.address import SocketAddress

DATAGRAM_BYTES = 1432  # what fits into an Ethernet frame
BURST = 64  # datagrams at once: the receiver's buffer holds some hundred
_BURST_WAIT_S = 0.01
Key = tuple[str, tuple[str, ...]]
Sent = Mapping[Key, float]  # the values of counters up to which they were sent


@dataclass(frozen=True, slots=True)
class StatsdSettings:
    """`address` is None while it is off. Only the datadog format has `tags`."""

    address: SocketAddress | None = None
    datadog: bool = False
    interval_s: float = 10.0
    prefix: str = "l4lb"
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Datagram:
    """`counters`: those that it reports, and their values."""

    data: bytes
    counters: dict[Key, float]


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)


def _tag(text: str) -> str:
    return re.sub(r"[\s,|#]", "_", text)


class Lines:
    """Turns families into lines. Pure."""

    def __init__(self, settings: StatsdSettings) -> None:
        self._settings = settings
        self._tags = [f"{_tag(name)}:{_tag(value)}" for name, value in settings.tags.items()]

    def _line(self, sample: Sample, value: float, kind: str) -> bytes:
        settings = self._settings
        name = f"{settings.prefix}.{sample.name.removeprefix('l4lb_').removesuffix('_total')}"
        if not settings.datadog:
            name = ".".join([name, *(_plain(label) for label in sample.labels.values())])
            return f"{name}:{value:.15g}|{kind}".encode()
        tags = [f"{label}:{_tag(text)}" for label, text in sample.labels.items()] + self._tags
        return f"{name}:{value:.15g}|{kind}{'|#' if tags else ''}{','.join(tags)}".encode()

    def of(self, metrics: Iterable[Metric], sent: Mapping[Key, float]) -> Iterator[tuple[bytes, Key | None, float]]:
        """(line, key, value). Counters have a key, and are left out when they have not grown."""
        for family in metrics:
            for sample in family.samples:
                key, value = _key(sample), float(sample.value)
                if family.type == "gauge":
                    yield self._line(sample, value, "g"), None, value
                elif not sample.name.endswith("_bucket"):
                    before = sent.get(key, 0.0)
                    grown = value - before if value >= before else value
                    if grown:
                        yield self._line(sample, grown, "c"), key, value


def _key(sample: Sample) -> Key:
    return sample.name, tuple(sample.labels.values())


def datagrams(lines: Iterable[tuple[bytes, Key | None, float]]) -> list[Datagram]:
    """As many lines in each as fit; a line that is too long goes alone."""
    found: list[Datagram] = []
    parts: list[bytes] = []
    counters: dict[Key, float] = {}
    for line, key, value in lines:
        if parts and sum(map(len, parts)) + len(parts) + len(line) > DATAGRAM_BYTES:
            found.append(Datagram(b"\n".join(parts), counters))
            parts, counters = [], {}
        parts.append(line)
        if key is not None:
            counters[key] = value
    if parts:
        found.append(Datagram(b"\n".join(parts), counters))
    return found


class Statsd:
    """Sends every `interval_s` while it runs. Control loop only."""

    def __init__(self, settings: StatsdSettings, sources: Sources, events: Events) -> None:
        self._settings = settings
        self._sources = sources
        self._events = events
        self._lines = Lines(settings)
        self._sent: dict[Key, float] = {}
        self._based = False  # what was counted before is known
        self._failing = False
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, sent: Sent | None = None) -> None:
        """`sent`: go on from there; None: what was counted until now is not sent."""
        if self._settings.address is not None:
            self._task = asyncio.create_task(self._run(self._settings.address, sent))

    async def stop(self) -> None:
        """Stop, after sending what was counted since the last flush. After `pause`, nothing more is sent."""
        if await self._cancel() and self._based:
            await self._flush(self._sources.gather())
        self._close()

    async def pause(self) -> Sent | None:
        """Stop, for `start` to go on, here or in another process, from what is returned. None: it had not begun."""
        running = await self._cancel()
        self._close()
        return dict(self._sent) if running and self._based else None

    async def _cancel(self) -> bool:
        """Whether it ran."""
        task, self._task = self._task, None
        if task is None:
            return False
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return True

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _run(self, address: SocketAddress, sent: Sent | None) -> None:
        self._socket = socket.socket(address.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        first = self._sources.gather()
        self._sent = await asyncio.to_thread(_values, first) if sent is None else dict(sent)
        self._based = True
        while True:
            await asyncio.sleep(self._settings.interval_s)
            await self._flush(self._sources.gather())

    async def _flush(self, gathered: Gathered) -> None:
        for number, datagram in enumerate(await asyncio.to_thread(self._datagrams, gathered), 1):
            if not self._send(datagram.data):
                return
            self._sent.update(datagram.counters)
            if number % BURST == 0:
                await asyncio.sleep(_BURST_WAIT_S)

    def _datagrams(self, gathered: Gathered) -> list[Datagram]:
        """On any thread, while nothing else uses `_sent`."""
        return datagrams(self._lines.of(families(gathered), self._sent))

    def _send(self, data: bytes) -> bool:
        """sendto(2): EAGAIN, the buffer is full; ENOENT, ECONNREFUSED, nobody listens at a unix socket. Only a
        connected socket would get ICMP errors: over UDP, lost datagrams go unnoticed."""
        address = self._settings.address
        if self._socket is None or address is None:
            return False
        try:
            self._socket.sendto(data, address.endpoint)
        except OSError as error:
            self._report(error.strerror or str(error))
            return False
        self._report("")
        return True

    def _report(self, reason: str) -> None:
        """Report once when it begins to fail, and once when it works again."""
        if bool(reason) == self._failing:
            return
        self._failing = bool(reason)
        fields: dict[str, object] = {"to": str(self._settings.address)}
        if reason:
            self._events.emit("statsd_failing", {**fields, "reason": reason}, logging.WARNING)
        else:
            self._events.emit("statsd_recovered", fields)


def _values(gathered: Gathered) -> dict[Key, float]:
    return {_key(sample): float(sample.value) for family in families(gathered) for sample in family.samples}
