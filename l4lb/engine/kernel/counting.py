"""What the programs have counted, and which flows they know. Control thread only."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping

from l4lb._native import kernel
from l4lb.engine.kernel import layout
from l4lb.engine.kernel.layout import Counts, Verdict

_FLOWS_AGAIN_S = 0.5  # how old the count of flows may be
_NANO = 1_000_000_000

Flows = tuple[dict[int, int], dict[int, int]]  # by listener's number, and by backend's place


class Counting:
    """`maps`: those that go from one generation of programs to the next, by name."""

    def __init__(self, maps: Mapping[str, kernel.Fd]) -> None:
        self._maps = maps
        self._counted_at = float("-inf")
        self._flows: Flows = ({}, {})

    def of_listener(self, number: int) -> Counts:
        return self._counts("by_service", number)

    def of_backend(self, place: int) -> Counts:
        return self._counts("by_backend", place)

    def verdicts(self) -> dict[Verdict, int]:
        return {verdict: sum(array("Q", self._per_cpu("verdicts", verdict, 8))) for verdict in Verdict}

    def flows(self, idle_s: float, *, now: bool = False) -> Flows:
        """Those that had a packet within that time and that their client has not ended; `now`: also a flow of this
        moment."""
        at = time.monotonic()
        if now or at - self._counted_at > _FLOWS_AGAIN_S:
            self._counted_at = at
            since = time.monotonic_ns() - round(idle_s * _NANO)
            tcp, udp = (kernel.flows(self._maps[name].number, max(since, 0)) for name in ("tcp_flows", "udp_flows"))
            self._flows = (_sum(tcp[0], udp[0]), _sum(tcp[1], udp[1]))
        return self._flows

    def _counts(self, name: str, index: int) -> Counts:
        return layout.counts(self._per_cpu(name, index, layout.SIZES["counts"]))

    def _per_cpu(self, name: str, index: int, size: int) -> bytes:
        return kernel.lookup(self._maps[name].number, index.to_bytes(4, "little"), size * kernel.CPUS) or b""


def _sum(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in one.keys() | other.keys()}
