"""Sessions of TCP on their way from one process to the next: the messages, and what each side does. Control loop only.

| this process | the new one |
|---|---|
| accepts no clients any more | accepts none yet |
| sends what its numbers stand for, and most sockets ahead | registers the sockets, says ``prepared`` |
| freezes its sessions, sends what is to be known of them | makes everything ready, touches none |
| | says ``taken``, goes on with them and says ``running``; or says ``not_taken``, and why |
| forgets them, or goes on with them | accepts |
| sends what it has counted | counts on from there |

Everything between freeze and ``running`` is bounded in time, and short: no session moves a byte meanwhile. So the
control loop stands still as well: to hand the work to another thread and back would take longer.

When the new process ends before it has said ``taken``, or says nothing for too long and is ended, no session has been
touched. When it ends between ``taken`` and ``running``, some bytes may be lost with it: its sessions are reset, and
this process goes on with new ones.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from l4lb.control.process.inheritance import tags_of
from l4lb.control.reporting.outputs import Reported
from l4lb.control.state.tags import SessionTags
from l4lb.model.forwarder import Arriving, Counted, ExportedTcp, Fate, TcpHandOver, TcpNames
from l4lb.model.hooks import Tags
from l4lb.net.handover import Channel, Message, close_all, receive_ahead, reserve_descriptors

# What it raises to read something that another version has said.
NOT_OURS = (ValueError, LookupError, TypeError, AttributeError, OverflowError)

_NOT_DESCRIBED = "this process could not describe its sessions"
_SOON_S = 5.0  # what workers do in their next turns, and a process that has nothing else to do
_FROZEN_WITHIN_S = 2.0
_TAKEN_WITHIN_S = 5.0
_RUNNING_WITHIN_S = 1.0
_POLL_S = 0.001
_FROZEN_POLL_S = 0.0001


class NotTaken(Exception):
    """The new process cannot take these sessions, which go on here; the message says why."""


async def until(condition: Callable[[], bool]) -> None:
    """TimeoutError when a worker hangs."""
    deadline = time.monotonic() + _SOON_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        await asyncio.sleep(_POLL_S)


# ---- the old process ----


@dataclass(frozen=True, slots=True)
class Leaving:
    """Sessions that are to go. `count`: about as many; `removed_ways`: on_backend_removed by pool; `tags`: those that
    came since all of them were sent ahead."""

    tcp: TcpHandOver
    count: int
    removed_ways: Mapping[str, str]
    tags: SessionTags


async def move_sessions(channel: Channel, leaving: Leaving, end_process: Callable[[], None]) -> int:
    """Accept no clients any more, and move all sessions to the process at the other end; how many.

    NotTaken: the sessions go on here, and that process has the clients to come. OSError when it is gone or too slow:
    then `end_process` has ended it, and the sessions go on here, unless it was gone after it had taken them.
    """
    leaving.tcp.hold_clients(True)
    await until(leaving.tcp.clients_held)
    try:
        await _send_ahead(channel, leaving, end_process)
        said, fds = await asyncio.to_thread(channel.receive, _SOON_S)
        close_all(fds)
        if said.get("kind") != "prepared":
            raise ConnectionError(str(said.get("reason", said)))
    except BaseException:
        end_process()
        raise
    return _send(channel, leaving, end_process)


async def store_sessions(store: Channel, leaving: Leaving, keep: Callable[[], None]) -> None:
    """Accept no clients any more, and say all of it to `store`, for a process that does not run yet; then `keep` what
    was said. From then on the sessions are not here any more. NotTaken, OSError: they go on here."""
    tcp = leaving.tcp
    tcp.hold_clients(True)
    await until(tcp.clients_held)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()  # nothing goes ahead
    with theirs:
        store.send(_announcement(leaving), [theirs.fileno()])
    began_ns = time.monotonic_ns()
    tcp.freeze()
    fate = Fate.STAY
    try:
        exported = _frozen(tcp)
        if exported is None:
            raise NotTaken(_NOT_DESCRIBED)
        _describe(store, leaving, exported, began_ns)
        keep()
        fate = Fate.MOVED
    finally:
        tcp.settle(fate)


def _announcement(leaving: Leaving) -> Message:
    said = {"ways": dict(leaving.removed_ways), "sessions": leaving.count}
    return {"kind": "tcp_names", **said, **_encoded_names(leaving.tcp.names())}


async def _send_ahead(channel: Channel, leaving: Leaving, end_process: Callable[[], None]) -> None:
    tcp, announcement = leaving.tcp, _announcement(leaving)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    try:
        with theirs:
            channel.send(announcement, [theirs.fileno()])
        tcp.precopy(ours.fileno())
        await until(tcp.precopied)
    except BaseException:
        end_process()  # then nothing holds up the workers
        await until(tcp.precopied)
        raise
    finally:
        if tcp.precopied():  # otherwise a worker hangs, and might send them somewhere else
            ours.close()
        else:
            ours.detach()


def _send(channel: Channel, leaving: Leaving, end_process: Callable[[], None]) -> int:
    tcp, began_ns = leaving.tcp, time.monotonic_ns()
    tcp.freeze()
    fate, exported = Fate.STAY, None
    try:
        exported = _frozen(tcp)
        if exported is None:
            channel.send({"kind": "tcp_stays"})
            raise NotTaken(_NOT_DESCRIBED)
        try:
            reason = _transfer(channel, leaving, exported, began_ns)
        except BaseException:
            end_process()  # before any session moves again: nothing is read by both
            fate = Fate.LOST if _said_taken(channel) else Fate.STAY
            raise
        if reason is not None:
            raise NotTaken(reason)
        fate = Fate.LOST
        _wait_until_running(channel)
        fate = Fate.MOVED
        return exported.count
    except OSError as error:
        if fate is Fate.LOST:
            reason = f"it ended when it had taken the sessions, and {exported.count if exported else 0} are reset"
            raise ConnectionResetError(reason) from error
        raise
    finally:
        tcp.settle(fate)


def _frozen(tcp: TcpHandOver) -> ExportedTcp | None:
    deadline = time.monotonic() + _FROZEN_WITHIN_S
    try:
        while (exported := tcp.frozen()) is None and time.monotonic() < deadline:
            time.sleep(_FROZEN_POLL_S)
    except MemoryError:
        return None
    return exported


def _describe(channel: Channel, leaving: Leaving, exported: ExportedTcp, began_ns: int) -> None:
    sizes = {"count": exported.count, "bytes": len(exported.state), "fds": len(exported.fds)}
    tags = {str(session_id): dict(one) for session_id, one in leaving.tags.later().items()}
    channel.send({"kind": "tcp", "began_ns": began_ns, "tags": tags, **sizes})
    channel.send_bulk(exported.state, exported.fds, _TAKEN_WITHIN_S)


def _transfer(channel: Channel, leaving: Leaving, exported: ExportedTcp, began_ns: int) -> str | None:
    """Why the sessions are not taken; None: they are. OSError."""
    _describe(channel, leaving, exported, began_ns)
    said, fds = channel.receive(_TAKEN_WITHIN_S)
    close_all(fds)
    return None if said.get("kind") == "taken" else str(said.get("reason", said))


def _wait_until_running(channel: Channel) -> None:
    """To forget the sessions takes time that they now need there. OSError when that process is gone; one that is merely
    slow has them."""
    with contextlib.suppress(TimeoutError):
        _, fds = channel.receive(_RUNNING_WITHIN_S)
        close_all(fds)


def _said_taken(channel: Channel) -> bool:
    """Whether a process that has ended had said so."""
    with contextlib.suppress(OSError):
        return channel.receive(0.1)[0].get("kind") == "taken"
    return False


def send_counted(channel: Channel, counted: Counted, reported: Reported | None) -> None:
    """OSError when the process at the other end is gone."""
    said: dict[str, Any] = {
        "workers": _text(counted.workers),
        "sources": _text(counted.sources),
        "listeners": list(counted.listeners.items()),
        "limits": {name: _text(one) for name, one in counted.limits.items()},
        "by_listener": {name: _text(one) for name, one in counted.by_listener.items()},
        "by_backend": _placed(counted.by_backend),
        "times": _placed(counted.times),
    }
    if reported is not None:
        sent = [[name, labels, value] for (name, labels), value in reported.sent.items()]
        said["reported"] = {"to": reported.to, "sent": sent}
    channel.send({"kind": "counted", **said})


def _placed(counted: Mapping[tuple[str, str], bytes]) -> list[list[str]]:
    return [[pool, id_, _text(one)] for (pool, id_), one in counted.items()]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _encoded_names(names: TcpNames) -> dict[str, Any]:
    backends = [[number, pool, id_] for number, (pool, id_) in names.backends.items()]
    return {"listeners": list(names.listeners.items()), "pools": list(names.pools.items()), "backends": backends}


# ---- the new process ----


class Taken(NamedTuple):
    """How many sessions, and for how long they stood still."""

    sessions: int = 0
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Announced:
    """`ways`: on_backend_removed of the other process's pools."""

    names: TcpNames
    ways: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Described:
    """`began_ns`: since when they stand still."""

    exported: ExportedTcp
    began_ns: int
    tags: Mapping[int, Tags]


