from typing import Any, final

from l4lb._native.snapshots import BackendLive, ListenerLive, PoolLive

@final
class Arrivals:
    def add(
        self,
        listener: ListenerLive,
        pool: PoolLive,
        backend: BackendLive,
        terms: dict[str, Any],
        fd: int,
        link_fd: int,
        fields: dict[str, Any],
    ) -> None: ...
