"""The seam between the planes: what the control side may ask of whatever moves the bytes.

One role is one protocol, and each says what an engine must do that forwards in the kernel: one that terminates no
connection and sees no payload. A part of the control plane asks for the role that it uses.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from l4lb.model.hooks import SessionHooks
from l4lb.model.sessions import SessionFilter, Source, SourceOrder, Sweep
from l4lb.model.snapshot import ListenerSpec, Place, Snapshot, TableKind
from l4lb.model.states import CloseReason
from l4lb.model.stats import BackendLatency, BackendTimes, Failing, PoolStats, SessionRecord, Stats


@dataclass(frozen=True, slots=True)
class ExportedSockets:
    """The listening sockets of one place, on their way to another process: descriptors, and what else is to be known of
    them, as JSON has it."""

    place: Place
    fds: Sequence[int]
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pinning:
    """Whether what forwards in the kernel is to outlive a process that is killed, and by the path of which
    configuration the next one finds it. `owner`: as which user (its number) the process may have run, besides root."""

    file: str
    wanted: bool
    owner: int = 0


@dataclass(frozen=True, slots=True)
class ExportedKernel:
    """What forwards in the kernel, on its way to another process: descriptors, and what is to be known of them, as JSON
    has it."""

    fds: Sequence[int]
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ExportedSession:
    """A session of UDP on its way to another process: the socket to its backend, by which of a place's sockets its
    datagrams come, whose it is, and what else is to be known of it, as JSON has it."""

    fd: int
    place: Place
    position: int
    pool: str
    backend: str
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class QuicIds:
    """Which backend of a pool gave which connection ids: hashed with `seed`, packed in `entries`, which have numbers of
    `backends` that only the process that they are from knew."""

    pool: str
    seed: int
    lengths: int
    entries: bytes
    backends: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class ExportedTcp:
    """Sessions of TCP on their way to another process: `count` of them, described in `state`, with their descriptors in
    `fds`, which stay the exporting process's own."""

    count: int
    state: bytes
    fds: array[int]


@dataclass(frozen=True, slots=True)
class TcpNames:
    """What the exporting process's numbers stand for: listeners, pools, and backends by pool and id."""

    listeners: Mapping[int, str]
    pools: Mapping[int, str]
    backends: Mapping[int, tuple[str, str]]


class Arriving(Protocol):
    """Sockets of sessions that another process has sent ahead, while it has the sessions."""

    def add(self, ids: bytes, fds: Sequence[int], /) -> None:
        """One message. ValueError, with the descriptors closed, for one that is none or has lost some."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a process has counted and what of its limits is used up, for the one that takes over to go on from."""

    workers: bytes
    sources: bytes
    listeners: Mapping[int, str]
    limits: Mapping[str, bytes]
    by_listener: Mapping[str, bytes]
    by_backend: Mapping[tuple[str, str], bytes]
    times: Mapping[tuple[str, str], bytes]  # of backends that have any; a version of l4lb without them sends none


@dataclass(frozen=True, slots=True)
class LoadedTcp:
    """Sessions of another process that could go on here at once. `removed`: ids of backends, by pool, that are not in
    this configuration; `engine`: what the engine knows of them."""

    count: int
    removed: Mapping[str, list[str]]
    engine: object


class Counting(Protocol):
    """What is there now, and what was counted. Every engine counts: draining waits for these numbers to become 0.

    An engine in the kernel reads its maps here; it reports 0 for what it cannot see (early resets, spliced bytes).
    """

    def stats(self, *, pools: bool = True) -> Stats:
        """Counters of this moment; no worker stops for it. Listeners that the newest snapshot does not name are among
        them while they have sessions, without an address. Not `pools`: `Stats.pools`, long work for many, is empty."""

    def pool_stats(self, pool: str) -> PoolStats:
        """The same of one pool; of one that the newest snapshot does not name, nothing."""

    def times(self, pool: str) -> dict[str, BackendTimes]:
        """How long its backends have taken, by id. One that only the kernel has sent clients is left out, here and in
        `latency`: nobody sees how long it takes."""

    def latency(self, pool: str) -> dict[str, BackendLatency]:
        """The same of the latest minute or so, as far as it was measured in this process."""

    def mark_times(self) -> None:
        """Called every TIMES_EVERY_S: what was measured until now leaves `latency` in a minute."""

    def sessions_of(self, pool: str, backend: str) -> int:
        """How many sessions it has now, also when the newest snapshot does not name it any more."""

    def sessions_on(self, listener: str) -> int:
        """How many sessions came by this listener and are there now, also when it is gone."""


