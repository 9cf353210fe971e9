"""What a process starts with besides its configuration: from the one that it replaces, or from a state file.

Everything is optional: a first start has nothing.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from l4lb.config import Config
from l4lb.control.state import bans
from l4lb.control.state.bans import Bans
from l4lb.control.state.desired import (
    Desired,
    Discovered,
    Drained,
    Overlay,
    restored,
    restored_discovered,
    restored_drained,
    saved,
    saved_discovered,
)
from l4lb.control.state.fleet import Before
from l4lb.control.state.state import BackendState, State, first_health, initial_state, located_at
from l4lb.control.state.tags import checked
from l4lb.model.address import SocketAddress
from l4lb.model.forwarder import ExportedKernel, ExportedSession, ExportedSockets, QuicIds
from l4lb.model.hooks import Tags
from l4lb.model.snapshot import InheritedSocket, Place
from l4lb.model.states import Health, Protocol
from l4lb.net.handover import FDS_MAX, Channel, Message, close_all, parsed
from l4lb.net.listen.admin_socket import AdminSocket
from l4lb.net.listen.unix_paths import is_own
from l4lb.net.resolving import Host

NamesKnown = Mapping[str, Sequence[Host]]  # what each name resolved to
_KERNEL_WITHIN_S = 10.0
_TAGS_AT_ONCE = 1000  # sessions; at most 64 MiB as JSON
PlacesSeen = Mapping[str, Mapping[str, Host]]  # where backends given by name were, by pool and backend
HealthSeen = Mapping[str, Mapping[str, tuple[str, str]]]  # (health, address) by pool and backend


@dataclass(slots=True)
class Inheritance:
    """`sockets` to accept on, what forwards in the `kernel`, the `admin` API's socket, runtime changes (`overlay`,
    `drained`, `bans`), what sources have `discovered`, the health of backends, and the `channel` to the process that
    sent all this. `epoch`: how many processes took over from each other before this one; `tcp_format`: how that process
    describes its TCP sessions, 0 if it keeps them."""

    overlay: Overlay = field(default_factory=dict)
    drained: Drained = field(default_factory=dict)
    bans: Bans = field(default_factory=Bans)
    discovered: Discovered = field(default_factory=dict)
    health: HealthSeen = field(default_factory=dict)
    names: NamesKnown = field(default_factory=dict)
    places: PlacesSeen = field(default_factory=dict)
    sockets: list[ExportedSockets] = field(default_factory=list)
    kernel: ExportedKernel | None = None
    admin: AdminSocket | None = None
    channel: Channel | None = None
    epoch: int = 0
    tcp_format: int = 0
    fleet: Before = field(default_factory=Before)

    def desired(self, config: Config) -> Desired:
        """`config` with what was discovered, the runtime changes that neither contradicts, and the bans that are not
        over."""
        return Desired.of(config, self.overlay, self.drained, self.bans.at(time.time()), self.discovered)

    def leave_out_removed(self) -> None:
        """Close unix sockets whose file is gone, as in a directory that ends with the service: they are made anew."""
        for one in list(self.sockets):
            if one.about["path"] and not is_own(one.about["path"], one.about["inode"]):
                self.sockets.remove(one)
                close_all(one.fds)


def _encoded_place(place: Place) -> dict[str, Any]:
    address = place.address
    said = {"fd": address.name} if isinstance(address, InheritedSocket) else {"at": list(_plain(address))}
    return {"protocol": str(place.protocol), "listener": place.listener, "position": place.position, **said}


def _plain(address: SocketAddress) -> tuple[int, str, int]:
    return int(address.family), address.host, address.port


def _place(said: Mapping[str, Any]) -> Place:
    address = InheritedSocket(said["fd"]) if "fd" in said else SocketAddress(*said["at"])
    return Place(Protocol(said["protocol"]), address, said["listener"], said["position"])


def health_of(state: State) -> HealthSeen:
    return {
        name: {id_: (str(one.health), str(one.address)) for id_, one in pool.backends.items()}
        for name, pool in state.pools.items()
        if pool.config.health.type != "none"
    }


def places_of(state: State) -> PlacesSeen:
    return {
        name: {one.id: (int(one.address.family), one.address.host) for one in pool.backends.values() if _is_placed(one)}
        for name, pool in state.pools.items()
    }


def _is_placed(backend: BackendState) -> bool:
    return bool(backend.name) and not backend.unresolved


def apply_names(state: State, seen: PlacesSeen) -> None:
    """Put backends given by name at the addresses that the previous process used, until their names are looked up here:
    so a name server that is away during an upgrade does no harm."""
    for name, pool in state.pools.items():
        for id_, host in seen.get(name, {}).items():
            backend = pool.backends.get(id_)
            if backend is not None and backend.name:
                backend.address, backend.unresolved = located_at(backend.config.address, host)
                backend.set_health(first_health(pool.config))


def apply_health(state: State, seen: HealthSeen) -> None:
    """Give backends whose address did not change the health that the previous process saw."""
    for name, pool in state.pools.items():
        for id_, backend in pool.backends.items() if pool.config.health.type != "none" else ():
            health, address = seen.get(name, {}).get(id_, ("", ""))
            if address == str(backend.address) and health != backend.health:
                backend.set_health(Health(health))


def first_state(desired: Desired, inheritance: Inheritance) -> State:
    """The desired state, with what the previous process observed. See `initial_state`."""
    state = initial_state(desired.config)
    state.drained = frozenset(desired.drained)
    state.bans, state.banned = len(desired.bans), desired.bans.ranges()
    apply_names(state, inheritance.places)
    apply_health(state, inheritance.health)
    return state


@dataclass(frozen=True, slots=True)
class Observed:
    """What a process has found out about its backends."""

    health: HealthSeen
    names: NamesKnown
    places: PlacesSeen


def observed_by(state: State, names: NamesKnown) -> Observed:
    return Observed(health_of(state), names, places_of(state))


def send_inheritance(
    channel: Channel,
    sockets: list[ExportedSockets],
    kernel: ExportedKernel | None,
    admin: AdminSocket | None,
    desired: Desired,
    seen: Observed,
    numbers: Mapping[str, int],
) -> None:
    """Send all of it to the process at the other end; `numbers` are its epoch, tcp_format and what it has to say of its
    fleet. Blocks. OSError when that process is gone."""
    for one in sockets:
        channel.send({"kind": "sockets", "place": _encoded_place(one.place), "about": dict(one.about)}, one.fds)
    if kernel is not None:
        about = json.dumps(dict(kernel.about)).encode()
        channel.send({"kind": "kernel", "bytes": len(about), "fds": len(kernel.fds)})
        channel.send_bulk(about, kernel.fds, _KERNEL_WITHIN_S)
    if admin is not None:
        channel.send({"kind": "admin", "about": admin.described()}, admin.fds())
    changes = {
        "overlay": saved(desired.overlay),
        "drained": desired.drained,
        "bans": bans.saved(desired.bans),
        "discovered": saved_discovered(desired.discovered),
    }
    observed = {"health": seen.health, "names": seen.names, "places": seen.places}
    channel.send({"kind": "start", **changes, **observed, **numbers})


def send_sessions(
    channel: Channel, sessions: Sequence[ExportedSession], quic_ids: Sequence[QuicIds], *, tcp: bool
) -> None:
    """Send these UDP sessions and QUIC connection ids, then a message that ends them, and says whether those of TCP
    follow. Blocks. OSError when the process at the other end is gone."""
    for ids in quic_ids:
        entries = base64.b64encode(ids.entries).decode()
        known = {"pool": ids.pool, "seed": ids.seed, "lengths": ids.lengths, "backends": list(ids.backends.items())}
        channel.send({"kind": "quic_ids", "entries": entries, **known})
    for start in range(0, len(sessions), FDS_MAX):
        some = sessions[start : start + FDS_MAX]
        said = [
            {"place": _encoded_place(one.place), "position": one.position, "pool": one.pool, "backend": one.backend}
            | {"about": dict(one.about)}
            for one in some
        ]
        channel.send({"kind": "sessions", "sessions": said}, [one.fd for one in some])
    channel.send({"kind": "moved", "tcp": tcp})


def send_tags(channel: Channel, tags: Mapping[int, Tags]) -> None:
    """Send the tags of sessions of TCP that will follow, before `send_sessions`. Likewise."""
    entries = list(tags.items())
    for start in range(0, len(entries), _TAGS_AT_ONCE):
        some = {str(session_id): dict(one) for session_id, one in entries[start : start + _TAGS_AT_ONCE]}
        channel.send({"kind": "tags", "tags": some})


def tags_of(said: Mapping[str, Any]) -> dict[int, Tags]:
    """ValueError, TypeError and their like for what are none."""
    return {int(session_id): checked(one) for session_id, one in said.items()}


@dataclass(slots=True)
class Received:
    """`tcp`: sessions of TCP follow, of which some have `tags`; `over`: the other process will send nothing more."""

    sessions: list[ExportedSession] = field(default_factory=list)
    quic_ids: list[QuicIds] = field(default_factory=list)
    tags: dict[int, Tags] = field(default_factory=dict)
    tcp: bool = False
    over: bool = False

    def take(self, message: Message, fds: list[int]) -> bool:
        """False for a message of another kind. Leaves out what has another format than ours."""
        try:
            match message.get("kind"):
                case "sessions":
                    self.sessions += [_session(one, fd) for one, fd in zip(message["sessions"], fds, strict=True)]
                case "quic_ids":
                    self.quic_ids.append(_quic_ids(message))
                case "tags":
                    self.tags |= tags_of(message["tags"])
                case _:
                    return False
        except (AttributeError, KeyError, TypeError, ValueError):
            close_all(fds)
        return True


async def receive_sessions(channel: Channel) -> Received:
    """The other end of `send_sessions`: everything up to its last message, or up to the end of that process."""
    found = Received()
    while (message := await channel.wait_for_message()) is not None:
        if not found.take(*message):
            found.tcp = bool(message[0].get("tcp"))
            return found
    found.over = True
    return found


def _session(said: Mapping[str, Any], fd: int) -> ExportedSession:
    place = _place(said["place"])
    return ExportedSession(fd, place, said["position"], said["pool"], said["backend"], said["about"])


def _quic_ids(said: Mapping[str, Any]) -> QuicIds:
    entries = base64.b64decode(said["entries"])
    return QuicIds(said["pool"], said["seed"], said["lengths"], entries, dict(said["backends"]))


def receive_inheritance(channel: Channel, timeout_s: float = 30.0) -> Inheritance:
    """The other end of `send_inheritance`. Blocks. OSError when that process is gone, ValueError for a message that is
    none of ours."""
    found = Inheritance(channel=channel)
    while True:
        message, fds = channel.receive(timeout_s)
        if message["kind"] == "kernel" and found.kernel is None:
            found.kernel = _receive_kernel(channel, message, timeout_s)
            continue
        _take(found, message, fds)
        if message["kind"] == "start":
            return found


def _receive_kernel(channel: Channel, message: Message, timeout_s: float) -> ExportedKernel:
    """OSError, KeyError, TypeError, ValueError; then no descriptor stays open."""
    about, fds = channel.receive_bulk(message["bytes"], message["fds"], timeout_s)
    try:
        return ExportedKernel(fds.tolist(), parsed(about))
    except ConnectionError:
        close_all(fds)
        raise


def _host(said: Sequence[Any]) -> Host:
    family, host = said
    return int(family), str(host)


def _take(found: Inheritance, message: Message, fds: list[int]) -> None:
    match message["kind"]:
        case "sockets":
            found.sockets.append(ExportedSockets(_place(message["place"]), fds, message["about"]))
        case "admin":
            found.admin = AdminSocket.imported(fds, message["about"])
        case "start":
            found.epoch, found.tcp_format = int(message.get("epoch", 0)) + 1, int(message.get("tcp_format", 0))
            found.fleet = Before(int(message.get("fleet_lease", 0)), bool(message.get("fleet_draining", 0)))
            found.overlay = restored(message["overlay"])
            found.drained = restored_drained(message.get("drained", {}))
            found.bans = bans.restored(message.get("bans", []))
            found.discovered = restored_discovered(message.get("discovered", {}))
            found.health = message["health"]
            names, places = message.get("names", {}), message.get("places", {})
            found.names = {name: [_host(host) for host in hosts] for name, hosts in names.items()}
            found.places = {pool: {id_: _host(at) for id_, at in one.items()} for pool, one in places.items()}
        case kind:
            raise ValueError(f'a process of another version? It says "{kind}"')
