"""``l4lb announce``: keeps routers' daemons informed whether this node can serve its virtual addresses. A command for
each daemon."""

from __future__ import annotations

from importlib import import_module

import click

from l4lb.cli.shared.groups import Group

# The daemons, by the name of their command: a module of `engines/` each, imported when it is needed.
ENGINES = {
    "exabgp": "As a process of ExaBGP, which starts it.",
    "bird": "By BIRD's static protocols.",
    "frr": "By `network` statements of FRR's BGP.",
    "gobgp": "By GoBGP's global table.",
    "keepalived": "By a file that keepalived tracks.",
}


class _Engines(Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(ENGINES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in ENGINES:
            return None
        command: click.Command = getattr(import_module(f"l4lb.cli.addresses.engines.{name}"), name)
        command.short_help = ENGINES[name]
        return command


@click.group(cls=_Engines)
def announce() -> None:
    """Announce virtual addresses by a routers' daemon while the instance can serve them.

    Runs until a signal, beside the instance, which it asks several times a second. While the instance is ready, as
    `l4lb health` says it, the addresses are announced; with a worse metric while it drains; else, and at the end, they
    are withdrawn.
    """
