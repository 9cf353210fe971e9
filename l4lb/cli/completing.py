"""Shell completion that asks the running instance: names of pools, addresses of backends.

For ``shell_complete=`` of the arguments with these names. An instance that is slow or not running completes nothing: a
user who presses the key must neither wait nor see an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from l4lb.client import Client
from l4lb.errors import L4lbError
from l4lb.net.listen.admin_socket import default_admin_address

_WITHIN_S = 1.0


def _client(ctx: click.Context) -> Client:
    """A client of the instance that the command line or the environment names. OSError for a missing token file."""
    admin, token_file = ctx.params.get("admin"), ctx.params.get("token_file")
    token = Path(token_file).read_text(encoding="utf-8").strip() if token_file else ""
    return Client(admin or default_admin_address(), token=token, timeout=_WITHIN_S)


def _matching(names: Sequence[str], given: object, incomplete: str) -> list[str]:
    """The names that begin with `incomplete` and were not `given` before."""
    before = given if isinstance(given, tuple) else ()
    return [name for name in names if name.startswith(incomplete) and name not in before]


def pools(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The pools of the instance that --admin names."""
    try:
        with _client(ctx) as client:
            return _matching(list(client.pools), None, incomplete)
    except (L4lbError, OSError, ValueError):
        return []


def listeners(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The listeners of that instance."""
    try:
        with _client(ctx) as client:
            return _matching(list(client.listeners), None, incomplete)
    except (L4lbError, OSError, ValueError):
        return []


def backends(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The backends, by id, of the pool that the line names before."""
    try:
        with _client(ctx) as client:
            found = [backend["id"] for backend in client.pool(ctx.params["pool"])["backends"]]
    except (L4lbError, OSError, ValueError, KeyError):
        return []
    return _matching(found, ctx.params.get(param.name or ""), incomplete)
