"""What a lab can be: how packets are forwarded, of which family, and where the programs see them. A new mode is one
more entry of MODES, and the commands for its backends in docs/kernel.md."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """`option`: what `mode` of the listener is. `at_service`: packets have the service's address when they come to a
    backend. `way_back`: how an answer travels. `encapsulation`: of a tunnel. `full_nat`: backends see the balancer's
    address."""

    option: str
    at_service: bool
    way_back: str
    encapsulation: str = ""
    full_nat: bool = False

    @property
    def topic(self) -> str:
        """Under which docs/kernel.md has commands for it."""
        return "full-nat" if self.full_nat else self.option


_BY_BALANCER = "backend -> balancer -> router -> client"
_DIRECT = "backend -> router -> client"
MODES = {
    "nat": Mode("nat", False, _BY_BALANCER),
    "full": Mode("nat", False, _BY_BALANCER, full_nat=True),
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
