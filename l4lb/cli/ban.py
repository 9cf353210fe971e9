"""``l4lb ban``: keeps clients out at runtime."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from l4lb.cli.connection import admin_options, as_json, connected, console, long_duration_option, sessions
from l4lb.cli.session import age_text
from l4lb.errors import AdminError

listener_option = click.option("--listener", default="", metavar="NAME", help="At this listener alone.")


@click.group()
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
@click.option("--listener", default="", metavar="NAME", help="The bans that this listener carries out.")
@as_json
@admin_options
def list_(source: str, listener: str, as_json: bool, admin: str | None, token_file: str | None) -> None:
    """List the bans that hold; with CIDR, those that concern it."""
    with connected(admin, token_file) as client:
        found = client.bans.list(source, listener)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        console().print(_table(found))


@ban.command()
@click.argument("cidrs", metavar="CIDR...", nargs=-1, required=True)
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


def _table(found: Sequence[Mapping[str, Any]]) -> Table:
    table = Table()
    for heading in ("cidr", "listener", "ends in", "banned for", "reason"):
        table.add_column(heading, overflow="fold")
    now = time.time()
    for one in found:
        ends = age_text(max(one["until"] - now, 0)) if one["until"] else "-"
        texts = (one["cidr"], one["listener"] or "all", ends, age_text(max(now - one["since"], 0)), one["reason"])
        table.add_row(*map(Text, texts))
    return table
