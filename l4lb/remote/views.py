"""Pools, backends, listeners and bans of another process, as a `Client` shows and changes them: the same methods as in
`views.py`, over the admin API. Every value is requested when it is read.

Each method has an awaitable twin whose name begins with ``a``. All raise `l4lb.errors.AdminError`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import quote, urlencode

from l4lb.errors import AdminError
from l4lb.model.hints import unknown_name
from l4lb.model.states import AdminState, Health
from l4lb.model.stats import BackendStats, PoolStats
from l4lb.remote import answers

if TYPE_CHECKING:  # only names of types: they are made with pydantic, which takes long to import
    from l4lb.control.reporting import part_shapes, shapes

DRAIN_TIMEOUT_S = 30.0
_POLL_S = 0.1
_WAITS_LONGER_S = 30.0  # than the time that the other side announces


class Asking(Protocol):
    """What the classes below need from a client."""

    def ask(self, method: str, path: str, body: object = None, timeout: float | None = None) -> Any: ...
    def explain(self, pool: str, source: str, to: str = "") -> shapes.Explanation: ...


def quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogateescape")  # an argument may be any bytes


class RemoteBackend:
    """One backend of another process, by its id."""

    def __init__(self, client: Asking, pool: str, id_: str) -> None:
        self._client = client
        self._pool = pool
        self.id = id_

    def __repr__(self) -> str:
        return f"<backend {self.id} of pool {self._pool}>"

    @property
    def status(self) -> shapes.Backend:
        """What the admin API says of it now. AdminError when it is not there any more."""
        found: list[shapes.Backend] = self._client.ask("GET", f"/v1/pools/{quoted(self._pool)}/backends")
        for one in found:
            if one["id"] == self.id:
                return one
        raise AdminError(f'no backend "{self.id}" in pool "{self._pool}"', code="not_found", status=404)

    async def astatus(self) -> shapes.Backend:
        """See `status`."""
        return await asyncio.to_thread(lambda: self.status)

    @property
    def address(self) -> str:
        """``host:port`` or ``unix:/path``."""
        return str(self.status["address"])

    @property
    def weight(self) -> int:
        """Its share of new sessions; 0: none."""
        return int(self.status["weight"])

    @property
    def max_sessions(self) -> int:
        """0: no limit."""
        return int(self.status["max_sessions"])

    @property
    def health(self) -> Health:
        """What its checks found: unknown, up or down."""
        return Health(self.status["health"])

    @property
    def admin_state(self) -> AdminState:
        """What the operator wants: ready, drain or maint."""
        return AdminState(self.status["admin_state"])

    @property
    def stats(self) -> BackendStats:
        """Its counters, read now."""
        return answers.backend_stats(self.status)

    async def astats(self) -> BackendStats:
        """See `stats`."""
        return await asyncio.to_thread(lambda: self.stats)

    @property
    def latency(self) -> part_shapes.BackendLatency | None:
        """How long it took to accept a connect, to its first byte, and until sessions ended, in the latest minute or
        so; None when only the kernel has sent it clients."""
        return self.status["latency"]

    async def alatency(self) -> part_shapes.BackendLatency | None:
        """See `latency`."""
        return await asyncio.to_thread(lambda: self.latency)

    # ---- changes ----

    def set(self, **settings: Any) -> None:
        """Set any of its configuration keys in one change: ``set(weight=2, tags={"rack": "4"})``."""
        self._client.ask("PUT", f"/v1/pools/{quoted(self._pool)}/backends/{quoted(self.id)}", settings)

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
        self.set(admin_state=AdminState.DRAIN)
        deadline = time.monotonic() + (timeout if wait else 0.0)
        while self.status["sessions_active"] > 0:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    async def aset(self, **settings: Any) -> None:
        """See `set`."""
        await asyncio.to_thread(self.set, **settings)

    async def aset_weight(self, weight: int) -> None:
        """See `set_weight`."""
        await asyncio.to_thread(self.set_weight, weight)

    async def aset_max_sessions(self, max_sessions: int) -> None:
        """See `set_max_sessions`."""
        await asyncio.to_thread(self.set_max_sessions, max_sessions)

    async def aready(self) -> None:
        """See `ready`."""
        await asyncio.to_thread(self.ready)

    async def amaint(self) -> None:
        """See `maint`."""
        await asyncio.to_thread(self.maint)

    async def adrain(self, wait: bool = False, timeout: float = DRAIN_TIMEOUT_S) -> bool:
        """See `drain`."""
        return await asyncio.to_thread(self.drain, wait, timeout)


class RemotePool(Mapping[str, RemoteBackend]):
    """One pool of another process: a mapping of its backends by id (the address by default)."""

    def __init__(self, client: Asking, name: str) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        return f"<pool {self.name}>"

    @property
    def status(self) -> shapes.Pool:
        """Its state now, with the latest checks of its backends."""
        found: shapes.Pool = self._client.ask("GET", f"/v1/pools/{quoted(self.name)}")
        return found

    async def astatus(self) -> shapes.Pool:
        """See `status`."""
        return await asyncio.to_thread(lambda: self.status)

    def __getitem__(self, backend: str) -> RemoteBackend:
        names = list(self)
        if backend not in names:
            raise unknown_name("backend", backend, names, f'in pool "{self.name}"')
        return RemoteBackend(self._client, self.name, backend)

    def __iter__(self) -> Iterator[str]:
        return iter([one["id"] for one in self.status["backends"]])

    async def __aiter__(self) -> AsyncIterator[str]:
        for backend in (await self.astatus())["backends"]:
            yield backend["id"]

    def __len__(self) -> int:
        return len(list(iter(self)))

    def find(self, backend: str) -> RemoteBackend:
        """Find a backend by id or, if only one has it, by address. AdminError when there is none, or several."""
        there = self.status["backends"]
        found = [one["id"] for one in there if one["id"] == backend]
        found = found or [one["id"] for one in there if one["address"] == backend]
        if len(found) > 1:
            message = f'several backends have the address "{backend}": expected one of {", ".join(found)}'
            raise AdminError(message, code="conflict", status=409)
        if not found:
            raise AdminError(f'no backend "{backend}" in pool "{self.name}"', code="not_found", status=404)
        return RemoteBackend(self._client, self.name, found[0])

    @property
    def table_digest(self) -> str:
        """Digest of the table: equal on every node with equal input."""
        return str(self.status["table_digest"])

    @property
    def stats(self) -> PoolStats:
        """Its counters, read now."""
        return answers.pool_stats(self.status)

    async def astats(self) -> PoolStats:
        """See `stats`."""
        return await asyncio.to_thread(lambda: self.stats)

    def explain(self, source: str, to: str = "") -> shapes.Explanation:
        """See `Client.explain`."""
        return self._client.explain(self.name, source, to)

    async def aexplain(self, source: str, to: str = "") -> shapes.Explanation:
        """See `explain`."""
        return await asyncio.to_thread(self.explain, source, to)

    # ---- changes ----

    def add(self, address: str, **settings: Any) -> RemoteBackend:
        """Add a backend with any of its configuration keys; an existing backend gets those keys."""
        said = self._client.ask("PUT", f"/v1/pools/{quoted(self.name)}/backends/{quoted(address)}", settings)
        return RemoteBackend(self._client, self.name, said["id"])

    def remove(self, backend: str, drain: float | None = None) -> None:
        """Take a backend, by id or address, out of the pool: it gets no new session.

        Its sessions may go on for `drain` seconds; None: as on_backend_removed says.
        """
        query = "" if drain is None else f"?drain={drain:g}"
        self._client.ask("DELETE", f"/v1/pools/{quoted(self.name)}/backends/{quoted(backend)}{query}")

    async def aadd(self, address: str, **settings: Any) -> RemoteBackend:
        """See `add`."""
        return await asyncio.to_thread(self.add, address, **settings)

    async def aremove(self, backend: str, drain: float | None = None) -> None:
        """See `remove`."""
        await asyncio.to_thread(self.remove, backend, drain)


class RemoteListener:
    """One listener of another process."""

    def __init__(self, client: Asking, name: str) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        return f"<listener {self.name}>"

    @property
    def status(self) -> shapes.Listener:
        """What the admin API says of it now. AdminError when it is not there any more."""
        found: list[shapes.Listener] = self._client.ask("GET", "/v1/listeners")
        for one in found:
            if one["name"] == self.name:
                return one
        raise AdminError(f'no listener "{self.name}"', code="not_found", status=404)

    @property
    def addresses(self) -> list[str]:
        """The addresses on which it listens, with real port numbers. Empty once it drains."""
        return list(self.status["addresses"])

    async def astatus(self) -> shapes.Listener:
        """See `status`."""
        return await asyncio.to_thread(lambda: self.status)

    async def aaddresses(self) -> list[str]:
        """See `addresses`."""
        return await asyncio.to_thread(lambda: self.addresses)

    def explain(
        self, source: str, to: str = "", *, sni: str | None = None, alpn: Sequence[str] = (), first: str = ""
    ) -> shapes.ListenerExplanation:
        """See `ListenerView.explain`."""
        given = {"source": source, "to": to, "alpn": ",".join(alpn), "first": first}
        query = {key: value for key, value in given.items() if value} | ({} if sni is None else {"sni": sni})
        path = f"/v1/listeners/{quoted(self.name)}/explain?{urlencode(query)}"
        return cast("shapes.ListenerExplanation", self._client.ask("GET", path))

    async def aexplain(
        self, source: str, to: str = "", *, sni: str | None = None, alpn: Sequence[str] = (), first: str = ""
    ) -> shapes.ListenerExplanation:
        """See `explain`."""
        return await asyncio.to_thread(lambda: self.explain(source, to, sni=sni, alpn=alpn, first=first))

    # ---- changes ----

    def drain(self, wait: bool = False, timeout: float = DRAIN_TIMEOUT_S) -> bool:
        """Stop accepting, let its sessions go on for `timeout` seconds, then reset the remaining ones.

        With `wait`, return when that is over. Returns True when no session is left and none was reset.
        """
        return drained(drain(self._client, wait, timeout, self.name))

    def resume(self) -> None:
        """Accept again."""
        self._client.ask("DELETE", f"/v1/drain?listener={quoted(self.name)}")

    async def adrain(self, wait: bool = False, timeout: float = DRAIN_TIMEOUT_S) -> bool:
        """See `drain`."""
        return await asyncio.to_thread(self.drain, wait, timeout)

    async def aresume(self) -> None:
        """See `resume`."""
        await asyncio.to_thread(self.resume)


class RemoteBans:
    """Who is kept out of another process at runtime."""

    def __init__(self, client: Asking) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<bans of {self._client!r}>"

    def list(self, source: str = "", listener: str = "") -> list[shapes.Ban]:
        """The bans that hold; with `source`, an address or a network, those that concern it, with `listener` those that
        it carries out."""
        query = _query(source=source, listener=listener)
        found: list[shapes.Ban] = self._client.ask("GET", f"/v1/bans{query}")
        return found

    # ---- changes ----

    def add(self, cidr: str, *, for_s: float | None = None, listener: str = "", reason: str = "") -> shapes.Banned:
        """Keep clients from `cidr`, an address or a network, out for `for_s` seconds, and end their sessions.

        Without `for_s`, until the ban is removed. `listener`: at this one alone. A ban of the same `cidr` and
        `listener` is replaced.
        """
        asked: dict[str, Any] = {"listener": listener, "reason": reason}
        if for_s is not None:
            asked["for"] = for_s
        said: shapes.Banned = self._client.ask("PUT", f"/v1/bans/{quoted(cidr)}", asked)
        return said

    def remove(self, cidr: str, *, listener: str = "") -> shapes.Ban:
        """Let clients in again. Returns what the ban was."""
        said: shapes.Ban = self._client.ask("DELETE", f"/v1/bans/{quoted(cidr)}{_query(listener=listener)}")
        return said

    async def alist(self, source: str = "", listener: str = "") -> Sequence[shapes.Ban]:
        """See `list`."""
        return await asyncio.to_thread(self.list, source, listener)

    async def aadd(
        self, cidr: str, *, for_s: float | None = None, listener: str = "", reason: str = ""
    ) -> shapes.Banned:
        """See `add`."""
        return await asyncio.to_thread(lambda: self.add(cidr, for_s=for_s, listener=listener, reason=reason))

    async def aremove(self, cidr: str, *, listener: str = "") -> shapes.Ban:
        """See `remove`."""
        return await asyncio.to_thread(lambda: self.remove(cidr, listener=listener))


def _query(**given: str) -> str:
    found = "&".join(f"{name}={quoted(text)}" for name, text in given.items() if text)
    return f"?{found}" if found else ""


def drain(client: Asking, wait: bool, timeout: float | None, listener: str = "") -> shapes.Drain:
    """Drain the whole process, or one listener. Returns its progress, with `wait` at its end."""
    asked: dict[str, Any] = {"wait": wait, **({"listener": listener} if listener else {})}
    if timeout is not None:
        asked["timeout"] = timeout
    elif wait:
        timeout = client.ask("GET", "/v1/config")["global"]["drain_timeout"]
    patience = timeout + _WAITS_LONGER_S if wait and timeout is not None else None
    said: shapes.Drain = client.ask("POST", "/v1/drain", asked, patience)
    return said


def drained(said: shapes.Drain) -> bool:
    """No session is left, and none was cut."""
    return bool(said["sessions_active"] == 0 and said["sessions_cut"] == 0)
