"""The flows that the programs know: counted, and looked for.

A flow is there while its client has not ended it, it had a packet within its own listener's idle_timeout, and its next
packet will go to the same backend. Reading 262,144 of them takes tens of milliseconds: looking for some is done on a
thread of its own, one at a time.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Generic, TypeVar

from l4lb._native import kernel_flows
from l4lb._native.reports import FoundFlow
from l4lb._native.specs import FlowFilter
from l4lb.engine.kernel import layout
from l4lb.engine.kernel.backends import Owner, Placed
from l4lb.errors import EngineError
from l4lb.model.sessions import Session, SessionFilter
from l4lb.model.states import Protocol, SessionState
from l4lb.net.threads import started

IDLE_DEFAULT_S = 600.0  # with idle_timeout = "off" too: nothing tells that a flow is over
QUICK_S = 0.01  # of processor time: counting for so long holds up nothing
_NEVER = (1 << 64) - 1
_NANO = 1_000_000_000
Found = tuple[int, list[Session]]  # how many match, and some of them
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Numbered:
    """A listener as the maps know it: `number` was another listener's before `since_ns` (0: nobody's)."""

    name: str
    number: int
    idle_s: float
    since_ns: int


class Numbers:
    """What the numbers in the maps stand for at this moment."""

    def __init__(self, listeners: Iterable[Numbered], backends: Iterable[tuple[Owner, Placed]]) -> None:
        self.now_ns = layout.now_ns()
        self._listeners = {one.number: one for one in listeners}
        self._backends = {one.index: (owner, one) for owner, one in backends}

    def listener(self, number: int) -> str:
        return self._listeners[number].name

    def backend(self, index: int) -> Owner:
        return self._backends[index][0]

    def filter(self, protocol: int, wanted: SessionFilter) -> FlowFilter:
        prefix, mask = _network(wanted.source)
        return FlowFilter(
            protocol=protocol,
            since=self._since(wanted.listener),
            incarnations=self._incarnations(wanted),
            prefix=prefix,
            mask=mask,
            port=wanted.source_port if wanted.source else 0,
            id=wanted.flow_id,
        )

    def _since(self, listener: str) -> array[int]:
        since = array("Q", [_NEVER]) * layout.SERVICES_MAX
        for one in self._listeners.values():
            if listener in ("", one.name):
                idle_ns = round((one.idle_s or IDLE_DEFAULT_S) * _NANO)
                since[one.number] = max(self.now_ns - idle_ns, one.since_ns)
        return since

    def _incarnations(self, wanted: SessionFilter) -> array[int]:
        found = array("I", [0]) * layout.BACKENDS_MAX
        for owner, one in self._backends.values():
            if not one.left and _is_of(owner, wanted):
                found[one.index] = one.incarnation
        return found


def _is_of(owner: Owner, wanted: SessionFilter) -> bool:
    pool, id_ = owner
    if wanted.pool and wanted.pool != pool:
        return False
    return not wanted.backends or bool({owner, ("", id_)}.intersection(wanted.backends))


def _network(source: IPv4Network | IPv6Network | None) -> tuple[bytes, bytes]:
    """The 16 bytes that a client's address has, and which of them count."""
    if source is None:
        return bytes(16), bytes(16)
    return layout.address(str(source.network_address)), layout.prefix(source.version == 4, source.prefixlen)


@dataclass(frozen=True, slots=True)
class Counted:
    """Flows by listener's number, and by backend's index; `at` is when counting began, in seconds, monotonic."""

    at: float
    by_listener: dict[int, int]
    by_backend: dict[int, int]


