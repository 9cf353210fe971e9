"""``l4lb source``: lists those from which clients come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import click

from l4lb.cli.shared.completing import listeners
from l4lb.cli.shared.connection import admin_options, connected
from l4lb.cli.shared.groups import Group
from l4lb.cli.shared.output import Form, json_text, output_options, show, table_text
from l4lb.cli.shared.tables import Column, Row, Table
from l4lb.cli.shared.texts import size_text
from l4lb.model.sessions import SOURCES_DEFAULT, SOURCES_MAX, SourceOrder


@click.group(cls=Group)
def source() -> None:
    """List the heaviest sources of clients: addresses or networks, of listeners with per_source."""


@source.command("list")
@click.option("--listener", default="", metavar="NAME", shell_complete=listeners, help="Of this listener alone.")
@click.option(
    "--by",
    type=click.Choice(get_args(SourceOrder)),
    default="sessions",
    show_default=True,
    help="What makes a source heavy.",
)
@click.option("--limit", type=click.IntRange(1, SOURCES_MAX), default=SOURCES_DEFAULT, show_default=True)
@output_options
@admin_options
def list_(listener: str, by: SourceOrder, limit: int, wanted: Form, admin: str | None, token_file: str | None) -> None:
    """List sources, the heaviest first: by sessions that are open, by new ones a second, or by bytes. Only listeners
    with per_source count them."""

    def text() -> str:
        with connected(admin, token_file) as client:
            found = client.sources(listener, by, limit)
        return json_text(found) if wanted.as_json else table_text(_table(found), wanted)

    show(wanted, text)


_COLUMNS = (
    Column("source"),
    Column("listener"),
    Column("sessions", right=True),
    Column("total", right=True),
    Column("rate", right=True, text=lambda rate: f"{rate:.1f}/s"),
    Column("up", right=True, text=size_text),
    Column("down", right=True, text=size_text),
    Column("limited", right=True),
)


def _table(found: Sequence[Mapping[str, Any]]) -> Table:
    return Table(_COLUMNS, [Row(_values(one)) for one in found])


def _values(source: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "source": source["source"],
        "listener": source["listener"],
        "sessions": source["sessions_active"],
        "total": source["sessions_total"],
        "rate": source["session_rate"],
        "up": source["bytes_up"],
        "down": source["bytes_down"],
        "limited": source["limited"],
    }
