"""``l4lb session``: lists and ends current sessions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from rich.table import Table
from rich.text import Text

from l4lb.cli.connection import admin_options, as_json, connected, console, sessions
from l4lb.cli.status import size_text
from l4lb.client import Client
from l4lb.errors import AdminError
from l4lb.model.sessions import LIMIT_DEFAULT, LIMIT_MAX

F = TypeVar("F", bound=Callable[..., Any])


def filters(command: F) -> F:
    for option in (
        click.option("--listener", default="", metavar="NAME", help="Sessions of this listener."),
        click.option(
            "--source", default="", metavar="ADDR", help="Sessions of this client: address, address:port or network."
        ),
        click.option("--backend", default="", metavar="ADDR", help="Sessions of this backend: address or id."),
        click.option("--pool", default="", metavar="NAME", help="Sessions of this pool."),
    ):
        command = option(command)
    return command


@click.group()
def session() -> None:
    """List and end current sessions."""


@session.command("list")
@filters
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=LIMIT_DEFAULT, show_default=True)
@as_json
@admin_options
def list_(limit: int, as_json: bool, admin: str | None, token_file: str | None, **query: str) -> None:
    """List sessions, the oldest first; a session must match all given filters."""
    with connected(admin, token_file) as client:
        found = client.sessions(**query, limit=limit)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        console().print(_table(found))
    if len(found) == limit:
        click.echo(f"l4lb: {limit} sessions, and perhaps more: see --limit", err=True)


def age_text(seconds: float) -> str:
    """Short, and exact enough: 250ms, 12s, 5m3s, 2h10m, 3d4h."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    whole = int(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part}{smaller}"
    return f"{whole}s"


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table()
    for heading in ("id", "client", "listener", "backend", "state"):
        table.add_column(heading, overflow="fold")
    for heading in ("age", "idle", "up", "down"):
        table.add_column(heading, justify="right")
    for one in found:
        texts = [one["id"], one["client"], one["listener"], f"{one['pool']}/{one['backend'] or '-'}", one["state"]]
        times = [age_text(one["age_s"]), age_text(one["idle_s"])]
        sizes = [size_text(one["bytes_up"]), size_text(one["bytes_down"])]
        table.add_row(*map(Text, (*texts, *times, *sizes)))
    return table


@session.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@filters
@admin_options
def kill(ids: tuple[str, ...], admin: str | None, token_file: str | None, **query: str) -> int:
    """Reset sessions: those with the given IDs, or all that match the filters."""
    if bool(ids) == any(query.values()):
        raise click.UsageError("which sessions? Give their ids, or a filter such as --source ADDR")
    with connected(admin, token_file) as client:
        missing = 0
        if ids:
            missing = _kill(client, ids)
        count = len(ids) - missing if ids else client.kill_sessions(**query)
    click.echo(f"ended {sessions(count)}")
    return 1 if missing else 0


def _kill(client: Client, ids: Sequence[str]) -> int:
    """Print each id that does not exist, and return their number."""
    missing = 0
    for id_ in ids:
        try:
            client.kill_session(id_)
        except AdminError as error:
            if error.code != "not_found":
                raise
            click.echo(f"l4lb: {error}", err=True)
            missing += 1
    return missing