class Flows:
    """`fds` are the descriptors of the maps. Control thread only."""

    def __init__(self, fds: Mapping[Protocol, int]) -> None:
        self._fds = fds
        self._counted = Counted(float("-inf"), {}, {})
        self._took_s = 0.0
        self._counting: Reading[Counted] | None = None
        self._looking: Reading[Found] | None = None

    def count(self, numbers: Callable[[], Numbers], after: float) -> Counted:
        """Not older than `after`, unless there are so many flows that counting is left to another thread: then the next
        count is under way. EngineError when the maps cannot be read."""
        if self._counting is not None and self._counting.over():
            reading, self._counting = self._counting, None
            self._use(reading)
        if self._counted.at < after and self._counting is None:
            self._begin_to_count(numbers())
        return self._counted

    def _begin_to_count(self, numbers: Numbers) -> None:
        reading = Reading(lambda: self._count(numbers))
        if self._took_s > QUICK_S:
            reading.start()
            self._counting = reading
        else:
            reading.run()
            self._use(reading)

    def _use(self, reading: Reading[Counted]) -> None:
        self._took_s = reading.took_s
        self._counted = reading.result()

    def _count(self, numbers: Numbers) -> Counted:
        at, wanted = time.monotonic(), numbers.filter(0, SessionFilter())
        tcp, udp = (kernel_flows.count_flows(self._fds[protocol], wanted) for protocol in (Protocol.TCP, Protocol.UDP))
        return Counted(at, _sum(tcp[0], udp[0]), _sum(tcp[1], udp[1]))

    def find(self, wanted: SessionFilter, limit: int, numbers: Numbers) -> FlowSweep:
        """EngineError when no thread can be started."""
        filters = {protocol: numbers.filter(layout.PROTOCOLS[protocol], wanted) for protocol in self._fds}

        def look() -> Found:
            matched, sessions = 0, list[Session]()
            for protocol, filter_ in filters.items():
                count, found = kernel_flows.find_flows(self._fds[protocol], filter_, limit)
                matched += count
                sessions += (_session(one, protocol, numbers) for one in found)
            return matched, sorted(sessions, key=lambda one: -one.idle_s)[:limit]

        if self._looking is not None:
            self._looking.join()
        self._looking = Reading(look)
        self._looking.start()
        return FlowSweep(self._looking)

    def close(self) -> None:
        """Wait for who reads. Idempotent."""
        for reading in (self._counting, self._looking):
            if reading is not None:
                reading.join()


class Reading(Generic[T]):
    """Something that is read of the maps, by another thread or at once. `took_s`: its processor time, which says how
    much there is, also where other processes hold it up."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._over = threading.Event()
        self._found: T | None = None
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self.took_s = 0.0

    def start(self) -> None:
        """EngineError when no thread can be started."""
        self._thread = started(threading.Thread(target=self.run, name="l4lb-flows"))

    def run(self) -> None:
        began = time.thread_time()
        try:
            self._found = self._read()
        except Exception as error:  # of another thread, perhaps: whoever asks for the result gets it
            self._error = error
        finally:
            self.took_s = time.thread_time() - began
            self._over.set()

    def over(self) -> bool:
        return self._over.is_set()

    def result(self) -> T:
        """EngineError when the maps could not be read."""
        if isinstance(self._error, (OSError, MemoryError)):
            raise EngineError(f"flows in the kernel cannot be read: {self._error}") from self._error
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()


class FlowSweep:
    """A look at all flows. It has a result only once it is `over`."""

    def __init__(self, reading: Reading[Found]) -> None:
        self._reading = reading

    def over(self) -> bool:
        return self._reading.over()

    def matched(self) -> int:
        """EngineError when the maps could not be read; of the next one too."""
        return self._reading.result()[0]

    def take_found(self) -> list[Session]:
        """At most as many as were asked for, the longest idle first."""
        return self._reading.result()[1]


def _session(found: FoundFlow, protocol: Protocol, numbers: Numbers) -> Session:
    pool, backend = numbers.backend(found.backend)
    return Session(
        id=found.id,
        protocol=protocol,
        listener=numbers.listener(found.number),
        pool=pool,
        backend=backend,
        client=layout.endpoint_text(found.client, found.client_port),
        local=layout.endpoint_text(found.service, found.service_port),
        state=SessionState.RELAYING,
        age_s=None,
        idle_s=max(numbers.now_ns - found.seen_ns, 0) / _NANO,
        bytes_up=None,
        bytes_down=None,
        engine="kernel",
    )


def _sum(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in one.keys() | other.keys()}
