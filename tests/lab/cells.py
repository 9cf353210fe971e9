"""What a lab can be: how packets are forwarded, of which family, and where the programs see them. A new mode is one
more entry of MODES, and the commands for its backends in docs/kernel.md."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """`gateway`: by which host backends reach clients. `at_service`: backends have the service's address themselves.
    `way_back` describes how an answer travels."""

    gateway: str
    at_service: bool
    way_back: str


MODES = {
    "nat": Mode("balancer", False, "backend -> balancer -> router -> client"),
    "dsr": Mode("router", True, "backend -> router -> client"),
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
