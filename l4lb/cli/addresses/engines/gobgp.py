"""GoBGP, by its command gobgp: paths in its global table. A path that is added again replaces the one before; one that
is not there can be deleted too. A restart of gobgpd forgets all."""

from __future__ import annotations

from typing import Any

import click

from l4lb.cli.addresses.engine import CommandEngine, run
from l4lb.cli.addresses.following import follow, following_options, refresh_option, withdraw_once, withdraw_option
from l4lb.cli.addresses.hysteresis import Level
from l4lb.cli.addresses.prefixes import Prefix, Routes, next_hop_option, route_options


class GoBgp(CommandEngine):
    def __init__(self, program: str, host: str, port: int, routes: Routes, refresh_s: float) -> None:
        super().__init__(refresh_s)
        self._gobgp = [program, "-u", host, "-p", str(port), "global", "rib"]
        self._routes = routes

    def apply(self, level: Level) -> None:
        for prefix in self._routes.prefixes:
            run([*self._gobgp, *self._words(prefix, level)])

    def _words(self, prefix: Prefix, level: Level) -> list[str]:
        what = ["-a", f"ipv{prefix.version}", str(prefix)]
        if level is Level.WITHDRAWN:
            return ["del", *what]
        next_hop = self._routes.next_hop_of(prefix)
        communities = ",".join(self._routes.communities)
        return [
            "add", *what, *(["nexthop", next_hop] if next_hop else []), "origin", "igp",
            "med", str(self._routes.med_of(level)), *(["community", communities] if communities else []),
        ]  # fmt: skip


@click.command()
@route_options
@next_hop_option
@click.option("--host", default="127.0.0.1", show_default=True, metavar="HOST", help="Where gobgpd's API is.")
@click.option("--port", type=click.IntRange(1, 65535), default=50051, show_default=True, help="Its port.")
@click.option("--gobgp", "program", default="gobgp", show_default=True, metavar="PROGRAM",
              help="The program that tells gobgpd.")  # fmt: skip
@refresh_option
@withdraw_option
@following_options
def gobgp(
    prefixes: tuple[Prefix, ...],
    med: int,
    drain_med: int,
    communities: tuple[str, ...],
    next_hops: tuple[tuple[int, str], ...],
    host: str,
    port: int,
    program: str,
    refresh: float,
    withdraw: bool,
    **following: Any,
) -> int:
    """Announce PREFIX... by GoBGP: paths of its global table, which come and go."""
    routes = Routes(prefixes, med, drain_med, communities, next_hops)
    engine = GoBgp(program, host, port, routes, refresh)
    return withdraw_once(engine) if withdraw else follow(engine, **following)