@dataclass(frozen=True, slots=True)
class Taking:
    """Where sessions go: `tags` keeps theirs; `removed` is told of backends that are not in this configuration, by
    pool, with the way that was the pool's."""

    tcp: TcpHandOver
    tags: SessionTags
    removed: Callable[[str, str, list[str]], None]


async def take_sessions(channel: Channel, taking: Taking) -> Taken:
    """Go on with the sessions of the other process, or with none, and say so."""
    tcp = taking.tcp
    arriving = tcp.arriving()
    gone = False
    try:
        announced = await asyncio.to_thread(_receive_ahead, channel, arriving)
        tcp.take_arrivals(arriving)
        await until(tcp.arrivals_taken)
        described = await asyncio.to_thread(_receive, channel)
        if described is None:
            return Taken()
        count = _take(channel, taking, announced, described, arriving)
        return Taken(count, max(tcp.started_ns() - described.began_ns, 0) / 1e9)
    except (OSError, MemoryError, *NOT_OURS) as error:
        gone = isinstance(error, (ConnectionResetError, BrokenPipeError))
        _refuse(channel, getattr(error, "strerror", None) or str(error) or "not enough memory")
        return Taken()
    finally:
        tcp.end_arrivals(reset=gone)


def _receive_ahead(channel: Channel, arriving: Arriving) -> _Announced:
    said, fds = channel.receive(_SOON_S)
    if said.get("kind") != "tcp_names" or len(fds) != 1:
        close_all(fds)
        raise ValueError(f'expected names of sessions, not "{said.get("kind")}"')
    with socket.socket(fileno=fds[0]) as ahead:
        with contextlib.suppress(OSError):  # then it shows when they come
            reserve_descriptors(ahead.fileno(), 2 * int(said["sessions"]))
        receive_ahead(ahead, arriving.add, _SOON_S)
    names = TcpNames(
        {int(number): str(name) for number, name in said["listeners"]},
        {int(slot): str(name) for slot, name in said["pools"]},
        {int(number): (str(pool), str(id_)) for number, pool, id_ in said["backends"]},
    )
    return _Announced(names, {str(pool): str(way) for pool, way in said["ways"].items()})


