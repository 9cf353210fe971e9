"""``l4lb config``: the configuration that an instance runs with, and how a file differs from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from l4lb.cli.shared.completing import tables
from l4lb.cli.shared.connection import admin_options, as_json, connected
from l4lb.cli.shared.groups import Group
from l4lb.cli.shared.output import json_text
from l4lb.cli.shared.tables import printable
from l4lb.client import Client

if TYPE_CHECKING:
    from l4lb.config.comparing import Difference

Values = Mapping[str, Any]


@click.group(cls=Group)
def config() -> None:
    """Show the configuration in use, and how a file differs from it."""


# ---- show ----


@config.command()
@click.argument("table", default="", metavar="[TABLE]", shell_complete=tables)
@as_json
@admin_options
def show(table: str, as_json: bool, admin: str | None, token_file: str | None) -> None:
    """Print the configuration in use as TOML, or one TABLE of it, such as pools.web.

    It has every option, defaults too, and the changes at runtime. Secrets are masked. It is for reading: as a file it
    would be refused for options that have no effect.
    """
    with connected(admin, token_file) as client:
        found = _table(client.config, table)
    click.echo(json_text(found) if as_json else _toml(found, table), nl=as_json)


def _table(config: Values, name: str) -> Values:
    at: Any = config
    for part in name.split(".") if name else ():
        if not isinstance(at, Mapping) or not isinstance(at.get(part), Mapping):
            there = ", ".join(key for key, value in at.items() if isinstance(value, Mapping))
            raise click.BadParameter(f'"{part}": no such table; there are {there or "none"}', param_hint="TABLE")
        at = at[part]
    return dict(at)


def _toml(found: Values, table: str) -> str:
    import tomli_w  # not needed for JSON

    inside = _without_none(found)
    for part in reversed(table.split(".") if table else ()):
        inside = {part: inside}
    return tomli_w.dumps(inside)


def _without_none(value: Any) -> Any:
    """TOML has no null: it stands for what is not there."""
    if isinstance(value, Mapping):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value


# ---- diff ----


@config.command()
@click.argument("file", default="", metavar="[FILE]", type=click.Path())
@as_json
@admin_options
def diff(file: str, as_json: bool, admin: str | None, token_file: str | None) -> int:
    """Show how FILE (also etcd://...) differs from the configuration in use; by default the file that the instance
    read. Exits with 1 when it differs.

    What runs has the changes at runtime and the flags of `l4lb serve` over the file. Secrets are not compared, and
    neither are backends that discovery has found.
    """
    from l4lb.config.comparing import compare  # the package imports pydantic
    from l4lb.config.secrets import masked
    from l4lb.control.fleet.reading import load

    with connected(admin, token_file) as client:
        runs, file = client.config, file or _file_of(client)
    found = compare(runs, masked(load(file)))
    if as_json:
        click.echo(json_text([{"path": one.path_text(), **one.sides()} for one in found]))
    else:
        for one in found:
            click.echo(_line(one, file))
    return 1 if found else 0


def _file_of(client: Client) -> str:
    if file := client.status().get("config_file", ""):
        return file
    raise click.UsageError("give FILE: the instance has read none (or is of a fleet: see `l4lb fleet config diff`)")


def _line(one: Difference, file: str) -> str:
    path, sides = printable(one.path_text()), one.sides()
    if "file" not in sides:
        return f"{path}: runs, and is not in {printable(file)}"
    if "runs" not in sides:
        return f"{path}: does not run, and is in {printable(file)}"
    return f"{path}: runs with {_value(one.runs)}, {printable(file)} has {_value(one.file)}"


def _value(value: Any) -> str:
    return printable(json.dumps(value, ensure_ascii=False))
