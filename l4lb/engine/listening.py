"""The listening sockets of this process: opened once for an address, kept as long as a listener has it, and closed when
no worker accepts on them any more. Owned by the forwarder; control thread only.

A place is what sockets are known by: protocol and address, and for port 0 also the listener. So listeners may be
renamed, change their options or exchange addresses, and nobody who connects meanwhile notices.

A place that no listener names any more, and that the wider address of one includes (127.0.0.1:80, then :80), is
covered: its sockets stay and belong to that listener. The kernel gives a client to the most specific socket, so that
closing them would reset who is in their queues, and end the sessions of UDP that came by them, for nothing.

The sockets of a suspended listener are suspended once no worker accepts on them any more (`reap`).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from l4lb.errors import ConfigError, Problem
from l4lb.model.address import SocketAddress
from l4lb.model.forwarder import ExportedSockets
from l4lb.model.snapshot import InheritedSocket, ListenerSpec, Place
from l4lb.model.states import Protocol
from l4lb.net.listen.options import set_options
from l4lb.net.listen.sockets import Assigned, ListeningSockets, open_address
from l4lb.net.listen.suspending import resume, suspend


def places_of(spec: ListenerSpec) -> list[tuple[Place, SocketAddress | InheritedSocket]]:
    """Where `spec` listens, in its order."""
    found: list[tuple[Place, SocketAddress | InheritedSocket]] = []
    for position, address in enumerate(spec.bind):
        any_port = isinstance(address, SocketAddress) and address.family != socket.AF_UNIX and address.port == 0
        place = Place(spec.protocol, address, spec.name, position) if any_port else Place(spec.protocol, address)
        found.append((place, address))
    return found


def _includes(wide: Place, place: Place) -> bool:
    """Whether every client of `place` could also come by `wide`, which is bound to all addresses of a family, or of
    both."""
    if wide.protocol is not place.protocol or wide == place:
        return False
    outer, inner = wide.address, place.address
    if not isinstance(outer, SocketAddress) or not isinstance(inner, SocketAddress) or not inner.port:
        return False
    families = {"0.0.0.0": (socket.AF_INET,), "::": (socket.AF_INET, socket.AF_INET6)}.get(outer.host, ())
    return inner.family in families and outer.port == inner.port


def _has_handshakes(place: Place) -> bool:
    """TCP sockets of this process's."""
    ours = isinstance(place.address, SocketAddress) and place.address.family != socket.AF_UNIX
    return ours and place.protocol is Protocol.TCP


def _is_unix(place: Place) -> bool:
    return isinstance(place.address, SocketAddress) and place.address.family == socket.AF_UNIX


def _options(spec: ListenerSpec) -> tuple[object, ...]:
    """What is set on the sockets themselves."""
    dropped = (spec.refused, spec.banned) if spec.drops else None
    inherited = (spec.nodelay, spec.keepalive, spec.user_timeout_s, spec.fast_open, spec.defer_accept_s)
    return (spec.backlog, spec.transparent, spec.trains, dropped, *inherited)


def _set(sockets: ListeningSockets, spec: ListenerSpec) -> None:
    for sock in sockets.sockets:
        set_options(sock, spec)
        if spec.protocol is Protocol.TCP and not sockets.suspended:
            sock.listen(spec.backlog)


@dataclass(slots=True)
class _Place:
    sockets: ListeningSockets
    spec: ListenerSpec


class _Needed(NamedTuple):
    """Places where workers are to accept, and for whom; those where clients are to be refused; and which of them all
    are covered, by which."""

    accepting: dict[Place, ListenerSpec]
    suspended: set[Place]
    covered: dict[Place, Place]


