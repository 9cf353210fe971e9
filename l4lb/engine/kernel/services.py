"""Listeners as the programs read them: a service for each address, and what the answers of its backends become; and
what that takes of tables and places."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from l4lb.engine.kernel import layout
from l4lb.engine.kernel.backends import Backends, Placed
from l4lb.engine.kernel.generation import Generation
from l4lb.engine.kernel.layout import Counts, Mode
from l4lb.engine.kernel.listeners import KernelListener, Plan
from l4lb.engine.kernel.slots import Table
from l4lb.engine.kernel.sources import Sources
from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import HashKey, ListenerSpec, PoolSpec, Selection

_MODES = {"nat": Mode.NAT, "dsr": Mode.DSR, "tunnel": Mode.TUNNEL}


class Planner:
    """What listeners are to be. `counted`: what has been counted at a backend's place. Control thread only."""

    def __init__(self, backends: Backends, sources: Sources, counted: Callable[[int], Counts]) -> None:
        self._backends = backends
        self._sources = sources
        self._counted = counted

    def plan(self, listener: KernelListener, spec: ListenerSpec, pool: PoolSpec, generation: Generation) -> Plan:
        """MemoryError when there is no room for it; then it has taken nothing."""
        protocol, placed = layout.PROTOCOLS[spec.protocol], list[Placed]()
        source = self._sources.number(spec.kernel.source) if spec.kernel is not None and spec.kernel.source else 0
        try:
            for one in pool.backends:
                placed.append(self._backends.take(pool.name, one, protocol, self._counted))
            if spec.kernel is not None and spec.kernel.mode == "tunnel":
                self._backends.find_sources(placed)
            table = generation.slots.take(pool, protocol, tuple(placed[index].index for index in pool.usable))
        except BaseException:
            for taken in placed:
                self._backends.drop(taken)
            raise
        hosts = [address for address in spec.bind if isinstance(address, SocketAddress)]
        keys = [layout.endpoint(one.host, one.port, protocol) for one in hosts]
        services = {key: service_of(listener, spec, pool, table, key, source) for key in keys}
        by_nat = spec.kernel is not None and spec.kernel.mode == "nat" and not source
        answers = answers_of(keys, placed, listener.number) if by_nat else {}
        return Plan(spec, pool, generation, table, placed, services, answers)

    def drop(self, plan: Plan) -> None:
        plan.generation.slots.drop(plan.table)
        for placed in plan.placed:
            self._backends.drop(placed)


def expect_room(plans: Sequence[tuple[KernelListener, Plan]], generation: Generation) -> None:
    """MemoryError when the maps of services and answers do not take these too."""
    services = {key for _, plan in plans for key in plan.services} - generation.services.keys()
    answers = {key for _, plan in plans for key in plan.answers} - generation.answers.keys()
    if len(generation.services) + len(services) > layout.SERVICES_MAX:
        raise MemoryError(f"more than {layout.SERVICES_MAX} addresses of listeners")
    if len(generation.answers) + len(answers) > layout.BACKENDS_MAX:
        raise MemoryError(f"more than {layout.BACKENDS_MAX} backends of listeners by nat")


def service_of(
    listener: KernelListener, spec: ListenerSpec, pool: PoolSpec, table: Table, key: bytes, source: int
) -> bytes:
    """`key`: its address; `source`: of full NAT, see `l4lb.engine.kernel.sources`."""
    assert spec.kernel is not None
    v4 = layout.is_v4(key)
    return layout.service(
        seed=pool.hash_seed,
        prefix=layout.prefix(v4, pool.hash_prefix_v4 if v4 else pool.hash_prefix_v6),
        number=listener.number,
        first_word=table.first_word,
        slot_count=table.count,
        mode=_MODES[spec.kernel.mode],
        key=pool.hash_key if pool.selection is Selection.HASH else HashKey.RANDOM,
        gue_port=spec.kernel.gue_port,
        quic_service=listener.quic_service,
        any_denied=bool(spec.refused or spec.banned),
        source=source,
    )


def answers_of(services: Sequence[bytes], placed: Sequence[Placed], number: int) -> dict[bytes, bytes]:
    """What the packets of backends become."""
    return {
        one.endpoint: layout.answer(service, number, one.index)
        for service in services
        for one in placed
        if layout.is_v4(one.endpoint) == layout.is_v4(service)
    }
