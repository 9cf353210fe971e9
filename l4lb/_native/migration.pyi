from typing import final

from l4lb._native.flow_state import FlowState
from l4lb._native.snapshots import BackendLive, ListenerLive, PoolLive
from l4lb._native.specs import Terms

@final
class Exports: ...

@final
class Imports:
    def add(
        self,
        listener: ListenerLive,
        pool: PoolLive,
        backend: BackendLive,
        terms: Terms,
        measured: bool,
        fd: int,
        link_fd: int,
        state: FlowState,
    ) -> None: ...

def quic_ids(pool: PoolLive) -> tuple[int, int, bytes] | None: ...
def restore_quic_ids(pool: PoolLive, seed: int, lengths: int, entries: bytes, backends: dict[int, int]) -> None: ...