class Forwarding(Counting, Protocol):
    """Snapshots in, traffic through: every engine implements all of it.

    An engine in the kernel carries `publish` out as changes of its maps. It holds addresses even where it opens no
    socket: `prepare` makes sure that it can have them, and `refuse_new_clients` that only packets of known sessions
    pass. Without threads of its own, `silent_workers` is empty. All methods but `build_table` are called from the
    control thread. All return at once, none waits for traffic.
    """

    def start(self) -> None:
        """Start the workers. They forward nothing before the first snapshot."""

    def prepare(self, listeners: Sequence[ListenerSpec]) -> None:
        """Open the sockets that a snapshot with these listeners will need, so that publishing it cannot fail.

        Raises `l4lb.errors.ConfigError` and opens none when one cannot be had.
        """

    def forget_prepared(self) -> None:
        """Close what was prepared and will not be published."""

    def refuse_new_clients(self, listeners: Sequence[ListenerSpec]) -> bool:
        """Before a snapshot with these listeners, which are prepared: where none of them listens, let nobody new in.
        True when there is such a place, and clients whose handshake is under way are to be given time."""

    def publish(self, snapshot: Snapshot) -> None:
        """Replace the routing state by `snapshot`, whole.

        Opens sockets of listeners that are new in it and closes those it no longer names (connections that already
        wait in their accept queues are served). Raises `l4lb.errors.ConfigError` and changes nothing when
        a listener cannot be bound.
        """

    def adopted(self) -> bool:
        """Whether every worker goes by the newest snapshot: what it leaves out gets no new session any more, and its
        sockets are closed."""

    def build_table(
        self, kind: TableKind, ids: Sequence[str], weights: Sequence[float], table_size: int, seed: int
    ) -> array[int]:
        """Build a table of `table_size` (prime) indices into `ids`, outside the GIL. Weights are above 0.

        May be called on any thread.
        """

    def addresses(self, listener: str) -> tuple[str, ...]:
        """Where `listener` really listens: port 0 is replaced by the port that the kernel chose."""

    def silent_workers(self) -> list[int]:
        """The workers that have finished no turn since the last call. Each call wakes them all, so that those which are
        merely idle finish one."""

    def chown_sockets(self, uid: int, gid: int) -> None:
        """The listening sockets belong to that user from now on: this process is about to become it, and addresses of
        its own that overlap must be of one user. Requires CAP_CHOWN; OSError EPERM."""

    def socket_files(self) -> list[str]:
        """The files of unix sockets that it will remove."""

    def close(self) -> None:
        """Stop the workers; sessions still there are reset with close reason ``shutdown``. Idempotent."""


class SessionControl(Counting, Protocol):
    """Single sessions, and backends that fail them.

    An engine in the kernel finds its flows in `begin_sweep`, and ends none of them: client and backend speak with each
    other, and a flow that it forgot would go on with its next packet. It sees no connect fail: `failing` is empty, and
    `notice_fd` never readable. All methods are called from the control thread.
    """

    def end_sessions(self, pool: str, backends: Sequence[str], reason: CloseReason) -> None:
        """Reset the sessions that these backends have now, a few at a time. Those it does not know are left out."""

    def begin_sweep(self, wanted: SessionFilter, limit: int = 0, end: CloseReason | None = None) -> Sweep:
        """Begin to look at all sessions, a few at a time; with `end`, to end those that are `wanted` for that reason.
        At most `limit` are told of.

        One at a time: the sweep before must be over. ChangeError for a name that no listener, pool or backend has;
        EngineError when flows in the kernel cannot be looked for.
        """

    def sources(self, listener: str, by: SourceOrder, limit: int) -> tuple[list[Source], int]:
        """The heaviest sources of a listener, or of all that limit sources (""), by that measure, the heaviest first;
        and how many there are. ChangeError for a name that no listener has."""

    @property
    def notice_fd(self) -> int:
        """A file descriptor that is readable when `failing` has something to say."""

    def failing(self) -> list[Failing]:
        """The backends that have failed as often in a row as their pool's `passive_failures`, since the last call."""

    def forgive(self, pool: str, backend: str) -> None:
        """Count the backend's failures anew."""


class SessionRecords(Protocol):
    """Records of sessions that have ended, for the access log.

    An engine that does not see sessions end must not offer an access log: it lacks this role. All methods but those
    that say otherwise are called from the control thread.
    """

    def keep_records(self, wake_fd: int) -> None:
        """From now on keep a record of every session that ends and every client that is refused, for `take_records`.

        1 is written to `wake_fd`, an eventfd that must stay open until `close` has returned, when there are records
        again after all were taken. What is not taken in time is dropped and counted.
        """

    def stop_records(self) -> None:
        """Keep none any more; those that wait can still be taken."""

    def take_records(self, limit: int) -> list[SessionRecord]:
        """Of each worker at most `limit` records, the oldest first; none when there are none. By one thread at a time,
        which need not be the control thread; also after `close`."""

    def records_dropped(self) -> int:
        """How many were dropped. Any thread."""


