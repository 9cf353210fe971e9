"""FRR, by vtysh: ``network`` statements of its BGP, with a route map for the attributes. A drain has a route map of its
own, since a statement that names another one is looked at at once, and a change of a route map only after a delay.

vtysh fails with what FRR answers, and stops there. A restart of FRR forgets what was not written to its configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click

from l4lb.cli.addresses.engine import CommandEngine, CommandFailed, run
from l4lb.cli.addresses.following import follow, following_options, refresh_option, withdraw_once, withdraw_option
from l4lb.cli.addresses.hysteresis import Level
from l4lb.cli.addresses.prefixes import Prefix, Routes, route_options

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,60}", re.ASCII)
_NOT_THERE = "Can't find static route"
_ASN_MAX = 2**32 - 1


class Frr(CommandEngine):
    def __init__(self, program: str, sockets: str, asn: int, route_map: str, routes: Routes, refresh_s: float) -> None:
        super().__init__(refresh_s)
        self._vtysh = [program, *(["--vty_socket", sockets] if sockets else [])]
        self._asn, self._route_map, self._routes = asn, route_map, routes

    def apply(self, level: Level) -> None:
        if level is Level.WITHDRAWN:
            self._withdraw()
        else:
            self._configure([*self._attributes(level), *self._statements(self._routes.prefixes, level)])

    def _withdraw(self) -> None:
        """One by one where some are not there: vtysh stops at the first of these."""
        try:
            self._configure(self._statements(self._routes.prefixes, Level.WITHDRAWN))
        except CommandFailed as error:
            if _NOT_THERE not in error.said:
                raise
            for prefix in self._routes.prefixes if len(self._routes.prefixes) > 1 else ():
                self._withdraw_one(prefix)

    def _withdraw_one(self, prefix: Prefix) -> None:
        try:
            self._configure(self._statements((prefix,), Level.WITHDRAWN))
        except CommandFailed as error:
            if _NOT_THERE not in error.said:
                raise

    def _configure(self, commands: Iterator[str] | list[str]) -> None:
        options = [word for command in ("configure terminal", *commands) for word in ("-c", command)]
        run([*self._vtysh, *options])

    def _map_of(self, level: Level) -> str:
        return f"{self._route_map}-drain" if level is Level.DRAINING else self._route_map

    def _attributes(self, level: Level) -> Iterator[str]:
        communities = " ".join(self._routes.communities)
        yield f"route-map {self._map_of(level)} permit 10"
        yield f"set metric {self._routes.med_of(level)}"
        yield f"set community {communities}" if communities else "no set community"
        yield "exit"

    def _statements(self, prefixes: tuple[Prefix, ...], level: Level) -> Iterator[str]:
        yield f"router bgp {self._asn}"
        for version in sorted({prefix.version for prefix in prefixes}):
            yield f"address-family ipv{version} unicast"
            for prefix in prefixes:
                if prefix.version == version:
                    yield self._statement(prefix, level)
            yield "exit"

    def _statement(self, prefix: Prefix, level: Level) -> str:
        return (
            f"no network {prefix}" if level is Level.WITHDRAWN else f"network {prefix} route-map {self._map_of(level)}"
        )


def _name(ctx: click.Context, param: click.Parameter, text: str) -> str:
    if not _NAME.fullmatch(text):
        raise click.BadParameter(f'"{text}": expected letters, digits, _, . and -, at most 60')
    return text


@click.command()
@route_options
@click.option("--asn", type=click.IntRange(1, _ASN_MAX), required=True, metavar="N", help="AS number of FRR's BGP.")
@click.option(
    "--route-map", default="l4lb", show_default=True, metavar="NAME", callback=_name,
    help="Route map that is written for the attributes; NAME-drain is for those of a drain.",
)  # fmt: skip
@click.option("--vty-socket", default="", metavar="DIR", help="Where FRR's sockets are. Default: vtysh's own.")
@click.option("--vtysh", default="vtysh", show_default=True, metavar="PROGRAM", help="The program that tells FRR.")
@refresh_option
@withdraw_option
@following_options
def frr(
    prefixes: tuple[Prefix, ...],
    med: int,
    drain_med: int,
    communities: tuple[str, ...],
    asn: int,
    route_map: str,
    vty_socket: str,
    vtysh: str,
    refresh: float,
    withdraw: bool,
    **following: Any,
) -> int:
    """Announce PREFIX... by FRR: `network` statements of its BGP, which come and go.

    FRR announces an address that this host has, or any with `no bgp network import-check`.
    """
    routes = Routes(prefixes, med, drain_med, communities)
    engine = Frr(vtysh, vty_socket, asn, route_map, routes, refresh)
    return withdraw_once(engine) if withdraw else follow(engine, **following)
