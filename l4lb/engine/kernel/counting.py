"""What the programs have counted. Control thread only."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from l4lb._native import kernel
from l4lb.engine.kernel import layout
from l4lb.engine.kernel.layout import Counts, Verdict


class Counting:
    """`maps`: those that go from one generation of programs to the next, by name."""

    def __init__(self, maps: Mapping[str, kernel.Fd]) -> None:
        self._maps = maps

    def of_listener(self, number: int) -> Counts:
        return self._counts("by_service", number)

    def of_backend(self, place: int) -> Counts:
        return self._counts("by_backend", place)

    def verdicts(self) -> dict[Verdict, int]:
        return {verdict: sum(array("Q", self._per_cpu("verdicts", verdict, 8))) for verdict in Verdict}

    def _counts(self, name: str, index: int) -> Counts:
        return layout.counts(self._per_cpu(name, index, layout.SIZES["counts"]))

    def _per_cpu(self, name: str, index: int, size: int) -> bytes:
        return kernel.lookup(self._maps[name].number, index.to_bytes(4, "little"), size * kernel.CPUS) or b""
