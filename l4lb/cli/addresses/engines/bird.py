"""BIRD, by birdc: static protocols of bird.conf hold the addresses, and are enabled and disabled. Their MED is in
bird.conf too, so a drain has a protocol of its own.

birdc fails for what BIRD cannot parse, and exits with 0 for other refusals, so the answer itself is read. BIRD forgets
at a restart what was enabled, and goes by ``disabled`` in bird.conf.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

from l4lb.cli.addresses.engine import CommandEngine, EngineError, last_line, run
from l4lb.cli.addresses.following import follow, following_options, refresh_option, withdraw_once, withdraw_option
from l4lb.cli.addresses.hysteresis import Level

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)  # a symbol without quotes


class Bird(CommandEngine):
    """`draining` may be empty: then a node that drains is withdrawn."""

    def __init__(
        self, program: str, socket: str, normal: Sequence[str], draining: Sequence[str], refresh_s: float
    ) -> None:
        super().__init__(refresh_s)
        self._birdc = [program, *(["-s", socket] if socket else [])]
        self._by_level = {Level.NORMAL: normal, Level.DRAINING: draining}

    def apply(self, level: Level) -> None:
        """What is to be enabled first: routers never see the addresses without a way."""
        wanted = self._by_level.get(level, ())
        for protocol in wanted:
            self._set("enable", protocol)
        for protocols in self._by_level.values():
            for protocol in protocols if protocols is not wanted else ():
                self._set("disable", protocol)

    def _set(self, verb: str, protocol: str) -> None:
        try:
            said = run([*self._birdc, verb, protocol])
        except EngineError as error:
            raise EngineError(f"{verb} {protocol}: {error}") from None
        if not re.search(rf"^{protocol}: (already )?{verb}d$", said, re.MULTILINE):
            raise EngineError(f'{verb} {protocol}: BIRD answers "{last_line(said)}"')


def _names(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if not _NAME.fullmatch(text) or text == "all":  # which means every protocol to birdc
            raise click.BadParameter(f'"{text}": expected the name of a protocol: letters, digits and _, not all')
    return tuple(dict.fromkeys(texts))


@click.command()
@click.option(
    "--protocol", "protocols", required=True, multiple=True, metavar="NAME", callback=_names,
    help="Static protocol of bird.conf that has addresses; may be repeated.",
)  # fmt: skip
@click.option(
    "--drain-protocol", "draining", multiple=True, metavar="NAME", callback=_names,
    help="One that has them with a worse MED; may be repeated. Without any, a node that drains is withdrawn.",
)  # fmt: skip
@click.option("--socket", default="", metavar="FILE", help="BIRD's control socket. Default: birdc's own.")
@click.option("--birdc", default="birdc", show_default=True, metavar="PROGRAM", help="The program that tells BIRD.")
@refresh_option
@withdraw_option
@following_options
def bird(
    protocols: tuple[str, ...],
    draining: tuple[str, ...],
    socket: str,
    birdc: str,
    refresh: float,
    withdraw: bool,
    **following: Any,
) -> int:
    """Announce by BIRD: enable and disable static protocols of bird.conf.

    A protocol that is enabled has its addresses announced, by what bird.conf exports. All have to be `disabled` there,
    so that a restart of BIRD announces nothing by itself.
    """
    if both := next((name for name in draining if name in protocols), ""):
        raise click.BadParameter(f'"{both}" is a --protocol too', param_hint="--drain-protocol")
    engine = Bird(birdc, socket, protocols, draining, refresh)
    return withdraw_once(engine) if withdraw else follow(engine, **following)
