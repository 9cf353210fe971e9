"""Which route of a listener a client takes, and to which pool. The native twin is `_dataplane/balancing/routes.pxd`."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import xxhash

from l4lb.model.snapshot import RouteSpec

SOURCE_PREFIXES = {4: 32, 6: 64}  # bits of an address that always lead to the same pool
RANGE_BYTES = 32


class Later:
    """It depends on what the client has not sent yet."""


LATER: Final = Later()


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a client. `sni` (empty: it names no server) and `alpn` are those of its ClientHello; None: it
    sends none, or has not yet if that is not `known`. `first` are its first bytes; `complete`: nothing more is waited
    for."""

    source: str = ""
    first: bytes = b""
    sni: str | None = None
    alpn: tuple[bytes, ...] = ()
    known: bool = True
    complete: bool = True


def _name_fits(wanted: str, name: str) -> bool:
    return name == wanted or (wanted.startswith("*.") and name.endswith(wanted[1:]) and len(name) > len(wanted) - 1)


def _source_fits(ranges: bytes, source: str) -> bool:
    if not source:
        return False
    ip = ipaddress.ip_address(source.partition("%")[0])
    packed = ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed
    bounds = (ranges[at : at + RANGE_BYTES] for at in range(0, len(ranges), RANGE_BYTES))
    return any(one[:16] <= packed <= one[16:] for one in bounds)


def _starts(route: RouteSpec, facts: Facts) -> bool | Later:
    if not route.starts_with or any(facts.first.startswith(one) for one in route.starts_with):
        return True
    if not facts.complete and any(one.startswith(facts.first) for one in route.starts_with):
        return LATER
    return False


def _hello(route: RouteSpec, facts: Facts) -> bool | Later:
    if not route.sni and not route.alpn:
        return True
    if facts.sni is None:
        return False if facts.complete or facts.known else LATER
    name = facts.sni.lower().removesuffix(".")
    if route.sni and not any(_name_fits(wanted, name) for wanted in route.sni):
        return False
    return not route.alpn or bool(set(route.alpn) & set(facts.alpn))


def takes(route: RouteSpec, facts: Facts) -> bool | Later:
    """Whether all conditions hold; what is known to fail decides, whatever is not known yet."""
    if route.source is not None and not _source_fits(route.source, facts.source):
        return False
    said = (_starts(route, facts), _hello(route, facts))
    if False in said:
        return False
    return LATER if LATER in said else True


def failing(route: RouteSpec, facts: Facts) -> str:
    """The first condition that does not hold, as the configuration calls it; empty when all do."""
    if route.source is not None and not _source_fits(route.source, facts.source):
        return "source"
    if _starts(route, facts) is False:
        return "starts_with"
    if _hello(replace(route, alpn=()), facts) is False:
        return "sni"
    return "alpn" if _hello(route, facts) is False else ""


def find(routes: Sequence[RouteSpec], facts: Facts) -> int | Later | None:
    """The index of the first that takes the client; None: the listener's own pool does."""
    for index, route in enumerate(routes):
        taken = takes(route, facts)
        if isinstance(taken, Later):
            return LATER
        if taken:
            return index
    return None


def name_seed(pool: str) -> int:
    return xxhash.xxh64_intdigest(pool.encode())


def _score(pool: str, weight: float, key: bytes) -> float:
    drawn = xxhash.xxh64_intdigest(key, name_seed(pool)) >> 11
    return -math.log((drawn + 0.5) * (1.0 / 9007199254740992.0)) / weight


def target(route: RouteSpec, source: str) -> str:
    """The pool for a client at that address: always the same one. ValueError for no address where there are several."""
    if len(route.targets) == 1:
        return route.targets[0][0]
    ip = ipaddress.ip_address(source.partition("%")[0])
    key = ip.packed[: SOURCE_PREFIXES[ip.version] // 8]
    return min(route.targets, key=lambda one: _score(one[0], one[1], key))[0]
