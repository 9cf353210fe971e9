"""The desired and observed state of every pool and backend. Owned by the control loop's thread.

`pools`, `listeners` and a pool's `backends` are replaced, not changed, so that other threads may iterate over them.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from l4lb.config import Backend, Config, Listener, Pool
from l4lb.control.state.fleet import WHOLE, FleetState, Share
from l4lb.control.state.hooked import Hook
from l4lb.errors import ConfigError, Problem
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import InheritedSocket
from l4lb.model.states import AdminState, Health, ProcessState
from l4lb.net.address import name_of, parse_address, resolve_backend, resolve_listener

HISTORY_LENGTH = 20
NOT_YET = "it has not been looked up yet"
NOT_USABLE_YET = "no usable backend is known yet"
NO_ANSWER_YET = "it has not answered yet"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One health check. `step` is where it ended, `reason` why it failed; `at` is seconds since 1970."""

    ok: bool
    step: str
    reason: str = ""
    latency_s: float = 0.0
    at: float = field(default_factory=time.time)


@dataclass(slots=True)
class Ejection:
    """A backend's last ejection. `number`: how many in a row; `until`: when it ends or ended, in monotonic time;
    `passed`: checks passed in a row since it began."""

    number: int
    until: float
    passed: int = 0


@dataclass(frozen=True, slots=True)
class AgentState:
    """What a backend's agent reported. `max_sessions` None: nothing."""

    percent: int = 100
    health: Health = Health.UNKNOWN
    admin_state: AdminState = AdminState.READY
    max_sessions: int | None = None
    remark: str = ""


@dataclass(slots=True)
class BackendState:
    """`position` is its place in the configuration; `since` is when `health` last changed; `history` holds (at, health)
    and `checks` the results, the newest last; `returned_at` is when it last came back, in seconds of the monotonic
    clock."""

    config: Backend
    address: SocketAddress
    admin_state: AdminState
    health: Health
    position: int = 0
    since: float = field(default_factory=time.time)
    last_check: CheckResult | None = None
    history: deque[tuple[float, Health]] = field(default_factory=lambda: deque(maxlen=HISTORY_LENGTH))
    checks: deque[CheckResult] = field(default_factory=lambda: deque(maxlen=HISTORY_LENGTH))
    checks_passed: int = 0
    checks_failed: int = 0
    returned_at: float | None = None
    ejected: bool = False
    ejection: Ejection | None = None
    agent: AgentState = AgentState()
    effective_weight: float = 0.0  # in the published snapshot: a part of the configured one during slow_start
    name: str = ""  # the name in its configured address, if that is not numeric
    unresolved: str = ""  # why its name has no address; `address` is a placeholder then
    verdict: Health | None = None  # what most nodes of the fleet say; None: its own health counts

    @property
    def id(self) -> str:
        return self.config.key

    @property
    def observed(self) -> Health:
        """Its health for routing: down if the agent says so, whatever the checks see, here or on other nodes."""
        return Health.DOWN if self.agent.health is Health.DOWN else self.verdict or self.health

    @property
    def overruled(self) -> bool:
        """Whether other nodes see something else than this one's checks."""
        return self.verdict is not None and self.verdict is not self.health

    @property
    def wanted(self) -> AdminState:
        """The operator's admin state or, while that is ready, the agent's."""
        return self.admin_state if self.admin_state is not AdminState.READY else self.agent.admin_state

    @property
    def max_sessions(self) -> int:
        return self.config.max_sessions if self.agent.max_sessions is None else self.agent.max_sessions

    def set_verdict(self, verdict: Health | None) -> None:
        before, self.verdict = self.observed, verdict
        if (before, self.observed) == (Health.DOWN, Health.UP):
            self.returned_at = time.monotonic()

    def set_health(self, health: Health) -> None:
        if (self.health, health) == (Health.DOWN, Health.UP):
            self.returned_at = time.monotonic()
        self.health = health
        self.since = time.time()
        self.history.append((self.since, health))


@dataclass(slots=True)
class DiscoveryState:
    """What is known of a pool's source: `answered_at`, in seconds since 1970, is when it last answered; `error` why it
    did not since, or cannot be used; `found` how many backends it named last, and `held` how many stay although it no
    longer names them. `changes` counts what was applied."""

    type: str
    error: str = NO_ANSWER_YET
    answered_at: float | None = None
    found: int = 0
    held: int = 0
    answers: int = 0
    failures: int = 0
    changes: int = 0


@dataclass(slots=True)
class PoolState:
    name: str
    config: Pool
    source: SocketAddress | None
    backends: dict[str, BackendState]  # by id, sorted: every node builds the same tables
    table_digest: str = ""
    policy_error: str = ""  # why its policy failed; the pool uses round robin meanwhile
    usable: tuple[str, ...] = ()
    passed_over: dict[str, str] = field(default_factory=dict)  # by id: why it is not usable
    standby: dict[str, str] = field(default_factory=dict)  # by id: why a usable one is asked after others
    discovery: DiscoveryState | None = None


