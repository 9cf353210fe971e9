"""Pools, backends, listeners and bans of a running `LoadBalancer`, to read and to change.

Single fields are read on the caller's thread, everything else runs on the control loop. A view of something that was
removed keeps its last values. Methods that change something return when workers use the change; each has an awaitable
twin whose name begins with ``a``. They raise `l4lb.errors.ChangeError` when that is impossible; nothing has changed
then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from l4lb.control.plane import ControlPlane
from l4lb.control.reporting import part_shapes, shapes
from l4lb.control.reporting.explanation import facts_of
from l4lb.control.state.state import BackendState, ListenerState, PoolState
from l4lb.model.hints import unknown_name
from l4lb.model.states import AdminState, Health
from l4lb.model.stats import BackendStats, PoolStats, Stats
from l4lb.routing.routes import Facts

T = TypeVar("T")
DRAIN_TIMEOUT_S = 30.0


class Running(Protocol):
    """What views need from a load balancer."""

    @property
    def plane(self) -> ControlPlane: ...
    def run(self, coroutine: Coroutine[Any, Any, T]) -> T: ...
    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T: ...
    def stats(self) -> Stats: ...
    async def astats(self) -> Stats: ...
    def explain(self, pool: str, source: str, to: str = "") -> shapes.Explanation: ...
    async def aexplain(self, pool: str, source: str, to: str = "") -> shapes.Explanation: ...


class BackendView:
    """One backend of a running `LoadBalancer`."""

    def __init__(self, balancer: Running, pool: str, state: BackendState) -> None:
        self._balancer = balancer
        self._pool = pool
        self._state = state

    def __repr__(self) -> str:
        states = f"{self.health.value}, {self.admin_state.value}, weight {self.weight}"
        return f"<backend {self.id} of pool {self._pool}: {states}>"

    @property
    def id(self) -> str:
        """What it is called by: its address, unless the configuration gives it an id."""
        return self._state.id

    @property
    def address(self) -> str:
        """``host:port`` or ``unix:/path``."""
        return self._state.config.address

    @property
    def weight(self) -> int:
        """Its share of new sessions; 0: none."""
        return self._state.config.weight

    @property
    def max_sessions(self) -> int:
        """0: no limit."""
        return self._state.config.max_sessions

    @property
    def health(self) -> Health:
        """What its checks found: unknown, up or down."""
        return self._state.health

    @property
    def admin_state(self) -> AdminState:
        """What the operator wants: ready, drain or maint."""
        return self._state.admin_state

    @property
    def stats(self) -> BackendStats:
        """Its counters, read now. Raises `l4lb.errors.UnknownNameError` when it was removed."""
        return self._of(self._balancer.stats())

    async def astats(self) -> BackendStats:
        """See `stats`."""
        return self._of(await self._balancer.astats())

    @property
    def latency(self) -> part_shapes.BackendLatency | None:
        """How long it took to accept a connect, to its first byte, and until sessions ended, in the latest minute or
        so, in the admin API's format; None when only the kernel has sent it clients."""
        return self._balancer.run(self._latency())

    async def alatency(self) -> part_shapes.BackendLatency | None:
        """See `latency`."""
        return await self._balancer.arun(self._latency())

    async def _latency(self) -> part_shapes.BackendLatency | None:
        pool = self._balancer.plane.status.pool(self._pool)
        backends = {} if pool is None else {one["id"]: one for one in pool["backends"]}
        if self.id not in backends:
            raise unknown_name("backend", self.id, backends, f'in pool "{self._pool}"')
        return backends[self.id]["latency"]

    def _of(self, stats: Stats) -> BackendStats:
        backends = _pool_of(stats, self._pool).backends
        if self.id not in backends:
            raise unknown_name("backend", self.id, backends, f'in pool "{self._pool}"')
        return backends[self.id]

    # ---- changes ----

    def set(self, **settings: Any) -> None:
        """Set any of its configuration keys in one change: ``set(weight=2, tags={"rack": "4"})``."""
        self._balancer.run(self._set(settings))

    def set_weight(self, weight: int) -> None:
        """0: no new session."""
        self.set(weight=weight)

    def set_max_sessions(self, max_sessions: int) -> None:
        """0: no limit. Sessions above a lower limit go on."""
        self.set(max_sessions=max_sessions)

    def ready(self) -> None:
        """Let it have new sessions again."""
        self.set(admin_state=AdminState.READY)

    def maint(self) -> None:
        """Give it no new session, whatever its health; its sessions go on."""
        self.set(admin_state=AdminState.MAINT)

    def drain(self, wait: bool = False, timeout: float = DRAIN_TIMEOUT_S) -> bool:
        """Give it no new session. With `wait`, return when it has no session left, or after `timeout` seconds.

        Returns True when none is left; remaining sessions go on.
        """
        return self._balancer.run(self._drain(timeout if wait else 0.0))

    async def aset(self, **settings: Any) -> None:
        """See `set`."""
        await self._balancer.arun(self._set(settings))

    async def aset_weight(self, weight: int) -> None:
        """See `set_weight`."""
        await self.aset(weight=weight)

    async def aset_max_sessions(self, max_sessions: int) -> None:
        """See `set_max_sessions`."""
        await self.aset(max_sessions=max_sessions)

    async def aready(self) -> None:
        """See `ready`."""
        await self.aset(admin_state=AdminState.READY)

    async def amaint(self) -> None:
        """See `maint`."""
        await self.aset(admin_state=AdminState.MAINT)

    async def adrain(self, wait: bool = False, timeout: float = DRAIN_TIMEOUT_S) -> bool:
        """See `drain`."""
        return await self._balancer.arun(self._drain(timeout if wait else 0.0))

    async def _set(self, settings: dict[str, Any]) -> None:
        await self._balancer.plane.set_backend(self._pool, self.id, settings)

    async def _drain(self, timeout_s: float) -> bool:
        return await self._balancer.plane.drain_backend(self._pool, self.id, timeout_s)


