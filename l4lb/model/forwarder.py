"""The seam between the planes: what the control side may ask of whatever moves the bytes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Protocol

from l4lb.model.snapshot import Snapshot, TableKind
from l4lb.model.stats import Stats


class Forwarder(Protocol):
    """All methods but `build_table` are called from the control thread and return at once; none waits for traffic."""

    def start(self) -> None:
        """Start the workers. They forward nothing before the first snapshot."""

    def publish(self, snapshot: Snapshot) -> None:
        """Replace the routing state by `snapshot`, whole.

        Opens sockets of listeners that are new in it and closes those it no longer names (connections that already
        wait in their accept queues are served). Raises `l4lb.errors.ConfigError` and changes nothing when
        a listener cannot be bound.
        """

    def build_table(
        self, kind: TableKind, ids: Sequence[str], weights: Sequence[float], table_size: int, seed: int
    ) -> array[int]:
        """Build a table of `table_size` (prime) indices into `ids`, outside the GIL. Weights are above 0.

        May be called on any thread.
        """

    def stats(self) -> Stats:
        """Counters of this moment, without stopping a worker."""

    def addresses(self, listener: str) -> tuple[str, ...]:
        """Where `listener` really listens: port 0 is replaced by the port that the kernel chose."""

    def close(self) -> None:
        """Stop the workers; sessions still there are reset with close reason ``shutdown``. Idempotent."""