def _receive(channel: Channel) -> _Described | None:
    """What is to be known of the sessions; None when they stay where they are."""
    channel.send({"kind": "prepared"})
    said, fds = channel.receive(_SOON_S + _FROZEN_WITHIN_S)
    close_all(fds)
    if said.get("kind") != "tcp":
        return None
    count, began_ns, tags = int(said["count"]), int(said["began_ns"]), tags_of(said.get("tags", {}))
    state, received = channel.receive_bulk(int(said["bytes"]), int(said["fds"]), _TAKEN_WITHIN_S)
    return _Described(ExportedTcp(count, state, received), began_ns, tags)


def _take(channel: Channel, taking: Taking, announced: _Announced, described: _Described, arriving: Arriving) -> int:
    tcp = taking.tcp
    try:
        loaded = tcp.load(described.exported, arriving, announced.names)
    except BaseException:
        close_all(described.exported.fds)
        raise
    for session_id, tags in described.tags.items():
        taking.tags.keep(session_id, tags)
    with contextlib.suppress(OSError):  # it is gone: then they would end with it
        channel.send({"kind": "taken", "sessions": loaded.count})
    tcp.start(loaded)
    deadline = time.monotonic() + _RUNNING_WITHIN_S
    while not tcp.started_ns() and time.monotonic() < deadline:
        time.sleep(_FROZEN_POLL_S)
    with contextlib.suppress(OSError):
        channel.send({"kind": "running"})
    for pool, ids in loaded.removed.items():
        taking.removed(pool, announced.ways.get(pool, "keep"), ids)
    return loaded.count


def _refuse(channel: Channel, reason: str) -> None:
    with contextlib.suppress(OSError):
        channel.send({"kind": "not_taken", "reason": reason})


def counted_of(said: Message) -> Counted:
    """One of NOT_OURS for what is none of ours."""
    return Counted(
        workers=base64.b64decode(said["workers"]),
        sources=base64.b64decode(said["sources"]),
        listeners={int(number): str(name) for number, name in said["listeners"]},
        limits={name: base64.b64decode(one) for name, one in said["limits"].items()},
        by_listener={name: base64.b64decode(one) for name, one in said["by_listener"].items()},
        by_backend=_by_place(said["by_backend"]),
        times=_by_place(said.get("times", [])),
    )


def _by_place(said: list[list[str]]) -> dict[tuple[str, str], bytes]:
    return {(pool, id_): base64.b64decode(one) for pool, id_, one in said}


def reported_of(said: Message) -> Reported | None:
    """The same."""
    if (reported := said.get("reported")) is None:
        return None
    sent = {(str(name), tuple(map(str, labels))): float(value) for name, labels, value in reported["sent"]}
    return Reported(str(reported["to"]), sent)