class PoolView(Mapping[str, BackendView]):
    """One pool of a running `LoadBalancer`: a mapping of its backends by id (the address by default)."""

    def __init__(self, balancer: Running, state: PoolState) -> None:
        self._balancer = balancer
        self._state = state

    def __repr__(self) -> str:
        state = self._state
        usable = f"{len(state.usable)} of {len(state.backends)} backends usable"
        return f"<pool {state.name}: {state.config.policy}, {usable}>"

    def __getitem__(self, backend: str) -> BackendView:
        backends = self._state.backends
        if backend not in backends:
            raise unknown_name("backend", backend, backends, f'in pool "{self.name}"')
        return BackendView(self._balancer, self._state.name, backends[backend])

    def __iter__(self) -> Iterator[str]:
        return iter(self._state.backends)

    async def __aiter__(self) -> AsyncIterator[str]:
        for backend in self:
            yield backend

    def __len__(self) -> int:
        return len(self._state.backends)

    @property
    def name(self) -> str:
        """As in the configuration."""
        return self._state.name

    @property
    def table_digest(self) -> str:
        """Digest of the table: equal on every node with equal input."""
        return self._state.table_digest

    def explain(self, source: str, to: str = "") -> shapes.Explanation:
        """Which backend a client at `source` (address, or address:port) gets, and why, in the admin API's format.

        `to` is the address and port that it connects to, for a hash_key that needs it. Raises ValueError for an invalid
        address.
        """
        return self._balancer.explain(self.name, source, to)

    async def aexplain(self, source: str, to: str = "") -> shapes.Explanation:
        """See `explain`."""
        return await self._balancer.aexplain(self.name, source, to)

    @property
    def stats(self) -> PoolStats:
        """Its counters, read now. Raises `l4lb.errors.UnknownNameError` when it was removed."""
        return _pool_of(self._balancer.stats(), self.name)

    async def astats(self) -> PoolStats:
        """See `stats`."""
        return _pool_of(await self._balancer.astats(), self.name)

    # ---- changes ----

    def add(self, address: str, **settings: Any) -> BackendView:
        """Add a backend with any of its configuration keys; an existing backend gets those keys."""
        return self._balancer.run(self._add(address, settings))

    def remove(self, backend: str, drain: float | None = None) -> None:
        """Take a backend, by id or address, out of the pool: it gets no new session.

        Its sessions may go on for `drain` seconds; None: as on_backend_removed says.
        """
        self._balancer.run(self._remove(backend, drain))

    async def aadd(self, address: str, **settings: Any) -> BackendView:
        """See `add`."""
        return await self._balancer.arun(self._add(address, settings))

    async def aremove(self, backend: str, drain: float | None = None) -> None:
        """See `remove`."""
        await self._balancer.arun(self._remove(backend, drain))

    async def _add(self, address: str, settings: dict[str, Any]) -> BackendView:
        said, _ = await self._balancer.plane.put_backend(self.name, address, settings)
        return self[said["id"]]

    async def _remove(self, backend: str, drain_s: float | None) -> None:
        await self._balancer.plane.remove_backend(self.name, backend, drain_s)


def _pool_of(stats: Stats, name: str) -> PoolStats:
    if name not in stats.pools:
        raise unknown_name("pool", name, stats.pools)
    return stats.pools[name]


