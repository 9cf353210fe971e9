"""Listeners as the programs read them: a service for each address, and what the answers of its backends become."""

from __future__ import annotations

from collections.abc import Sequence

from l4lb.engine.kernel import layout
from l4lb.engine.kernel.backends import Placed
from l4lb.engine.kernel.layout import Mode
from l4lb.engine.kernel.listeners import KernelListener
from l4lb.engine.kernel.slots import Table
from l4lb.model.snapshot import HashKey, ListenerSpec, PoolSpec, Selection

_MODES = {"nat": Mode.NAT, "dsr": Mode.DSR, "tunnel": Mode.TUNNEL}


def service_of(listener: KernelListener, spec: ListenerSpec, pool: PoolSpec, table: Table, key: bytes) -> bytes:
    """`key`: its address."""
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
    )


def answers_of(services: Sequence[bytes], placed: Sequence[Placed], number: int) -> dict[bytes, bytes]:
    """What the packets of backends become."""
    return {
        one.endpoint: layout.answer(service, number, one.index)
        for service in services
        for one in placed
        if layout.is_v4(one.endpoint) == layout.is_v4(service)
    }
