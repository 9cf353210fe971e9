"""The bans that hold: immutable, each change makes a new collection. Pure.

A ban is known by its network and its listener. It refuses whatever `allow` and `deny` say, and whatever smaller or
larger networks are banned too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from l4lb.errors import ChangeError
from l4lb.model.bans import Ban
from l4lb.net.access import united_ranges
from l4lb.net.ranges import parse_network, plain_network

BANS_MAX = 50_000  # each is 200 bytes in the state file, which is written with each change
EVERYWHERE = ""  # for all listeners

_Key = tuple[str, str]
_SAVED = TypeAdapter(list[Ban], config=ConfigDict(extra="forbid"))


def network_of(text: str) -> str:
    """The one way to write that network; an address is a network of its own. ValueError for what is none."""
    return str(plain_network(parse_network(text)))


@dataclass(frozen=True, slots=True)
class Bans:
    by_key: Mapping[_Key, Ban] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Ban]:
        return iter(self.by_key.values())

    def __len__(self) -> int:
        return len(self.by_key)

    def find(self, network: str, listener: str) -> Ban | None:
        return self.by_key.get((network, listener))

    def with_ban(self, ban: Ban) -> Bans:
        """With this one, instead of one of the same network and listener. ChangeError when there are too many."""
        if len(self) >= BANS_MAX and (ban.network, ban.listener) not in self.by_key:
            raise ChangeError("conflict", f"there are {BANS_MAX} bans, and no more are kept: ban networks instead")
        return Bans({**self.by_key, (ban.network, ban.listener): ban})

    def without(self, ban: Ban) -> Bans:
        return Bans({key: one for key, one in self.by_key.items() if key != (ban.network, ban.listener)})

    def at(self, now: float) -> Bans:
        """Those that are not over. Itself when none is."""
        over = any(one.is_over(now) for one in self)
        return Bans({key: one for key, one in self.by_key.items() if not one.is_over(now)}) if over else self

    def of(self, listeners: Mapping[str, object]) -> Bans:
        """Those of these listeners, and those of all listeners. Itself when there are no others."""
        known = {EVERYWHERE, *listeners}
        gone = any(one.listener not in known for one in self)
        return Bans({key: one for key, one in self.by_key.items() if one.listener in known}) if gone else self

    def ends_next(self) -> float | None:
        """When the next of them is over."""
        return min((one.until for one in self if one.until), default=None)

    def ranges(self) -> dict[str, bytes]:
        """Whom each listener that has bans of its own refuses, and under `EVERYWHERE` whom all others do, as
        `ListenerSpec.banned`. 50,000 bans take half a second."""
        networks: dict[str, list[str]] = {EVERYWHERE: []}
        for ban in self:
            networks.setdefault(ban.listener, []).append(ban.network)
        everywhere = networks[EVERYWHERE]
        return {name: united_ranges([*own, *everywhere] if name else own) for name, own in networks.items()}


def saved(bans: Bans) -> list[dict[str, Any]]:
    """As JSON, for a state file or another process."""
    return [
        {"network": one.network, "listener": one.listener, "until": one.until, "reason": one.reason, "since": one.since}
        | ({"shared": True} if one.shared else {})
        for one in bans
    ]


def restored(said: object) -> Bans:
    """The inverse of `saved`. ValueError, with the place, for anything else."""
    try:
        found = _SAVED.validate_python(said)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, ('bans', *first['loc'])))}: {first['msg']}") from None
    for position, ban in enumerate(found):
        if not (math.isfinite(ban.until) and ban.until >= 0):  # JSON as Python reads it has Infinity and NaN
            raise ValueError(f"bans.{position}.until: expected seconds from 1970 on, or 0")
        try:
            network = network_of(ban.network)
        except ValueError as error:
            raise ValueError(f"bans.{position}.network: {error}") from None
        if network != ban.network:
            raise ValueError(f'bans.{position}.network: expected "{network}"')
    if len(found) > BANS_MAX:
        raise ValueError(f"bans: more than {BANS_MAX}")
    return Bans({(ban.network, ban.listener): ban for ban in found})
