"""What the forwarder keeps of a pool and of a listener: what is published of it, and the native objects that outlive
snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from l4lb._native import routes, snapshots, specs
from l4lb.engine.fields import route_fields
from l4lb.model.snapshot import BackendSpec, ListenerSpec, PoolSpec, RouteSpec
from l4lb.model.states import Protocol

Routed = tuple[tuple[RouteSpec, ...], tuple[int, ...]] | tuple[()]


@dataclass(slots=True)
class OwnedPool:
    """`spec` is the published one, and `native` what workers have of it; `fields` are those of its backends by id, with
    what they were made of."""

    name: str
    live: snapshots.PoolLive
    backends: dict[str, snapshots.BackendLive] = field(default_factory=dict)
    fields: dict[str, tuple[BackendSpec, specs.Backend]] = field(default_factory=dict)
    spec: PoolSpec | None = None
    native: snapshots.NativePool | None = None


@dataclass(slots=True)
class OwnedListener:
    """`pool` is what workers have of its pool; None: it comes from another process, and accepts nobody here. `held`: of
    UDP, and drained or suspended: as it was when it had sockets, which its sessions still need."""

    id: int
    live: snapshots.ListenerLive
    spec: ListenerSpec
    pool: snapshots.NativePool | None
    addresses: tuple[str, ...] = ()
    held: ListenerSpec | None = None
    routes: routes.Routes | None = None
    routed: Routed = ()

    def hold(self, spec: ListenerSpec) -> None:
        """Before it becomes `spec`."""
        if spec.protocol is not Protocol.UDP or (spec.bind and not spec.suspended):
            self.held = None
        elif self.held is None and self.spec.bind and not self.spec.suspended:
            self.held = self.spec

    def route(self, specs: tuple[RouteSpec, ...], slots: Mapping[str, int]) -> None:
        """Take these routes, to pools in those slots; made anew only when they differ from those that it has."""
        targets = tuple(slots[pool] for route in specs for pool, _ in route.targets)
        if self.routed != (specs, targets):
            self.routes = routes.Routes([route_fields(one, slots) for one in specs]) if specs else None
            self.routed = (specs, targets)

    @property
    def served(self) -> ListenerSpec:
        return self.held or self.spec
