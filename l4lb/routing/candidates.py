"""Which backends of a pool may get new sessions, in which tiers, and why the others may not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from l4lb.model.states import AdminState, Health

EJECTED = "ejected"


@dataclass(frozen=True, slots=True)
class Standing:
    """The inputs for a backend's candidacy."""

    weight: float
    admin_state: AdminState
    health: Health
    priority: int = 0
    zone: str = ""
    ejected: bool = False
    nowhere: str = ""  # why it has no address


@dataclass(frozen=True, slots=True)
class Rules:
    """A pool's rules for candidacy.

    `panic_threshold`: percent of the ready backends; when fewer are up or unknown, health is ignored (0: never).
    `use_all_when_down`: health is also ignored when all are down. `zone` is preferred within a priority while its up
    backends have at least half of its weight there.
    """

    panic_threshold: int = 0
    use_all_when_down: bool = False
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Tier:
    """Backends of one `priority`, by index, that serve when those of earlier tiers can take no session. `zone`: all are
    in it; `other_zones`: none is. Both empty: the zone does not matter here."""

    members: tuple[int, ...]
    priority: int = 0
    zone: str = ""
    other_zones: str = ""

    def __str__(self) -> str:
        zone = f', zone "{self.zone}"' if self.zone else ""
        return f"priority {self.priority}{zone}" + (f', not zone "{self.other_zones}"' if self.other_zones else "")


NOBODY = Tier(())


@dataclass(slots=True)
class Candidacy:
    """`usable`: indices of the backends that may get new sessions; `passed_over`: why each of the others may not.
    `tiers` are the usable ones in the order in which they are asked; there always is a first one."""

    usable: list[int]
    passed_over: dict[int, str] = field(default_factory=dict)
    tiers: tuple[Tier, ...] = (NOBODY,)

    def keep(self, wanted: Callable[[int], bool], reason: Callable[[int], str]) -> None:
        if over := {index: reason(index) for index in self.usable if not wanted(index)}:
            self.passed_over |= over
            self.usable = [index for index in self.usable if index not in over]


def _ignores_health(healths: list[Health], rules: Rules) -> bool:
    """`healths` are those of the ready backends, at least one. An unknown one is no reason to ignore health."""
    fit = len(healths) - healths.count(Health.DOWN)
    return 100 * fit < rules.panic_threshold * len(healths) or (rules.use_all_when_down and fit == 0)


def _keep_healthy(found: Candidacy, backends: Sequence[Standing], rules: Rules) -> None:
    """An undecided (unknown) backend counts only while none is up.

    Where health is ignored, a priority whose backends are all down still comes after those with one that is not:
    sessions would wait there for time-outs although another backend answers.
    """
    wanted = [backends[index] for index in found.usable]
    healths = [one.health for one in wanted]
    if not _ignores_health(healths, rules):
        best = Health.UP if Health.UP in healths else Health.UNKNOWN
        found.keep(lambda i: backends[i].health is best, lambda i: f"health {backends[i].health}")
    elif fit := {one.priority for one in wanted if one.health is not Health.DOWN}:
        found.keep(lambda i: backends[i].priority in fit, lambda i: f"health {backends[i].health}")


def _weight_by_priority(backends: list[Standing], zone: str) -> dict[int, float]:
    """The weight of that zone in each priority."""
    weights: dict[int, float] = {}
    for one in backends:
        if one.zone == zone:
            weights[one.priority] = weights.get(one.priority, 0) + one.weight
    return weights


def _tiers(backends: Sequence[Standing], wanted: list[Standing], usable: list[int], zone: str) -> tuple[Tier, ...]:
    """By priority; where the zone is preferred, its backends come before the others of their priority. `wanted` are all
    ready backends."""
    levels: dict[int, list[int]] = {}
    for index in usable:
        levels.setdefault(backends[index].priority, []).append(index)
    left = _weight_by_priority([backends[index] for index in usable], zone) if zone else {}
    whole = _weight_by_priority(wanted, zone) if zone else {}
    tiers = []
    for priority, members in sorted(levels.items()):
        here = left.get(priority, 0)
        if here > 0 and 2 * here >= whole[priority]:
            tiers.append(Tier(tuple(one for one in members if backends[one].zone == zone), priority, zone))
            members = [one for one in members if backends[one].zone != zone]
            if members:
                tiers.append(Tier(tuple(members), priority, other_zones=zone))
        else:
            tiers.append(Tier(tuple(members), priority))
    return tuple(tiers)


def candidacy(backends: Sequence[Standing], rules: Rules = Rules()) -> Candidacy:
    """Filters by admin state, then health, then ejections; the rest forms tiers by priority, then zone."""
    found = Candidacy(list(range(len(backends))))
    found.keep(
        lambda i: backends[i].admin_state is AdminState.READY, lambda i: f"admin state {backends[i].admin_state}"
    )
    found.keep(lambda i: backends[i].weight > 0, lambda i: "weight 0")
    found.keep(lambda i: not backends[i].nowhere, lambda i: backends[i].nowhere)
    wanted = [backends[index] for index in found.usable]
    _keep_healthy(found, backends, rules)
    if not all(backends[index].ejected for index in found.usable):  # at least one is always left
        found.keep(lambda i: not backends[i].ejected, lambda i: EJECTED)
    if found.usable:
        found.tiers = _tiers(backends, wanted, found.usable, rules.zone)
    return found


def standby(tier: Tier, first: Tier) -> str:
    """Why the backends of `tier` wait until those of `first`, the pool's first tier, are unable; "" for the first."""
    if tier.priority != first.priority:
        return f"priority {tier.priority}: {first.priority} goes first"
    return f'zone "{first.zone}" goes first' if tier is not first else ""
