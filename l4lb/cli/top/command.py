"""``l4lb top``: the command."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from l4lb.cli.shared.connection import admin_options, connected
from l4lb.cli.shared.tables import is_terminal
from l4lb.errors import AdminError

if TYPE_CHECKING:
    from l4lb.client import Client


@click.command()
@click.option("--interval", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, metavar="SECONDS",
              help="Pause between two looks; longer where the answers take long.")  # fmt: skip
@click.option("--read-only", is_flag=True, help="Let no key change anything; so does a token for reading alone.")
@admin_options
def top(interval: float, read_only: bool, admin: str | None, token_file: str | None) -> int:
    """Watch a running instance live: pools, sessions, listeners, events, sources, bans, workers.

    1 to 7 and Tab choose a list, / filters it, < and > choose the column that it is sorted by, Space folds a pool,
    Enter shows details, s shows sessions. d, r and m set an admin state, + - and w a weight, x ends a session or a ban;
    what takes something from clients says so and asks first. ? lists all keys, q quits.
    """
    connected(admin, token_file).close()  # report a wrong address or token file before using the screen
    if not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        raise click.ClickException("top needs a terminal; `l4lb status` prints the same once")
    try:
        from l4lb.cli.top.terminal import opened
    except ModuleNotFoundError as error:  # some builds of Python leave it out
        lacking = f"top needs Python's module {error.name}, which this Python was built without"
        raise click.ClickException(f"{lacking}; `l4lb status --watch` does not") from None
    from l4lb.cli.top.app import App

    with opened() as terminal:
        app = App(terminal, lambda: _connected(admin, token_file), interval, read_only, bool(token_file))
        return asyncio.run(app.run())


def _connected(admin: str | None, token_file: str | None) -> Client:
    """While the screen is used, a token file that cannot be read any more is an error like others."""
    try:
        return connected(admin, token_file)
    except click.ClickException as error:
        raise AdminError(error.format_message()) from None
