"""``l4lb pool``: a line for each pool."""

from __future__ import annotations

import click

from l4lb.cli.shared.connection import admin_options, connected
from l4lb.cli.shared.groups import Group
from l4lb.cli.shared.listing import pool_table
from l4lb.cli.shared.output import Form, json_text, output_options, show, table_text


@click.group(cls=Group)
def pool() -> None:
    """List the pools. What is in them: `l4lb backend list POOL`."""


@pool.command("list")
@output_options
@admin_options
def list_(wanted: Form, admin: str | None, token_file: str | None) -> None:
    """List the pools, a line for each: policy, backends, sessions."""

    def text() -> str:
        with connected(admin, token_file) as client:
            found = client.status()["pools"]
        return json_text(found) if wanted.as_json else table_text(pool_table(found, wanted.name == "plain"), wanted)

    show(wanted, text)