class Fate(IntEnum):
    """What becomes of sessions that stood still. `MOVED`: another process has them, and they are forgotten here without
    a word to their peers; `LOST`: that process has had them and is gone, so they are reset."""

    STAY = 0
    MOVED = 1
    LOST = 2


class TcpHandOver(Protocol):
    """Sessions of TCP that go to another process: all of them at one moment, or none. Called from the control thread;
    no method waits."""

    format: int  # of ExportedTcp and Counted: a process of another one cannot take these sessions
    epoch: int  # how many processes took over from each other before this one; set it before the first snapshot

    def hold_clients(self, held: bool) -> None:
        """Accept no TCP clients, who then wait in the sockets' queues; or accept them again."""

    def clients_held(self) -> bool:
        """Whether what was asked last holds, and who was accepted before has a session."""

    def names(self) -> TcpNames: ...

    def precopy(self, fd: int) -> None:
        """Send the sockets of sessions ahead, as messages by the unix socket `fd`, which stays open until `precopied`:
        so less is left to do while the sessions stand still."""

    def precopied(self) -> bool: ...

    def freeze(self) -> None:
        """Have all sessions stand still, and be described. Clients are held."""

    def frozen(self) -> ExportedTcp | None:
        """None while workers are at it. MemoryError when one could not describe its sessions."""

    def settle(self, fate: Fate) -> None:
        """End the freeze."""

    def settled(self) -> bool:
        """Whether the workers have done so."""

    def counted(self) -> Counted:
        """Once `settled`: sessions that are gone do not count here."""

    def arriving(self) -> Arriving:
        """For sockets that come ahead: then `take_arrivals`, and once the sessions are here or stay where they are,
        `end_arrivals`."""

    def take_arrivals(self, arriving: Arriving) -> None: ...

    def arrivals_taken(self) -> bool: ...

    def end_arrivals(self, *, reset: bool) -> None:
        """Close those that no session has come for. `reset`: the other process is gone, and its sessions with it."""

    def load(self, exported: ExportedTcp, arriving: Arriving, names: TcpNames) -> LoadedTcp:
        """Make everything ready for sessions of another process, and touch none of them. ValueError for what cannot be
        understood; MemoryError."""

    def start(self, loaded: LoadedTcp) -> None:
        """Go on with them, at once; their descriptors belong to the forwarder from now on."""

    def started_ns(self) -> int:
        """When all sessions of `start` went on, in monotonic time; 0: not yet."""

    def take_counted(self, said: Counted) -> None:
        """After `start`. ValueError for what cannot be understood."""


class HandOver(Counting, Protocol):
    """What goes from one process to the next at an upgrade: listening sockets, and the sessions of UDP, which are one
    process's. The old process exports, the new one imports.

    An engine in the kernel exports what forwards there, which never stops: from `begin_export` on the old process
    changes nothing, from `import_sessions` on the new one does, or the old one again. All methods are called from the
    control thread, and return at once.
    """

    @property
    def tcp(self) -> TcpHandOver:
        """What TCP has besides."""

    def export_sockets(self) -> list[ExportedSockets]:
        """The sockets that the published listeners accept on; they stay open here."""

    def give_up_sockets(self) -> None:
        """Another process has them now: closing them here leaves the files of unix sockets alone."""

    def import_sockets(self, exported: Sequence[ExportedSockets]) -> None:
        """Before the first snapshot: use these sockets, whose descriptors belong to the forwarder from now on. Those of
        UDP are not read before `import_sessions`."""

    def export_kernel(self) -> ExportedKernel | None:
        """What forwards in the kernel; it stays open here. None: nothing."""

    def import_kernel(self, exported: ExportedKernel) -> None:
        """Before anything is prepared: go on with that. The descriptors belong to the forwarder from now on."""

    def claim_sockets(self) -> None:
        """The process that they are from is leaving: files of unix sockets are this one's, and what is not used is
        closed."""

    def begin_export(self) -> None:
        """Have workers read no UDP listener any more and let go of its sessions, but for those that only wait for
        answers."""

    def exported_sessions(self, *, anyway: bool = False) -> list[ExportedSession] | None:
        """The sessions that workers have let go of, once; their descriptors belong to the caller. None while they are
        at it; `anyway`: those of the workers that have done it."""

    def quic_ids(self) -> list[QuicIds]:
        """Of the pools that go by them."""

    def import_sessions(self, sessions: Sequence[ExportedSession], quic_ids: Sequence[QuicIds] = ()) -> int:
        """After the first snapshot: go on with these sessions of another process and the ids that it knew, or with its
        own sessions that were exported, and read UDP listeners. Their descriptors belong to the forwarder from now on.

        Returns how many continue: those whose listener, pool and backend are there.
        """


class Forwarder(Forwarding, SessionControl, SessionRecords, SessionHooks, HandOver, Protocol):
    """All roles: the native engine, `l4lb.engine.native.NativeForwarder`."""
