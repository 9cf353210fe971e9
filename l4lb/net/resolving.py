"""Looks names up. Blocking, so on its own threads, which report the results to the control loop.

The addresses and their order are the system's (getaddrinfo(3): nsswitch, /etc/hosts, search domains, RFC 6724), so that
a name means here what it means to every other program of this host. Only DNS knows how long they are valid: it is asked
for the TTL, and when there is no address, for the reason. A name from /etc/hosts, or another source than DNS, is looked
up again after `OTHERWISE_S`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from l4lb.errors import RAISED_BY_OTHERS, EngineError
from l4lb.net.files import read_text
from l4lb.net.querying import why
from l4lb.net.threads import name_this_thread, started

OTHERWISE_S = 30.0
_REASON_WITHIN_S = 2.0
_THREADS_MAX = 8
_HOSTS = Path("/etc/hosts")

Host = tuple[int, str]  # family and numeric address


@dataclass(frozen=True, slots=True)
class Answer:
    """`hosts` in the resolver's order, at least one, valid for `ttl_s` seconds."""

    hosts: tuple[Host, ...]
    ttl_s: float


class NotResolved(Exception):
    """There is no address; the text says why: ``NXDOMAIN``, ``SERVFAIL``, ..."""


Lookup = Callable[[str], Answer]
Done = Callable[[str, "Answer | NotResolved"], None]


def look_up(name: str) -> Answer:
    """The addresses of `name`. Blocks as long as the system's resolver does. Raises NotResolved."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotResolved(_reason(name, getattr(error, "strerror", None) or str(error))) from None
    hosts = tuple(dict.fromkeys((int(family), str(address[0])) for family, _, _, _, address in found))
    return Answer(hosts, OTHERWISE_S if _in_hosts_file(name) else _ttl_s(name, hosts))


def _in_hosts_file(name: str) -> bool:
    wanted = name.rstrip(".").lower()
    try:
        lines = read_text(_HOSTS).splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return any(wanted in (word.lower() for word in line.partition("#")[0].split()[1:]) for line in lines)


def _ttl_s(name: str, hosts: tuple[Host, ...]) -> float:
    """The TTL of the records that `hosts` come from, including CNAMEs on the way."""
    import dns.exception
    import dns.resolver

    kind = "AAAA" if hosts[0][0] == socket.AF_INET6 else "A"
    try:
        answer = dns.resolver.Resolver().resolve(name, kind, search=True, lifetime=_REASON_WITHIN_S)
    except (dns.exception.DNSException, OSError, ValueError):
        return OTHERWISE_S  # not from DNS
    return max(0.0, answer.expiration - time.time())


def _reason(name: str, otherwise: str) -> str:
    """Why DNS has no address; the system's reason if DNS gives none."""
    import dns.exception
    import dns.resolver

    known = (
        dns.resolver.NXDOMAIN,
        dns.resolver.NoAnswer,
        dns.resolver.NoNameservers,
        dns.resolver.LifetimeTimeout,
    )
    try:
        dns.resolver.Resolver().resolve(name, "A", search=True, lifetime=_REASON_WITHIN_S)
    except known as error:
        return why(error)
    except (dns.exception.DNSException, OSError, ValueError):
        pass
    return otherwise


class Lookups:
    """Look-ups in parallel, on a limited number of threads, which end when there is nothing to do. A thread that is
    stuck in the system's resolver outlives `close` until the resolver gives up; its result is discarded."""

    def __init__(self, lookup: Lookup = look_up) -> None:
        self._lookup = lookup
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, Done]] = deque()
        self._threads = 0
        self._closed = False

    def begin(self, name: str, done: Done) -> None:
        """Calls `done` on another thread, unless this is closed before; on this one when no thread can start."""
        task = (name, done)
        with self._lock:
            if self._closed:
                return
            self._waiting.append(task)
            if self._threads == _THREADS_MAX:
                return
            self._threads += 1
        try:
            started(threading.Thread(target=self._work, name="l4lb-names", daemon=True))
        except EngineError as error:
            with self._lock:
                self._threads -= 1
                if self._threads or task not in self._waiting:
                    return  # a thread that runs sees to it
                self._waiting.remove(task)
            done(name, NotResolved(str(error)))

    def _work(self) -> None:
        name_this_thread("l4lb-names")
        while (task := self._next()) is not None:
            name, done = task
            found: Answer | NotResolved
            try:
                found = self._lookup(name)
            except NotResolved as error:
                found = error
            except RAISED_BY_OTHERS as error:  # of a resolver that was given, or a defect: never a name without an end
                found = NotResolved(f"{type(error).__name__}: {error}")
            with self._lock:
                closed = self._closed
            if not closed:
                done(name, found)

    def _next(self) -> tuple[str, Done] | None:
        with self._lock:
            if self._waiting and not self._closed:
                return self._waiting.popleft()
            self._threads -= 1
            return None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._waiting.clear()
