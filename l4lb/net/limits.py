"""What bounds the number of sessions at a time when max_sessions is "auto", file descriptors and local ports; and
whether there is enough memory to begin with.

File descriptors: the limit is raised as far as it goes, and each session takes two.

Ports: each session takes one of net.ipv4.ip_local_port_range (28,232 by default, for IPv6 too), and how far those go
differs. Over TCP a port serves again for another source or destination: so many sessions to each address of a backend
from each source address. Over UDP a port is taken for all destinations together: so many from each source address. The
bound counts what could work, never less: every backend that was there since the start, usable or not, ports that others
have taken or that net.ipv4.ip_local_reserved_ports keeps, and clients that may wait in queues. There is none by ports
where a pool connects to unix sockets, to the port that the client asked, or from its clients' addresses.

The smaller one holds. Where ports end earlier than the bound, for they are used by others, nobody is blamed and UDP
makes room: see `_dataplane/base/verdicts.pxd`.
"""

from __future__ import annotations

import mmap
import resource
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from l4lb.errors import EngineError
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import ListenerSpec, PoolSpec
from l4lb.model.states import Protocol

FDS_A_SESSION = 2  # client and backend; a bulk flow borrows a pipe where there is room and copies where there is none
_STACK_BYTES = 2 << 20  # pthread_attr_setstacksize(3): where RLIMIT_STACK is unlimited
_SPARE_BYTES = 32 << 20
FDS_RESERVED = 512  # Python, epoll, listening sockets, health checks, admin API, some pipes
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")  # of the network namespace of who reads it
DEFAULT_PORTS = 60999 - 32768 + 1


def raise_file_limit() -> int:
    """Raise RLIMIT_NOFILE to its hard limit and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def sessions_for(file_limit: int) -> int:
    """How many TCP sessions fit into `file_limit` descriptors; at least 1."""
    if file_limit == resource.RLIM_INFINITY:
        return 0
    reserved = min(FDS_RESERVED, file_limit // 2)
    return max(1, (file_limit - reserved) // FDS_A_SESSION)


def local_ports(file: Path = PORT_RANGE) -> int:
    """How many ports the kernel gives out of its own accord; its default when that cannot be read."""
    try:
        first, last = map(int, file.read_text().split())
    except (OSError, ValueError):
        return DEFAULT_PORTS
    return last - first + 1 if 0 < first <= last < 65536 else DEFAULT_PORTS


@dataclass(slots=True)
class PortBound:
    """What local ports allow, of all the pools that `see` was shown. `ports` is the size of the range."""

    ports: int
    _ways: set[tuple[SocketAddress | None, SocketAddress]] = field(default_factory=set)
    _sources: set[SocketAddress | None] = field(default_factory=set)
    _waiting: int = 0
    _unbounded: bool = False

    def see(self, pools: Sequence[PoolSpec], listeners: Sequence[ListenerSpec]) -> None:
        """What a snapshot has. It counts from now on for ever: sessions outlive what they began with."""
        for pool in pools:
            protocols = {one.protocol for one in listeners if one.pool == pool.name}
            if protocols:
                self._unbounded = self._unbounded or _takes_no_ports(pool)
            if Protocol.TCP in protocols:
                self._ways |= {(pool.source, backend.address) for backend in pool.backends}
            if Protocol.UDP in protocols:
                self._sources.add(pool.source)
        self._waiting = max(self._waiting, sum(pool.queue_size for pool in pools))

    @property
    def sessions(self) -> int:
        """0: no bound."""
        if self._unbounded or not (self._ways or self._sources):
            return 0
        return self.ports * (len(self._ways) + len(self._sources)) + self._waiting


def _takes_no_ports(pool: PoolSpec) -> bool:
    """Or more than can be counted here: those of the port that a client asked."""
    return pool.transparent or any(
        one.address.family == socket.AF_UNIX or not one.address.port for one in pool.backends
    )


def smaller(one: int, other: int) -> int:
    """Of two bounds; 0 is none."""
    return min(one, other) if one and other else one or other


def expect_memory_for(threads: int) -> None:
    """EngineError when so many threads cannot have a stack each, and something to work with. pthread_create(3) would
    say so too, but not Python of a thread that ran out of memory while it began: who started it waits for ever."""
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    if stack == resource.RLIM_INFINITY:
        stack = _STACK_BYTES
    needed = threads * stack + _SPARE_BYTES
    try:
        mmap.mmap(-1, needed, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, ValueError, OverflowError, MemoryError) as error:  # ENOMEM: RLIMIT_AS, RLIMIT_DATA
        reason = f"{threads} threads need {needed >> 20} MiB (stacks, see `ulimit -s`); see `ulimit -d` and `ulimit -v`"
        raise EngineError(f"out of memory: {reason}") from error
