"""The options of commands that list something, ``-o``, ``--json``, ``--watch`` and ``--every``, and what they do."""

from __future__ import annotations

import functools
import itertools
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from l4lb.cli.shared.connection import duration_option
from l4lb.cli.shared.tables import Table, is_terminal, terminal_width
from l4lb.errors import AdminError

FORMS = ("table", "wide", "plain", "json")
EVERY_S = 2.0
EVERY_MIN_S = 0.1
_CLEAR = "\033[H\033[2J\033[3J"


@dataclass(frozen=True, slots=True)
class Form:
    """`name` is one of FORMS; `every_s` is the pause before it is shown again, None: it is shown once."""

    name: str
    every_s: float | None = None

    @property
    def as_json(self) -> bool:
        return self.name == "json"


def _json(ctx: click.Context, param: click.Parameter, given: bool) -> None:
    ctx.meta[__name__] = given


def _form(ctx: click.Context, param: click.Parameter, given: str | None) -> str:
    if ctx.meta.get(__name__):
        if given not in (None, "json"):
            raise click.BadParameter("goes without --json, which is another one")
        return "json"
    return given or "table"


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives `command` a `wanted`, the `Form`."""

    @functools.wraps(command)
    def run(*given: Any, output: str, watch: bool, every: float | None, **others: Any) -> Any:
        return command(*given, wanted=_wanted(output, watch, every), **others)

    said = "table, wide (all columns), plain (values with tabs between them, for scripts) or json."
    for option in (
        duration_option("--every", "Pause of --watch, which it implies (2s)."),
        click.option("-w", "--watch", is_flag=True, help="Show it again and again, until it is interrupted."),
        click.option(
            "--json",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_json,
            help="As -o json; stable.",
        ),
        click.option("-o", "--output", type=click.Choice(FORMS), metavar="FORM", callback=_form, help=f"Print {said}"),
    ):
        option(run)
    return run


def _wanted(output: str, watch: bool, every: float | None) -> Form:
    if every is not None and every < EVERY_MIN_S:
        raise click.BadParameter(f"at least {EVERY_MIN_S * 1000:.0f}ms", param_hint="--every")
    return Form(output, every if every is not None else EVERY_S if watch else None)


def width_of(form: Form) -> int | None:
    """How wide a table may be; None: as wide as it is."""
    return terminal_width() if form.name == "table" else None


def table_text(table: Table, form: Form) -> str:
    lines = table.plain() if form.name == "plain" else table.lines(width_of(form))
    return "\n".join(lines)


def json_text(found: Any) -> str:
    return json.dumps(found, indent=2)


def show(form: Form, text: Callable[[], str]) -> None:
    """Print what `text` makes, once or again and again. An instance that is not there for a moment, such as while it
    is restarted, is only an error the first time."""
    said = text()
    if form.every_s is None:
        click.echo(said)
        return
    while True:
        _redraw(said, form)
        time.sleep(form.every_s)
        try:
            said = text()
        except AdminError as error:
            if error.code != "unreachable":
                raise
            said = f"l4lb: {error}"


def _redraw(text: str, form: Form) -> None:
    """A table on a terminal in place of the one before; all else below it."""
    if not is_terminal(sys.stdout) or form.name not in ("table", "wide"):
        click.echo(text)
        return
    lines, size = text.splitlines(), shutil.get_terminal_size()
    if len(_fitting(lines, size.columns, size.lines - 1)) < len(lines):
        shown = _fitting(lines, size.columns, size.lines - 2)
        lines = [*shown, f"... and {len(lines) - len(shown)} lines more"]
    click.echo(_CLEAR + "\n".join(lines))


def _fitting(lines: Sequence[str], width: int, height: int) -> list[str]:
    """The first ones, as many as a terminal of that size shows; it wraps those that are wider."""
    rows = itertools.accumulate(max(math.ceil(len(click.unstyle(line)) / width), 1) for line in lines)
    return [line for line, row in zip(lines, rows, strict=True) if row <= height]


def joined(parts: Iterable[str], separator: str = ", ") -> str:
    """Those that are not empty."""
    return separator.join(part for part in parts if part)


def blocks(parts: Sequence[Sequence[str]]) -> str:
    """Lines in blocks, with an empty line between these."""
    return "\n\n".join("\n".join(lines) for lines in parts if lines)