class ListenerView:
    """One listener of a running `LoadBalancer`."""

    def __init__(self, balancer: Running, state: ListenerState) -> None:
        self._balancer = balancer
        self._state = state

    def __repr__(self) -> str:
        config = self._state.config
        return f"<listener {self.name}: {config.protocol.value} {' '.join(config.bind)}, pool {config.pool}>"

    @property
    def name(self) -> str:
        """As in the configuration."""
        return self._state.name

    @property
    def addresses(self) -> list[str]:
        """The addresses on which it listens: port 0 is replaced by the kernel's choice. Empty once it drains."""
        return self._balancer.run(self._addresses())

    async def aaddresses(self) -> list[str]:
        """See `addresses`."""
        return await self._balancer.arun(self._addresses())

    async def _addresses(self) -> list[str]:
        return self._balancer.plane.addresses(self.name)

    def explain(
        self, source: str, to: str = "", *, sni: str | None = None, alpn: Sequence[str] = (), first: str = ""
    ) -> shapes.ListenerExplanation:
        """By which route a client goes, to which backend, and why.

        `source` and `to` as in `PoolView.explain`; `sni` is the server name in its ClientHello (None: it sends none),
        `alpn` are the protocols that it offers, `first` its first bytes as in `starts_with`. Raises ValueError for what
        is no address.
        """
        return self._balancer.run(self._explain(source, to, facts_of(source, sni, alpn, first)))

    async def aexplain(
        self, source: str, to: str = "", *, sni: str | None = None, alpn: Sequence[str] = (), first: str = ""
    ) -> shapes.ListenerExplanation:
        """See `explain`."""
        return await self._balancer.arun(self._explain(source, to, facts_of(source, sni, alpn, first)))

    async def _explain(self, source: str, to: str, facts: Facts) -> shapes.ListenerExplanation:
        return self._balancer.plane.status.explain_listener(self.name, facts, source, to)

    # ---- changes ----

    def drain(self, wait: bool = False, timeout: float = DRAIN_TIMEOUT_S) -> bool:
        """Stop accepting, let its sessions go on for `timeout` seconds, then reset the remaining ones.

        With `wait`, return when that is over. Returns True when no session is left and none was reset.
        """
        return self._balancer.run(self._drain(wait, timeout))

    def resume(self) -> None:
        """Accept again. Raises ChangeError when its addresses are no longer available, or it does not drain."""
        self._balancer.run(self._balancer.plane.draining.resume(self.name))

    async def adrain(self, wait: bool = False, timeout: float = DRAIN_TIMEOUT_S) -> bool:
        """See `drain`."""
        return await self._balancer.arun(self._drain(wait, timeout))

    async def aresume(self) -> None:
        """See `resume`."""
        await self._balancer.arun(self._balancer.plane.draining.resume(self.name))

    async def _drain(self, wait: bool, timeout_s: float) -> bool:
        draining = self._balancer.plane.draining
        await draining.begin_listener(self.name, timeout_s)
        if wait:
            return await draining.wait_listener(self.name) == 0
        return draining.progress(self.name)["sessions_active"] == 0


class BansView:
    """Who is kept out of a running `LoadBalancer` at runtime."""

    def __init__(self, balancer: Running) -> None:
        self._balancer = balancer

    def __repr__(self) -> str:
        return f"<bans of {self._balancer!r}>"

    def list(self, source: str = "", listener: str = "") -> list[shapes.Ban]:
        """The bans that hold; with `source`, an address or a network, those that concern it, with `listener` those that
        it carries out."""
        return self._balancer.run(self._balancer.plane.banning.list(source, listener))

    # ---- changes ----

    def add(self, cidr: str, *, for_s: float | None = None, listener: str = "", reason: str = "") -> shapes.Banned:
        """Keep clients from `cidr`, an address or a network, out for `for_s` seconds, and end their sessions.

        Without `for_s`, until the ban is removed. `listener`: at this one alone. A ban of the same `cidr` and
        `listener` is replaced.
        """
        return self._balancer.run(self._add(cidr, listener, for_s, reason))

    def remove(self, cidr: str, *, listener: str = "") -> shapes.Ban:
        """Let clients in again. Returns what the ban was."""
        return self._balancer.run(self._balancer.plane.banning.remove(cidr, listener))

    async def alist(self, source: str = "", listener: str = "") -> Sequence[shapes.Ban]:
        """See `list`."""
        return await self._balancer.arun(self._balancer.plane.banning.list(source, listener))

    async def aadd(
        self, cidr: str, *, for_s: float | None = None, listener: str = "", reason: str = ""
    ) -> shapes.Banned:
        """See `add`."""
        return await self._balancer.arun(self._add(cidr, listener, for_s, reason))

    async def aremove(self, cidr: str, *, listener: str = "") -> shapes.Ban:
        """See `remove`."""
        return await self._balancer.arun(self._balancer.plane.banning.remove(cidr, listener))

    async def _add(self, cidr: str, listener: str, for_s: float | None, reason: str) -> shapes.Banned:
        return (await self._balancer.plane.banning.add(cidr, listener, for_s, reason))[0]
