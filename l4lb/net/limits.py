"""The limits on sessions when max_sessions is "auto": file descriptors and local ports. Also checks that there is
enough memory to start.

File descriptors: the limit is raised to its hard limit, and each session takes two.

Ports: each session takes one of net.ipv4.ip_local_port_range (28,232 by default, for IPv6 too). Over TCP a port can be
used again for another source or destination: the limit is that many sessions per backend address and source address.
Over UDP a port is taken for all destinations: the limit is that many per source address. The limit is never too low: it
counts every backend since the start, usable or not, ports that others have taken or that
net.ipv4.ip_local_reserved_ports reserves, and clients that may wait in queues. Ports impose no limit where a pool
connects to unix sockets, to the port that the client asked, or from its clients' addresses.

The smaller limit applies. When ports run out earlier, because others use them, no backend is blamed and UDP makes room:
see `_dataplane/base/verdicts.pxd`.
"""

from __future__ import annotations

import contextlib
import mmap
import resource
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from l4lb.errors import EngineError
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import BackendSpec, ListenerSpec, PoolSpec
from l4lb.model.states import Protocol

FDS_A_SESSION = 2  # client and backend; a bulk flow borrows a pipe where there is room and copies where there is none
_STACK_BYTES = 2 << 20  # pthread_attr_setstacksize(3): where RLIMIT_STACK is unlimited
_SPARE_BYTES = 32 << 20
_M_ARENA_MAX = -8  # mallopt(3)
FDS_RESERVED = 512  # Python, epoll, listening sockets, health checks, admin API, some pipes
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")  # of the reader's network namespace
DEFAULT_PORTS = 60999 - 32768 + 1


def raise_file_limit() -> int:
    """Raise RLIMIT_NOFILE to its hard limit and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def keep_address_space() -> None:
    """Where RLIMIT_AS is set, have the C library keep one heap for all threads. It would reserve 64 MiB of addresses
    for each further one as its thread starts; libraries for which nothing is left then crash or abort."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        return
    import ctypes  # 3 ms, for the few who set the limit

    with contextlib.suppress(OSError, AttributeError, MemoryError):  # a C library without mallopt(3)
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def sessions_for(file_limit: int) -> int:
    """How many TCP sessions fit into `file_limit` descriptors; at least 1."""
    if file_limit == resource.RLIM_INFINITY:
        return 0
    reserved = min(FDS_RESERVED, file_limit // 2)
    return max(1, (file_limit - reserved) // FDS_A_SESSION)


def local_ports(file: Path = PORT_RANGE) -> int:
    """How many ephemeral ports the kernel has; its default when that cannot be read."""
    try:
        first, last = map(int, file.read_text().split())
    except (OSError, ValueError):
        return DEFAULT_PORTS
    return last - first + 1 if 0 < first <= last < 65536 else DEFAULT_PORTS


WAYS_MAX = 65_536  # with so many, ports are no bound any more: descriptors are fewer


@dataclass(slots=True)
class PortBound:
    """How many sessions local ports allow for all pools passed to `see`. `ports` is the size of the range."""

    ports: int
    _ways: set[tuple[SocketAddress | None, SocketAddress]] = field(default_factory=set)
    _sources: set[SocketAddress | None] = field(default_factory=set)
    _waiting: int = 0
    _unbounded: bool = False
    _last: dict[str, tuple[PoolSpec, set[Protocol]]] = field(default_factory=dict)  # by name, of the last snapshot

    def see(self, pools: Sequence[PoolSpec], listeners: Sequence[ListenerSpec]) -> None:
        """Add a snapshot. It counts for ever: sessions may outlive their pools and listeners."""
        last, self._last = self._last, {}
        for pool in pools:
            protocols = {one.protocol for one in listeners if pool.name in one.pools}
            self._last[pool.name] = (pool, protocols)
            if protocols:
                before, by = last.get(pool.name, (None, set()))
                self._add(pool, protocols, before if by == protocols else None)
        self._waiting = max(self._waiting, sum(pool.queue_size for pool in pools))
        if len(self._ways) > WAYS_MAX:  # backends that come and go make more and more of them
            self._unbounded = True
        if self._unbounded:
            self._ways.clear()

    def _add(self, pool: PoolSpec, protocols: set[Protocol], before: PoolSpec | None) -> None:
        """`before`: of its backends the same objects were added already."""
        backends: Sequence[BackendSpec] = pool.backends
        if before is not None and before.source == pool.source:
            added = set(map(id, before.backends))
            backends = [one for one in backends if id(one) not in added]
        self._unbounded = self._unbounded or _takes_no_ports(pool, backends)
        if Protocol.TCP in protocols:
            self._ways |= {(pool.source, one.address) for one in backends}
        if Protocol.UDP in protocols:
            self._sources.add(pool.source)

    @property
    def sessions(self) -> int:
        """The limit; 0: none."""
        if self._unbounded or not (self._ways or self._sources):
            return 0
        return self.ports * (len(self._ways) + len(self._sources)) + self._waiting


def _takes_no_ports(pool: PoolSpec, backends: Sequence[BackendSpec]) -> bool:
    """For one of these `backends` of it. Also True when ports cannot be counted here, because the client's port is
    used."""
    return pool.transparent or any(one.address.family == socket.AF_UNIX or not one.address.port for one in backends)


def smaller(one: int, other: int) -> int:
    """The smaller of two limits; 0 is none."""
    return min(one, other) if one and other else one or other


def expect_memory_for(threads: int) -> None:
    """EngineError when there is no memory for the stacks of so many threads, with some to spare. pthread_create(3)
    would report that too, but when a thread runs out of memory as it begins, Python's starter waits for ever."""
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    if stack == resource.RLIM_INFINITY:
        stack = _STACK_BYTES
    needed = threads * stack + _SPARE_BYTES
    try:
        mmap.mmap(-1, needed, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, ValueError, OverflowError, MemoryError) as error:  # ENOMEM: RLIMIT_AS, RLIMIT_DATA
        reason = f"{threads} threads need {needed >> 20} MiB (stacks, see `ulimit -s`); see `ulimit -d` and `ulimit -v`"
        raise EngineError(f"out of memory: {reason}") from error
