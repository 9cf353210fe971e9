"""``l4lb fleet config``: the configuration in etcd, and the ones before it."""

from __future__ import annotations

import difflib
import json
import time
from pathlib import Path

import click

from l4lb.cli.check import expect_usable
from l4lb.cli.fleet.judging import not_yet
from l4lb.cli.fleet.reaching import F, asked, fleet_option, this_user, waited
from l4lb.cli.shared.connection import as_json, duration_option
from l4lb.cli.shared.groups import Group
from l4lb.cli.shared.tables import Column, Row, Table, terminal_width
from l4lb.config import Config
from l4lb.config.reading.bounds import read_text
from l4lb.control.fleet.keys import Document, Entry
from l4lb.control.fleet.store import FleetError, Store

_COMMENT_MAX = 1000
generation_argument = click.argument("generation", type=click.IntRange(1), required=False)


def put_options(command: F) -> F:
    command = duration_option("--timeout", "How long --wait waits.", "30s")(command)
    command = click.option("--wait", is_flag=True, help="Wait until every live node goes by it; exit with 1 if not.")(
        command
    )
    return click.option("--comment", default="", metavar="TEXT", callback=_comment, help="Why, for the history.")(
        command
    )


def _comment(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if len(value) > _COMMENT_MAX:
        raise click.BadParameter(f"at most {_COMMENT_MAX} characters")
    return value


@click.group(cls=Group)
def config() -> None:
    """The configuration of a fleet: show it, change it, go back."""


@config.command()
@generation_argument
@fleet_option
def show(generation: int | None, url: str | None) -> None:
    """Print the configuration, or that of GENERATION."""

    async def call(store: Store) -> str:
        return (await _entry(store, generation)).text if generation else (await _current(store)).text

    click.echo(asked(url, call), nl=False)


@config.command()
@click.argument("file", type=click.Path())
@put_options
@fleet_option
def put(file: str, comment: str, wait: bool, timeout: float, url: str | None) -> None:
    """Check FILE as `l4lb check` does and make it the configuration of the fleet. What others put meanwhile is not
    overwritten: that is an error."""

    async def call(store: Store) -> None:
        before = await store.current()
        text = read_text(Path(file))
        await _put(store, text, file, before, comment, timeout if wait else None)

    asked(url, call)


@config.command()
@generation_argument
@put_options
@fleet_option
def rollback(generation: int | None, comment: str, wait: bool, timeout: float, url: str | None) -> None:
    """Put the configuration of GENERATION once more, by default the one before; it becomes a new generation."""

    async def call(store: Store) -> None:
        before = await _current(store)
        wanted = generation or before.generation - 1
        if wanted < 1:
            raise FleetError(f"there is no generation before {before.generation}")
        text = (await _entry(store, wanted)).text
        why = comment or f"rollback to generation {wanted}"
        await _put(store, text, f"generation {wanted}", before, why, timeout if wait else None)

    asked(url, call)


@config.command()
@as_json
@fleet_option
def history(as_json: bool, url: str | None) -> None:
    """List who put which generation, when and why; the newest first."""
    found = asked(url, Store.entries)
    if as_json:
        said = [{"generation": one.generation, "at": one.at, "by": one.by, "comment": one.comment} for one in found]
        click.echo(json.dumps(said, indent=2))
    else:
        click.echo("\n".join(_table(found).lines(terminal_width())))


@config.command()
@generation_argument
@fleet_option
def diff(generation: int | None, url: str | None) -> None:
    """Show what has changed since GENERATION, by default the one before."""

    async def call(store: Store) -> list[str]:
        now = await _current(store)
        entry = await _entry(store, generation or now.generation - 1)
        names = (f"generation {entry.generation}", f"generation {now.generation}")
        return list(difflib.unified_diff(entry.text.splitlines(), now.text.splitlines(), *names, lineterm=""))

    for line in asked(url, call):
        click.echo(line)


async def _current(store: Store) -> Document:
    found = await store.current()
    if found is None:
        raise FleetError("there is no configuration yet: `l4lb fleet config put FILE` makes it")
    return found


async def _entry(store: Store, generation: int) -> Entry:
    if generation < 1:
        raise FleetError("there is no generation before the first")
    return await store.entry(generation)


async def _put(store: Store, text: str, name: str, before: Document | None, comment: str, wait_s: float | None) -> None:
    expect_usable(Config.loads(text, file=name))
    if before is not None and before.text == text:
        generation = before.generation
        click.echo(f"generation {generation} has this text already: nothing was put")
    else:
        generation = await store.put(text, before, this_user(), comment)
        click.echo(f"generation {generation} was put")
    if wait_s is None:
        return
    if late := await waited(store, lambda found: not_yet(found, generation), wait_s):
        raise FleetError(f"{late}, after {wait_s:g} s")
    click.echo(f"every live node goes by generation {generation}")


def _table(entries: list[Entry]) -> Table:
    return Table([Column("generation", right=True), Column("at (UTC)"), Column("by")], [_row(one) for one in entries])


def _row(entry: Entry) -> Row:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(min(entry.at, 1 << 37)))
    return Row({"generation": entry.generation, "at (UTC)": at, "by": entry.by}, entry.comment)
