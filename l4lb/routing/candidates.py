"""Which backends of a pool may get new sessions, and why the others may not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from l4lb.model.states import AdminState, Health

EJECTED = "ejected"


@dataclass(frozen=True, slots=True)
class Standing:
    """What counts for a backend's candidacy."""

    weight: float
    admin_state: AdminState
    health: Health
    priority: int = 0
    zone: str = ""
    ejected: bool = False
    nowhere: str = ""  # why it has no address


@dataclass(frozen=True, slots=True)
class Rules:
    """What a pool says of candidacy.

    `panic_threshold`: percent of the ready backends; when fewer than that are not down, health is ignored (0: never).
    `use_all_when_down`: it is ignored too when all are down. `zone` is preferred while its up backends carry at least
    half of the weight that it has in the priority group.
    """

    panic_threshold: int = 0
    use_all_when_down: bool = False
    zone: str = ""


@dataclass(slots=True)
class Candidacy:
    """`usable`: indices of the backends that may get new sessions; `passed_over`: why each of the others may not."""

    usable: list[int]
    passed_over: dict[int, str] = field(default_factory=dict)

    def keep(self, wanted: Callable[[int], bool], reason: Callable[[int], str]) -> None:
        for index in self.usable:
            if not wanted(index):
                self.passed_over[index] = reason(index)
        self.usable = [index for index in self.usable if index not in self.passed_over]


def _ignores_health(healths: list[Health], rules: Rules) -> bool:
    """`healths` are those of the backends that the operator wants, at least one. An undecided one is no reason."""
    fit = len(healths) - healths.count(Health.DOWN)
    return 100 * fit < rules.panic_threshold * len(healths) or (rules.use_all_when_down and fit == 0)


def _zone_is_enough(group: list[Standing], usable: list[Standing], zone: str) -> bool:
    """Of one priority group: all that the operator wants, and those of them that are left."""
    wanted = sum(one.weight for one in group if one.zone == zone)
    left = sum(one.weight for one in usable if one.zone == zone)
    return left > 0 and 2 * left >= wanted


def candidacy(backends: Sequence[Standing], rules: Rules = Rules()) -> Candidacy:
    """Operator first, then health, then ejections, then priority, then zone.

    An undecided (unknown) backend counts only while none is up. Of the priorities only the lowest number that is left
    is used.
    """
    found = Candidacy(list(range(len(backends))))
    found.keep(
        lambda i: backends[i].admin_state is AdminState.READY, lambda i: f"admin state {backends[i].admin_state}"
    )
    found.keep(lambda i: backends[i].weight > 0, lambda i: "weight 0")
    found.keep(lambda i: not backends[i].nowhere, lambda i: backends[i].nowhere)
    wanted = [backends[index] for index in found.usable]
    healths = [one.health for one in wanted]
    if not _ignores_health(healths, rules):
        best = Health.UP if Health.UP in healths else Health.UNKNOWN
        found.keep(lambda i: backends[i].health is best, lambda i: f"health {backends[i].health}")
    if not all(backends[index].ejected for index in found.usable):  # at least one is always left
        found.keep(lambda i: not backends[i].ejected, lambda i: EJECTED)
    if not found.usable:
        return found
    first = min(backends[index].priority for index in found.usable)
    found.keep(
        lambda i: backends[i].priority == first, lambda i: f"priority {backends[i].priority}: {first} goes first"
    )
    group = [one for one in wanted if one.priority == first]
    if rules.zone and _zone_is_enough(group, [backends[index] for index in found.usable], rules.zone):
        found.keep(lambda i: backends[i].zone == rules.zone, lambda i: f'zone "{backends[i].zone}"')
    return found
