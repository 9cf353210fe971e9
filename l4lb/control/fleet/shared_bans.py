"""Bans that all nodes of a fleet have: their keys, and what a node has once it has merged them with its own. Pure.

| the ban | this node | etcd | what holds here |
|---|---|---|---|
| is made here | has it | does not yet | it holds at once; it is put into etcd, at the latest when that is back |
| is made elsewhere | does not yet | has it | etcd's |
| was made here and elsewhere | has it, and did not put it yet | has another | the one that was made later, for all |
| was removed elsewhere | has it, as etcd had it | no longer has it | it ends |
| was removed here | no longer has it | still has it | it is over, and removed from etcd, unless somebody made it anew |

That etcd had a ban is written down with it (`Ban.shared`), so that the same is true after a restart. Each node ends a
ban by its own clock; a little later its key ends by its lease, at the same moment for all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, ValidationError

from l4lb.control.fleet.keys import BANS
from l4lb.control.state.bans import Bans, network_of
from l4lb.model.bans import REASON_MAX, Ban

SHARED_MAX = 10_000
_AT_LISTENER = "@"
VALUE_BYTES_MAX = 4096

BanKey = tuple[str, str]


class _Value(BaseModel):
    """Keys that are not known here are those of another version."""

    model_config = ConfigDict(strict=True, frozen=True)

    until: float
    reason: str
    since: float


def ban_key(ban: Ban) -> str:
    """What follows the prefix."""
    return BANS + ban.network + (f"{_AT_LISTENER}{ban.listener}" if ban.listener else "")


def ban_value(ban: Ban) -> bytes:
    return json.dumps({"until": ban.until, "reason": ban.reason, "since": ban.since}).encode()


def parse_ban(key: str, value: bytes) -> Ban:
    """`key` is what follows the prefix. ValueError, which says what is wrong with it or with the value."""
    if len(value) > VALUE_BYTES_MAX:
        raise ValueError(f"larger than {VALUE_BYTES_MAX} bytes")
    text, _, listener = key.removeprefix(BANS).partition(_AT_LISTENER)
    if (network := network_of(text)) != text:
        raise ValueError(f'expected the network in the form "{network}"')
    try:
        said = _Value.model_validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))) from None
    for name, number in (("until", said.until), ("since", said.since)):
        if not math.isfinite(number) or number < 0:
            raise ValueError(f"{name}: expected seconds from 1970 on")
    if len(said.reason) > REASON_MAX or not said.reason.isprintable():
        raise ValueError(f"reason: expected one line of at most {REASON_MAX} characters")
    return Ban(network, listener, said.until, said.reason, said.since, shared=True)


def merged(
    own: Bans, shared: Mapping[BanKey, Ban], leaving: Collection[BanKey], listeners: Collection[str], now: float
) -> Bans:
    """What holds here: `shared` is what etcd has, of which this node is about to remove those that are `leaving`. Bans
    of listeners that are not here wait in etcd. `own` itself when it is the same."""
    kept: dict[BanKey, Ban] = {}
    for ban in own:
        key, there = (ban.network, ban.listener), shared.get((ban.network, ban.listener))
        if there is not None and key not in leaving and (ban.shared or there.since >= ban.since):
            ban = there
        elif ban.shared:
            continue
        kept[key] = ban
    known = {"", *listeners}
    for key, ban in shared.items():
        if key not in kept and key not in leaving and ban.listener in known and not ban.is_over(now):
            kept[key] = ban
    return own if kept == own.by_key else Bans(kept)


def unshared(own: Bans, now: float) -> list[Ban]:
    """Those that are to be put into etcd."""
    return [ban for ban in own if not ban.shared and not ban.is_over(now)]


def as_shared(ban: Ban) -> Ban:
    return replace(ban, shared=True)
