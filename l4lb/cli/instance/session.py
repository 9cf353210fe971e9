"""``l4lb session``: lists and ends current sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from l4lb.cli.shared.completing import backends_anywhere, listeners, pools
from l4lb.cli.shared.completing import sessions as known_sessions
from l4lb.cli.shared.confirming import Asking, confirm_options
from l4lb.cli.shared.connection import admin_options, connected, sessions
from l4lb.cli.shared.groups import Group
from l4lb.cli.shared.output import Form, json_text, output_options, show, table_text
from l4lb.cli.shared.tables import Column, Row, Table
from l4lb.cli.shared.texts import age_text, size_text
from l4lb.client import Client
from l4lb.errors import AdminError
from l4lb.model.sessions import FLOW_ADVICE, LIMIT_DEFAULT, LIMIT_MAX

F = TypeVar("F", bound=Callable[..., Any])


def filters(command: F) -> F:
    for option in (
        click.option(
            "--listener", default="", metavar="NAME", shell_complete=listeners, help="Sessions of this listener."
        ),
        click.option(
            "--source", default="", metavar="ADDR", help="Sessions of this client: address, address:port or network."
        ),
        click.option(
            "--backend",
            default="",
            metavar="ADDR",
            shell_complete=backends_anywhere,
            help="Sessions of this backend: address or id.",
        ),
        click.option("--pool", default="", metavar="NAME", shell_complete=pools, help="Sessions of this pool."),
    ):
        command = option(command)
    return command


@click.group(cls=Group)
def session() -> None:
    """List and end current sessions."""


@session.command("list")
@filters
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=LIMIT_DEFAULT, show_default=True)
@output_options
@admin_options
def list_(limit: int, wanted: Form, admin: str | None, token_file: str | None, **query: str) -> None:
    """List sessions, the oldest first, then flows in the kernel, the longest idle first; all given filters must
    match."""

    def text() -> str:
        with connected(admin, token_file) as client:
            found = client.sessions(**query, limit=limit)
        if len(found) == limit:
            click.echo(f"l4lb: {limit} sessions, and perhaps more: see --limit", err=True)
        return json_text(found) if wanted.as_json else table_text(_table(found), wanted)

    show(wanted, text)


# Of a flow in the kernel, nobody knows its age and bytes.
_COLUMNS = (
    Column("id"),
    Column("client"),
    Column("listener", extra=3),
    Column("backend"),
    Column("state", extra=2),
    Column("age", right=True, extra=1, text=age_text),
    Column("idle", right=True, extra=4, text=age_text),
    Column("up", right=True, extra=5, text=size_text),
    Column("down", right=True, extra=5, text=size_text),
)


def _table(found: Sequence[Mapping[str, Any]]) -> Table:
    return Table(_COLUMNS, [Row(_values(one)) for one in found])


def _values(session: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: session[key] for key in ("id", "client", "listener")},
        "backend": f"{session['pool']}/{session['backend'] or '-'}",
        "state": session["state"] if session["engine"] == "proxy" else "in kernel",
        "age": session["age_s"],
        "idle": session["idle_s"],
        "up": session["bytes_up"],
        "down": session["bytes_down"],
    }


@session.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, shell_complete=known_sessions)
@filters
@confirm_options
@admin_options
def kill(ids: tuple[str, ...], asking: Asking, admin: str | None, token_file: str | None, **query: str) -> int:
    """Reset sessions: those with the given IDs, or all that match the filters. Flows in the kernel cannot be ended."""
    if bool(ids) == any(query.values()):
        raise click.UsageError("which sessions? Give their ids, or a filter such as --source ADDR")
    with connected(admin, token_file) as client:
        if asking.looks and not asking.may(*_what_it_ends(client, ids, query)):
            return 0
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


def _what_it_ends(client: Client, ids: Sequence[str], query: Mapping[str, str]) -> tuple[str, bool]:
    """In words, and whether it is one session at most, of which nobody is asked."""
    if ids:
        return f"{sessions(len(ids))} would be reset", len(ids) == 1
    found = [one for one in client.sessions(**query, limit=LIMIT_MAX) if one["engine"] == "proxy"]
    clients = len({one["client"].rpartition(":")[0] for one in found})
    more = "at least " if len(found) == LIMIT_MAX else ""
    addresses = "1 address" if clients == 1 else f"{clients} addresses"
    return f"{more}{sessions(len(found))} of clients at {addresses} would be reset", len(found) <= 1


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