@dataclass(frozen=True, slots=True)
class ListenerState:
    name: str
    config: Listener
    bind: tuple[SocketAddress | InheritedSocket, ...]


@dataclass(slots=True)
class State:
    config: Config
    pools: dict[str, PoolState]
    listeners: dict[str, ListenerState]
    drained: frozenset[str] = frozenset()  # listeners that the operator drained
    refusing: Mapping[str, str] = field(default_factory=dict)  # listeners without a usable backend that refuse, and why
    bans: int = 0  # how many there are
    banned: Mapping[str, bytes] = field(default_factory=dict)  # the clients whom they refuse, see `Bans.ranges`
    hooks: tuple[Hook, ...] = ()  # those for single listeners first
    process: ProcessState = ProcessState.STARTING
    started_at: float = field(default_factory=time.monotonic)
    fleet: FleetState | None = None

    @property
    def refusing_now(self) -> dict[str, str]:
        """Those of `refusing` that are not drained."""
        return {name: why for name, why in self.refusing.items() if name in self.listeners.keys() - self.drained}

    @property
    def share(self) -> Share:
        """This process's part of the limits."""
        divided = self.fleet is not None and self.config.fleet.limits == "divided"
        return self.fleet.share if divided and self.fleet is not None else WHOLE

    def is_in_kernel(self, pool: str) -> bool:
        """Whether the kernel forwards for a listener of that pool: its backends' sessions cannot be bounded then."""
        return any(one.config.engine == "kernel" and one.config.pool == pool for one in self.listeners.values())


def first_health(config: Pool) -> Health:
    """The health of a new backend."""
    return Health.UP if config.health.type == "none" else config.health.initial


class Location(NamedTuple):
    """A backend's address; `unresolved`: why it has none."""

    address: SocketAddress
    unresolved: str = ""


# A backend without an address is passed over and never connected to; connect(2) to this one would fail: ENETUNREACH.
_NOWHERE = SocketAddress(socket.AF_INET, "255.255.255.255", 1)


def located_at(address: str, host: tuple[int, str]) -> Location:
    """`address`, given by name, at one of the name's hosts."""
    return Location(SocketAddress(*host, parse_address(address).ports[0]))


def unresolved_at(address: str, error: str) -> Location:
    return Location(_NOWHERE, f"name {name_of(address)} does not resolve: {error}")


def location_of(address: str) -> Location:
    """The location for that configured address before any name is looked up."""
    if name_of(address):
        return unresolved_at(address, NOT_YET)
    return Location(resolve_backend(parse_address(address)))


def new_backend(config: Backend, place: Location, health: Health, position: int) -> BackendState:
    """`health` is its initial health; without an address it is down."""
    health = Health.DOWN if place.unresolved else health
    state = BackendState(config, place.address, config.admin_state, health, position)
    state.name, state.unresolved = name_of(config.address), place.unresolved
    state.history.append((state.since, health))
    return state


def source_of(config: Pool) -> SocketAddress | None:
    """The pool's source address, if configured."""
    ip = "" if config.source_address == "client" else config.source_address
    return resolve_backend(parse_address(f"[{ip}]:0" if ":" in ip else f"{ip}:0")) if ip else None


def _pool(name: str, config: Pool) -> PoolState:
    health = first_health(config)
    states = [
        new_backend(backend, location_of(backend.address), health, position)
        for position, backend in enumerate(config.backends)
    ]
    backends = {state.id: state for state in sorted(states, key=lambda state: state.id)}
    return PoolState(name, config, source_of(config), backends)


def bind_of(config: Listener) -> tuple[SocketAddress | InheritedSocket, ...]:
    """The addresses to listen on, looked up. ValueError for a name without an address."""
    return tuple(address for text in config.bind for address in resolve_listener(parse_address(text)))


def initial_state(config: Config) -> State:
    """The state at the start. Looks up the names of listeners only; one ConfigError for all that do not resolve.
    Backends given by name have no address yet."""
    problems: list[Problem] = []
    pools: dict[str, PoolState] = {}
    listeners: dict[str, ListenerState] = {}
    for name, pool in config.pools.items():
        pools[name] = _pool(name, pool)
    for name, listener in config.listeners.items():
        try:
            listeners[name] = ListenerState(name, listener, bind_of(listener))
        except ValueError as error:
            problems.append(config.problem(("listeners", name, "bind"), str(error)))
    if problems:
        raise ConfigError(problems)
    refusing = {name: NOT_USABLE_YET for name, one in config.listeners.items() if one.when_no_backend == "refuse"}
    return State(config, pools, listeners, refusing=refusing)
