"""``l4lb session``: lists and ends current sessions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
from rich.table import Table
from rich.text import Text

from l4lb.cli.connection import admin_options, as_json, connected, console, sessions
from l4lb.cli.status import size_text
from l4lb.client import Client
from l4lb.errors import AdminError
from l4lb.model.sessions import FLOW_ADVICE, LIMIT_DEFAULT, LIMIT_MAX

F = TypeVar("F", bound=Callable[..., Any])
N = TypeVar("N", int, float)


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
    """List sessions, the oldest first, then flows in the kernel, the longest idle first; all given filters must
    match."""
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


def _known(value: N | None, text: Callable[[N], str]) -> str:
    """Of a flow in the kernel, nobody knows its age and bytes."""
    return "-" if value is None else text(value)


def _table(found: Sequence[Mapping[str, Any]]) -> Table:
    table = Table()
    for heading in ("id", "client", "listener", "backend", "state"):
        table.add_column(heading, overflow="fold")
    for heading in ("age", "idle", "up", "down"):
        table.add_column(heading, justify="right")
    for one in found:
        state = one["state"] if one["engine"] == "proxy" else "in kernel"
        texts = [one["id"], one["client"], one["listener"], f"{one['pool']}/{one['backend'] or '-'}", state]
        times = [_known(one["age_s"], age_text), age_text(one["idle_s"])]
        sizes = [_known(one["bytes_up"], size_text), _known(one["bytes_down"], size_text)]
        table.add_row(*map(Text, (*texts, *times, *sizes)))
    return table


@session.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@filters
@admin_options
def kill(ids: tuple[str, ...], admin: str | None, token_file: str | None, **query: str) -> int:
    """Reset sessions: those with the given IDs, or all that match the filters. Flows in the kernel cannot be ended."""
    if bool(ids) == any(query.values()):
        raise click.UsageError("which sessions? Give their ids, or a filter such as --source ADDR")
    with connected(admin, token_file) as client:
        if ids:
            left = _kill(client, ids)
            count = len(ids) - left
        else:
            ended = client.kill_counted(**query)
            count, left = ended["sessions"], ended["flows_left"]
    click.echo(f"ended {sessions(count)}")
    if left and not ids:
        flows = "1 flow" if left == 1 else f"{left} flows"
        click.echo(f"l4lb: {flows} in the kernel, which cannot be ended from here: {FLOW_ADVICE}", err=True)
    return 1 if left else 0


def _kill(client: Client, ids: Sequence[str]) -> int:
    """Print each id that does not exist, or is a flow's, and return their number."""
    left = 0
    for id_ in ids:
        try:
            client.kill_session(id_)
        except AdminError as error:
            if error.code not in ("not_found", "conflict"):
                raise
            click.echo(f"l4lb: {error}", err=True)
            left += 1
    return left
