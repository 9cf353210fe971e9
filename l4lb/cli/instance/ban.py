"""``l4lb ban``: keeps clients out at runtime."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from l4lb.cli.shared.completing import bans, listeners
from l4lb.cli.shared.connection import admin_options, connected, long_duration_option, sessions
from l4lb.cli.shared.groups import Group
from l4lb.cli.shared.output import Form, json_text, output_options, show, table_text
from l4lb.cli.shared.tables import Column, Row, Table
from l4lb.cli.shared.texts import age_text
from l4lb.errors import AdminError

listener_option = click.option(
    "--listener", default="", metavar="NAME", shell_complete=listeners, help="At this listener alone."
)


@click.group(cls=Group)
def ban() -> None:
    """Keep clients out, for a time. CIDR is an address or a network."""


@ban.command()
@click.argument("cidrs", metavar="CIDR...", nargs=-1, required=True)
@long_duration_option("--for", "for_s", "How long (until it is removed).")
@listener_option
@click.option("--reason", default="", metavar="TEXT", help="For who reads the list or the log.")
@admin_options
def add(
    cidrs: tuple[str, ...], for_s: float | None, listener: str, reason: str, admin: str | None, token_file: str | None
) -> None:
    """Refuse clients from CIDR, and end the sessions that they have."""
    with connected(admin, token_file) as client:
        for cidr in cidrs:
            said = client.bans.add(cidr, for_s=for_s, listener=listener, reason=reason)
            how_long = f" for {age_text(for_s)}" if for_s is not None else ""
            click.echo(f"{_name(said)}: banned{how_long}, {sessions(said['sessions_ended'])} ended")


@ban.command("list")
@click.argument("source", metavar="[CIDR]", default="")
@click.option(
    "--listener", default="", metavar="NAME", shell_complete=listeners, help="The bans that this listener carries out."
)
@output_options
@admin_options
def list_(source: str, listener: str, wanted: Form, admin: str | None, token_file: str | None) -> None:
    """List the bans that hold; with CIDR, those that concern it."""

    def text() -> str:
        with connected(admin, token_file) as client:
            found = client.bans.list(source, listener)
        return json_text(found) if wanted.as_json else table_text(_table(found), wanted)

    show(wanted, text)


@ban.command()
@click.argument("cidrs", metavar="CIDR...", nargs=-1, required=True, shell_complete=bans)
@listener_option
@click.option("--ignore-missing", is_flag=True, help="Exit with 0 when there is no such ban (any more).")
@admin_options
def remove(
    cidrs: tuple[str, ...], listener: str, ignore_missing: bool, admin: str | None, token_file: str | None
) -> int:
    """Let clients from CIDR in again."""
    missing = 0
    with connected(admin, token_file) as client:
        for cidr in cidrs:
            try:
                click.echo(f"{_name(client.bans.remove(cidr, listener=listener))}: removed")
            except AdminError as error:
                if error.code != "not_found":
                    raise
                click.echo(f"l4lb: {error}", err=True)
                missing += 1
    return 1 if missing and not ignore_missing else 0


def _name(said: Mapping[str, Any]) -> str:
    return f"{said['cidr']} at {said['listener']}" if said["listener"] else str(said["cidr"])


_COLUMNS = (
    Column("cidr"),
    Column("listener"),
    Column("ends in", right=True, text=age_text),
    Column("banned for", right=True, text=age_text),
    Column("reason"),
)


def _table(found: Sequence[Mapping[str, Any]]) -> Table:
    now = time.time()
    return Table(_COLUMNS, [Row(_values(one, now)) for one in found])


def _values(ban: Mapping[str, Any], now: float) -> dict[str, Any]:
    return {
        "cidr": ban["cidr"],
        "listener": ban["listener"] or "all",
        "ends in": max(ban["until"] - now, 0) if ban["until"] else None,
        "banned for": max(now - ban["since"], 0),
        "reason": ban["reason"],
    }
