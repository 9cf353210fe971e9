"""The routes that are announced and their attributes, as users write them. Pure but for click's errors."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from l4lb.cli.addresses.hysteresis import Level

F = TypeVar("F", bound=Callable[..., Any])
Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network
Host = ipaddress.IPv4Address | ipaddress.IPv6Address
MED_MAX = 2**32 - 1  # RFC 4271, 5.1.4: four octets
PREFIXES_MAX = 1000
WELL_KNOWN = ("no-export", "no-advertise")  # RFC 1997; those that all daemons call so
_COMMUNITY = re.compile(r"([0-9]{1,5}):([0-9]{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Routes:
    """`next_hops` by family, 4 or 6; a family that is missing has the daemon's own address."""

    prefixes: tuple[Prefix, ...]
    med: int
    drain_med: int
    communities: tuple[str, ...] = ()
    next_hops: tuple[tuple[int, str], ...] = ()

    def med_of(self, level: Level) -> int:
        return self.drain_med if level is Level.DRAINING else self.med

    def next_hop_of(self, prefix: Prefix) -> str | None:
        return dict(self.next_hops).get(prefix.version)


def _without_zone(text: str) -> str:
    """ValueError for ``fe80::1%eth0``: whatever stands behind the % would be passed on to a daemon as it is."""
    if "%" in text:
        raise ValueError("an address without an interface")
    return text


def parse_host(text: str) -> Host:
    """ValueError says what is wrong."""
    try:
        return ipaddress.ip_address(_without_zone(text))
    except ValueError:
        raise ValueError(f'"{text}": expected an IP address') from None


def parse_prefix(text: str) -> Prefix:
    """ValueError says what is wrong."""
    try:
        return ipaddress.ip_network(_without_zone(text))
    except ValueError as error:
        hint = "; bits beyond the prefix are set" if "host bits" in str(error) else ""
        raise ValueError(f'"{text}": expected a prefix such as 192.0.2.10/32 or 2001:db8::10/128{hint}') from None


def parse_prefixes(texts: Sequence[str]) -> tuple[Prefix, ...]:
    if len(texts) > PREFIXES_MAX:
        raise ValueError(f"at most {PREFIXES_MAX} prefixes")
    prefixes = tuple(map(parse_prefix, texts))
    if twice := next((one for one in prefixes if prefixes.count(one) > 1), None):
        raise ValueError(f"{twice} is given twice")
    return prefixes


def parse_community(text: str) -> str:
    match = _COMMUNITY.fullmatch(text)
    if text in WELL_KNOWN or (match and int(match[1]) <= 65535 and int(match[2]) <= 65535):
        return text
    raise ValueError(f'"{text}": expected a community such as 65001:1, or {" or ".join(WELL_KNOWN)}')


def parse_next_hops(texts: Sequence[str]) -> tuple[tuple[int, str], ...]:
    found = [parse_host(text) for text in texts]
    versions = [one.version for one in found]
    if len(set(versions)) < len(versions):
        raise ValueError("at most one for IPv4 and one for IPv6")
    return tuple((one.version, str(one)) for one in found)


def checked(parse: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def check(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return check


def _communities(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(parse_community, texts)))


_MED = click.IntRange(0, MED_MAX)
_ROUTE_OPTIONS = (
    click.argument("prefixes", nargs=-1, required=True, metavar="PREFIX...", callback=checked(parse_prefixes)),
    click.option("--med", type=_MED, default=100, show_default=True, help="Metric (MULTI_EXIT_DISC); less is better."),
    click.option("--drain-med", type=_MED, default=1000, show_default=True, help="Metric while the node drains."),
    click.option(
        "--community", "communities", multiple=True, metavar="AS:N", callback=checked(_communities),
        help=f"Also {' or '.join(WELL_KNOWN)}; may be repeated.",
    ),
)  # fmt: skip
next_hop_option = click.option(
    "--next-hop", "next_hops", multiple=True, metavar="IP", callback=checked(parse_next_hops),
    help="Instead of the daemon's own address; one for each family.",
)  # fmt: skip


def route_options(command: F) -> F:
    """`prefixes`, `med`, `drain_med` and `communities`, for `Routes`."""
    for option in reversed(_ROUTE_OPTIONS):
        command = option(command)
    return command
