"""Shell completion that asks the running instance: its pools, backends, listeners, sessions and bans.

For ``shell_complete=`` of arguments and options with these names. An instance that is slow or not running completes
nothing: a user who presses the key must neither wait nor see an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click

from l4lb.cli.shared.connection import read_token
from l4lb.client import Client
from l4lb.errors import L4lbError
from l4lb.net.listen.admin_socket import default_admin_address

_WITHIN_S = 1.0
_SESSIONS_MAX = 100  # nobody reads more
Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def _client(ctx: click.Context) -> Client:
    """A client of the instance that the command line or the environment names. click.BadParameter for a token file
    that cannot be read."""
    token = read_token(ctx.params.get("token_file"))
    return Client(ctx.params.get("admin") or default_admin_address(), token=token, timeout=_WITHIN_S)


def _completed(names: Callable[[Client, click.Context], Iterable[str]]) -> Complete:
    """Of what `names` finds: those that begin with what was typed and were not given before."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        try:
            with _client(ctx) as client:
                found = list(names(client, ctx))
        except (click.BadParameter, L4lbError, OSError, ValueError, KeyError):
            return []
        given = ctx.params.get(param.name or "")
        before = given if isinstance(given, tuple) else ()
        return [name for name in dict.fromkeys(found) if name.startswith(incomplete) and name not in before]

    return complete


def _anywhere(client: Client, ctx: click.Context) -> list[str]:
    wanted = ctx.params.get("pool")
    return [
        one["id"] for pool in client.status()["pools"] if wanted in (None, "", pool["name"]) for one in pool["backends"]
    ]


def _tables(client: Client, ctx: click.Context) -> Iterable[str]:
    for name, table in client.config.items():
        yield name
        if name in ("pools", "listeners"):
            yield from (f"{name}.{one}" for one in table)


pools = _completed(lambda client, ctx: client.pools)
listeners = _completed(lambda client, ctx: client.listeners)
pools_and_listeners = _completed(lambda client, ctx: [*client.pools, *client.listeners])
backends = _completed(lambda client, ctx: [one["id"] for one in client.pool(ctx.params["pool"])["backends"]])
backends_anywhere = _completed(_anywhere)
sessions = _completed(lambda client, ctx: [one["id"] for one in client.sessions(limit=_SESSIONS_MAX)])
bans = _completed(lambda client, ctx: [one["cidr"] for one in client.bans.list()])
tables = _completed(_tables)
