"""Who is kept out at runtime."""

from __future__ import annotations

from dataclasses import dataclass

REASON_MAX = 255


@dataclass(frozen=True, slots=True)
class Ban:
    """No client from `network`, a CIDR, gets in at `listener`; empty: at none of the listeners. `until` and `since` are
    seconds from 1970 on; `until` 0: until it is removed. `shared`: it is, or was, in etcd for all nodes of a fleet."""

    network: str
    listener: str = ""
    until: float = 0.0
    reason: str = ""
    since: float = 0.0
    shared: bool = False

    def is_over(self, now: float) -> bool:
        return 0.0 < self.until <= now
