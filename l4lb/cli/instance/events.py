"""``l4lb events``: what has happened in an instance, and what happens."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

import click

from l4lb.cli.shared.completing import pools
from l4lb.cli.shared.connection import admin_options, connected
from l4lb.cli.shared.tables import coloured, printable
from l4lb.control.state.events import RECENT, Event
from l4lb.control.state.feed import LEVELS
from l4lb.model.logfmt import quoted

_COLOURS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until it is interrupted.")
@click.option(
    "--level", type=click.Choice(list(LEVELS)), default="info", show_default=True, help="Of this level and above."
)
@click.option("--pool", default="", metavar="NAME", shell_complete=pools, help="About this pool alone.")
@click.option(
    "-n",
    "--last",
    type=click.IntRange(0, RECENT),
    default=RECENT,
    show_default=True,
    metavar="N",
    help="Show those among the N latest events; no more are kept than the default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print an object on each line; its form is stable.")
@admin_options
def events(
    follow: bool, level: str, pool: str, last: int, as_json: bool, admin: str | None, token_file: str | None
) -> None:  # fmt: skip
    """Show the latest events, oldest first: backends up and down, changes, reloads."""
    text = _json if as_json else _line
    with (
        connected(admin, token_file) as client,
        client.events(level=level, pool=pool, last=last, follow=follow) as found,
    ):
        for event in found:
            click.echo(text(event))
    if follow:
        raise click.ClickException("the instance has ended the stream of events: it has stopped, or another took over")


def _level(event: Event) -> str:
    return logging.getLevelName(event.level).lower()


def _time(event: Event) -> str:
    return datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _line(event: Event) -> str:
    """As in the log."""
    level = _level(event).ljust(7)
    colour = _COLOURS.get(event.level)
    shown = click.style(level, fg=colour) if colour and coloured() else level
    pairs = [f"{printable(key)}={quoted(value)}" for key, value in event.fields.items()]
    return " ".join([_time(event), shown, printable(event.message), *pairs])


def _json(event: Event) -> str:
    return json.dumps({"time": _time(event), "level": _level(event), "kind": event.kind, **event.fields}, default=str)