class Listening:
    """`workers` and `cpus`: see `open_address`."""

    def __init__(self, workers: int, cpus: Sequence[int]) -> None:
        self._workers = workers
        self._cpus = cpus
        self._places: dict[Place, _Place] = {}
        self._published: set[Place] = set()
        self._taken: dict[Place, ListeningSockets] = {}  # from the process before this one, until a listener has them
        # No longer named from that version on; workers may still accept there. A unix socket leaves its place at once.
        self._closing: dict[Place, int] = {}
        self._closing_unix: list[tuple[int, ListeningSockets]] = []
        self._suspended: set[Place] = set()  # named, and nobody is to accept there
        self._suspending: dict[Place, int] = {}  # ... but workers may still, before that version
        self._is_sole_owner = True  # not while the process before this one may go on instead
        self._refusing: set[Place] = set()
        self._covered: dict[Place, Place] = {}  # by the place that includes it
        self._shared = False  # with the process that takes over

    def prepare(self, specs: Sequence[ListenerSpec]) -> None:
        """Have all sockets of `specs`, with their options. ConfigError, and nothing changed, when that cannot be: new
        sockets take no client before all are there."""
        opened: list[Place] = []
        changed: list[tuple[_Place, ListenerSpec]] = []
        problems: list[Problem] = []
        wide = {place: spec for spec in specs for place, _ in places_of(spec)}
        covered = {place: wide[by] for place, by in self._needed(specs).covered.items()}
        for spec in specs:
            named = places_of(spec)
            for place, address in [*named, *((one, one.address) for one, by in covered.items() if by is spec)]:
                try:
                    known = self._places.get(place)
                    if known is None:
                        self._places[place] = _Place(self._open(place, address, spec), spec)
                        opened.append(place)
                    elif _options(known.spec) != _options(spec):
                        changed.append((known, known.spec))
                        known.spec = spec
                        _set(known.sockets, spec)
                except OSError as error:
                    problems.append(_problem(spec, address, error))
        problems = problems or self._adopt(specs, opened) or self._listen(opened) or self._resume(specs)
        if problems:
            self._undo(opened, changed)
            raise ConfigError(problems)
        for place in opened:
            self._taken.pop(place, None)

    def _open(self, place: Place, address: SocketAddress | InheritedSocket, spec: ListenerSpec) -> ListeningSockets:
        taken = self._taken.get(place)
        if taken is None:
            opened = open_address(address, spec, self._workers, self._own_sockets())
            if spec.suspended:
                suspend(opened)
            return opened
        _set(taken, spec)
        return taken

    def _adopt(self, specs: Sequence[ListenerSpec], opened: list[Place]) -> list[Problem]:
        """The places of the process before this one that are covered here."""
        wide = {place: spec for spec in specs for place, _ in places_of(spec)}
        problems: list[Problem] = []
        for place, by in self._coverage(wide, self._taken).items():
            try:
                _set(self._taken[place], wide[by])
            except OSError as error:
                problems.append(_problem(wide[by], place.address, error))
            else:
                self._places[place] = _Place(self._taken[place], wide[by])
                opened.append(place)
        return problems

    @staticmethod
    def _coverage(named: Iterable[Place], there: Iterable[Place]) -> dict[Place, Place]:
        """Which of the places that are `there` are not `named`, and included by one that is: by which."""
        named = set(named)
        found = {place: [one for one in named if _includes(one, place)] for place in there if place not in named}
        return {place: min(by, key=lambda one: str(one.address)) for place, by in found.items() if by}

    def _needed(self, specs: Sequence[ListenerSpec]) -> _Needed:
        named = {place: spec for spec in specs for place, _ in places_of(spec)}
        covered = self._coverage(named, self._places.keys() - self._closing.keys())
        owners = named | {place: named[by] for place, by in covered.items()}
        accepting = {place: spec for place, spec in owners.items() if not spec.suspended}
        return _Needed(accepting, owners.keys() - accepting.keys(), covered)

    def needed(self, specs: Sequence[ListenerSpec]) -> set[Place]:
        """Where workers are to accept for `specs`."""
        return set(self._needed(specs).accepting)

    def places(self, spec: ListenerSpec) -> list[Place]:
        """Those that it names, and those that are covered by them since the last `commit`."""
        named = [place for place, _ in places_of(spec)]
        return named + [place for place, by in self._covered.items() if by in named]

    def _own_sockets(self) -> list[socket.socket]:
        """All on which this process listens or is about to, also those that are about to close."""
        known = [*(one.sockets for one in self._places.values()), *self._taken.values()]
        return [sock for sockets in known for sock in sockets.sockets]

    def _listen(self, opened: Sequence[Place]) -> list[Problem]:
        problems: list[Problem] = []
        for place in opened:
            known = self._places[place]
            if place in self._taken or isinstance(place.address, InheritedSocket) or known.sockets.suspended:
                continue  # they listen already, or are not to
            try:
                known.sockets.listen(known.spec, self._cpus)
            except OSError as error:
                problems.append(_problem(known.spec, place.address, error))
        return problems

    def _resume(self, specs: Sequence[ListenerSpec]) -> list[Problem]:
        """Where no listener of `specs` is suspended any more: all of them, or none."""
        resumed: list[ListeningSockets] = []
        for place, spec in self._needed(specs).accepting.items():
            sockets = self._places[place].sockets
            if not sockets.suspended:
                continue
            try:
                resume(sockets, place.address, spec, self._workers, self._own_sockets(), self._cpus)
            except OSError as error:
                for one in resumed:
                    suspend(one)
                return [_problem(spec, place.address, error)]
            resumed.append(sockets)
        return []

    def _undo(self, opened: Sequence[Place], changed: Sequence[tuple[_Place, ListenerSpec]]) -> None:
        for place in opened:
            sockets = self._places.pop(place).sockets
            if place not in self._taken:
                sockets.close()
        for known, before in changed:
            known.spec = before
            _set(known.sockets, before)

    def forget_prepared(self) -> None:
        """Close what `prepare` opened and no snapshot names: clients would wait there for nobody."""
        for place in self._places.keys() - self._published - self._suspended - self._closing.keys():
            self._places.pop(place).sockets.close()

    def refuse_new_clients(self, specs: Sequence[ListenerSpec]) -> bool:
        """Let nobody in any more where `specs`, soon all that is, do not listen. Whether somebody may be in a handshake
        there, whom workers should have time to accept.

        What was inherited stays with the service manager, and its clients wait for who is next.
        """
        needed = self.needed(specs)
        leaving = {place for place in self._published - needed if _has_handshakes(place)}
        if self._shared:
            return False
        for place in leaving - self._refusing:
            self._places[place].sockets.refuse_new_clients()
        self._refusing |= leaving
        return bool(leaving)

    def commit(self, specs: Sequence[ListenerSpec], version: int) -> None:
        """From `version` on workers accept for `specs`, which are prepared, and nowhere else."""
        accepting, suspended, self._covered = self._needed(specs)
        needed = set(accepting)
        for place in (self._published | self._suspended) - needed - suspended:
            if _is_unix(place):
                self._leave_unix(place, version)
            else:
                self._closing[place] = version
        for place in (needed | suspended) & self._closing.keys():  # it comes back before it was closed
            del self._closing[place]
            if place in self._refusing:
                self._refusing.discard(place)
                self._places[place].sockets.accept_new_clients(self._places[place].spec)
        self._published, self._suspended = needed, suspended
        left = (place for place in suspended if not self._places[place].sockets.suspended)
        self._suspending = {place: self._suspending.get(place, version) for place in left}

    def _leave_unix(self, place: Place, version: int) -> None:
        sockets = self._places.pop(place).sockets
        self._closing_unix.append((version, sockets))
        if not self._shared:
            sockets.refuse_new_clients()

    def reap(self, seen: int) -> None:
        """Every worker has seen version `seen`: close what none accepts on any more."""
        for place in [place for place, version in self._closing.items() if seen >= version]:
            del self._closing[place]
            self._refusing.discard(place)
            self._places.pop(place).sockets.close()
        for version, sockets in self._closing_unix:
            if seen >= version:
                sockets.close()
        if self._is_sole_owner and not self._shared:
            for place in [place for place, version in self._suspending.items() if seen >= version]:
                del self._suspending[place]
                suspend(self._places[place].sockets)
        self._closing_unix = [(version, sockets) for version, sockets in self._closing_unix if sockets.sockets]

    def spread(self, spec: ListenerSpec) -> list[Assigned]:
        """Which worker accepts on which socket, see `ListeningSockets.spread`."""
        found = [] if spec.suspended else [self._places[place].sockets for place in self.places(spec)]
        return [
            one._replace(host=b"" if spec.transparent else sockets.host)
            for sockets in found
            for one in sockets.spread(self._workers)
        ]

    def kernel_drops(self, spec: ListenerSpec) -> int:
        """Datagrams that came for `spec` and found no room, see `ListeningSockets.kernel_drops`."""
        known = [self._places[place] for place in self.places(spec) if place in self._places]
        return sum(one.sockets.kernel_drops() for one in known)

    def addresses(self, spec: ListenerSpec) -> tuple[str, ...]:
        """Where `spec` really listens: port 0 is replaced by the port that the kernel chose."""
        return tuple(self._places[place].sockets.address for place, _ in places_of(spec))

    def chown(self, uid: int, gid: int) -> None:
        """See `ListeningSockets.chown`."""
        for known in self._places.values():
            known.sockets.chown(uid, gid)

    def files(self) -> list[str]:
        """Of unix sockets that are removed with them."""
        return [path for known in self._places.values() if (path := known.sockets.file)]

    # ---- from one process to the next ----

    def export_sockets(self) -> list[ExportedSockets]:
        """All that workers accept on, and what is suspended. They stay open here."""
        found = [(place, self._places[place].sockets) for place in self._published | self._suspended]
        return [
            ExportedSockets(place, [sock.fileno() for sock in one.sockets], one.described()) for place, one in found
        ]

    def give_up_sockets(self) -> None:
        """The other process has them: what is closed here leaves the files of unix sockets alone."""
        self._shared = True
        for known in self._places.values():
            known.sockets.give_up()

    def import_sockets(self, exported: Sequence[ExportedSockets]) -> None:
        """Before the first snapshot: listeners at these places accept on these sockets instead of new ones."""
        self._taken = {one.place: ListeningSockets.imported(one.fds, one.about) for one in exported}
        self._is_sole_owner = not exported

    def places_by_fd(self) -> dict[int, tuple[Place, int]]:
        """Which of a place's sockets has a descriptor."""
        known = [(place, one.sockets.sockets) for place, one in self._places.items()]
        return {sock.fileno(): (place, position) for place, socks in known for position, sock in enumerate(socks)}

    def workers_by_place(self) -> dict[tuple[Place, int], tuple[int, int]]:
        """The worker that reads a place's socket of UDP, and the descriptor."""
        published = [(place, self._places[place].sockets) for place in self._published]
        return {
            (place, position): (assigned.worker, assigned.fd)
            for place, sockets in published
            if place.protocol is Protocol.UDP
            for position, assigned in enumerate(sockets.spread(self._workers))
        }

    def claim_sockets(self) -> None:
        """The process before this one is not to come back: its files are this one's, and what no listener has is
        closed."""
        self._is_sole_owner = True
        for known in self._places.values():
            known.sockets.claim()
        for sockets in self._taken.values():
            sockets.claim()
            sockets.close()
        self._taken = {}

    def close(self) -> None:
        leaving = [sockets for _, sockets in self._closing_unix]
        for sockets in [*self._taken.values(), *leaving, *(known.sockets for known in self._places.values())]:
            sockets.close()
        self._taken = {}
        self._closing_unix = []
        self._places.clear()
        self._closing.clear()
        self._suspended.clear()
        self._suspending.clear()


def _problem(spec: ListenerSpec, address: SocketAddress | InheritedSocket, error: OSError) -> Problem:
    return Problem(f"listeners.{spec.name}.bind", f"{address}: cannot listen: {error.strerror or error}")
