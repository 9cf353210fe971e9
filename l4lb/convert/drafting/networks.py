"""Ordered rules of addresses, of which the first that matches decides, as the lists of l4lb, of which the longest
prefix does. Pure."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from l4lb.convert.drafting.draft import Place

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
EVERYBODY = ["0.0.0.0/0", "::/0"]


class Rule(NamedTuple):
    """Of clients from `network`, whether they are let in."""

    network: Network
    allow: bool
    place: Place


def network_of(text: str) -> Network:
    """ValueError for what is no address and no network; bits behind the prefix are ignored."""
    return ipaddress.ip_network(text.strip("[]"), strict=False)


def lists_of(rules: list[Rule], allow_rest: bool) -> tuple[list[str], list[str]]:
    """`allow` and `deny` of a listener, for `rules` in their order and `allow_rest` for clients that match none.

    A rule within an earlier one never decides and is left out. After that an earlier rule is within a later one or
    apart from it, so that the first match is the longest prefix.
    """
    kept: dict[Network, bool] = {}
    for rule in rules:
        if not any(parent in kept for parent in _around(rule.network)):
            kept[rule.network] = rule.allow
    for everybody in map(network_of, EVERYBODY):
        kept.setdefault(everybody, allow_rest)
    return _without_needless(kept)


def _around(network: Network) -> list[Network]:
    """It and all that it is in: at most 129."""
    return [network.supernet(new_prefix=bits) for bits in range(network.prefixlen, -1, -1)]


def _without_needless(kept: dict[Network, bool]) -> tuple[list[str], list[str]]:
    """Without entries for what holds anyway: everybody in with nobody named, nobody else in where some are named."""
    allow = [_text(network) for network, allowed in kept.items() if allowed]
    deny = [_text(network) for network, allowed in kept.items() if not allowed]
    if not deny or set(allow) == set(EVERYBODY):
        return [], deny
    return allow, [one for one in deny if not allow or one not in EVERYBODY]


def _text(network: Network) -> str:
    return str(network) if network.prefixlen < network.max_prefixlen else str(network.network_address)
