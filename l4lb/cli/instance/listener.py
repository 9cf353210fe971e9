"""``l4lb listener``: the listeners, one of them drained, and accepting again."""

from __future__ import annotations

import click

from l4lb.cli.instance.lifecycle import drain_what, resume_listener
from l4lb.cli.shared.completing import listeners
from l4lb.cli.shared.confirming import Asking, confirm_options
from l4lb.cli.shared.connection import admin_options, connected, duration_option
from l4lb.cli.shared.groups import Group
from l4lb.cli.shared.listing import listener_table
from l4lb.cli.shared.output import Form, json_text, output_options, show, table_text

named = click.argument("name", metavar="LISTENER", shell_complete=listeners)


@click.group(cls=Group)
def listener() -> None:
    """List the listeners; let one drain, and accept again."""


@listener.command("list")
@output_options
@admin_options
def list_(wanted: Form, admin: str | None, token_file: str | None) -> None:
    """List the listeners: their addresses, pools and sessions."""

    def text() -> str:
        with connected(admin, token_file) as client:
            found = client.status()["listeners"]
        if wanted.as_json:
            return json_text(found)
        return table_text(listener_table(found, wanted.name == "plain"), wanted)

    show(wanted, text)


@listener.command()
@named
@duration_option("--timeout", "How long its sessions may go on (drain_timeout).")
@click.option(
    "--wait", is_flag=True, help="Wait until it is over, with progress; exit with 1 when sessions had to be reset."
)
@confirm_options
@admin_options
def drain(
    name: str, timeout: float | None, wait: bool, asking: Asking, admin: str | None, token_file: str | None
) -> int:
    """Make LISTENER refuse new clients and let its sessions end; the process goes on."""
    return drain_what(lambda: connected(admin, token_file), name, timeout, wait, asking)


@listener.command()
@named
@admin_options
def resume(name: str, admin: str | None, token_file: str | None) -> None:
    """Let LISTENER accept again."""
    with connected(admin, token_file) as client:
        resume_listener(client, name)
