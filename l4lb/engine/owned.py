"""What the forwarder keeps of a pool and of a listener: what is published of it, and the native objects that outlive
snapshots."""

from __future__ import annotations

from dataclasses import dataclass, field

from l4lb._native import snapshots
from l4lb.model.snapshot import ListenerSpec, PoolSpec


@dataclass(slots=True)
class OwnedPool:
    """`spec` is the published one, and `native` what workers have of it."""

    name: str
    live: snapshots.PoolLive
    backends: dict[str, snapshots.BackendLive] = field(default_factory=dict)
    spec: PoolSpec | None = None
    native: snapshots.NativePool | None = None


@dataclass(slots=True)
class OwnedListener:
    """`pool` is what workers have of its pool. `held`: of UDP, and drained: as it was when it had sockets, which its
    sessions still need."""

    id: int
    live: snapshots.ListenerLive
    spec: ListenerSpec
    pool: snapshots.NativePool
    addresses: tuple[str, ...] = ()
    held: ListenerSpec | None = None

    @property
    def served(self) -> ListenerSpec:
        return self.held or self.spec
