"""What a lab can be: how packets are forwarded, of which family, and where the programs see them. A new mode is one
more entry of MODES, and the commands for its backends in docs/kernel.md."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """`option`: what `mode` of the listener is, for which docs/kernel.md has commands. `at_service`: packets have the
    service's address when they come to a backend. `way_back`: how an answer travels. `encapsulation`: of a tunnel."""

    option: str
    at_service: bool
    way_back: str
    encapsulation: str = ""


_DIRECT = "backend -> router -> client"
MODES = {
    "nat": Mode("nat", False, "backend -> balancer -> router -> client"),
    "dsr": Mode("dsr", True, _DIRECT),
    "tunnel": Mode("tunnel", True, _DIRECT, "ipip"),
    "gue": Mode("tunnel", True, _DIRECT, "gue"),
}
FAMILIES = (4, 6)
WAYS = ("tcx", "native", "generic")


@dataclass(frozen=True)
class Cell:
    mode: str
    family: int
    attach: str

    def __str__(self) -> str:
        return f"{self.mode:<7} IPv{self.family}    {self.attach:<8}"


def cells(modes: Iterable[str], families: Iterable[int], ways: Iterable[str]) -> list[Cell]:
    return [Cell(*one) for one in itertools.product(modes, families, ways)]
