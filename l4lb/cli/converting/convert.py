"""``l4lb convert``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from l4lb.convert.converting import Conversion, Format, format_of
from l4lb.convert.converting import convert as converted
from l4lb.convert.drafting.files import decoded
from l4lb.errors import ConfigError, L4lbError, Problem
from l4lb.net.files import read_bytes, replace_file

FILE_BYTES_MAX = 4 << 20
STDIN = "-"


class ConversionError(L4lbError):
    """Nothing, or with --strict not all, could be converted."""


@click.command()
@click.argument("file", type=click.Path(allow_dash=True))
@click.option(
    "--from", "kind", type=click.Choice(["haproxy", "nginx"]), help="What FILE is; by its content, if not given."
)
@click.option("-o", "--output", type=click.Path(), help="Write the configuration there instead of to stdout.")
@click.option("--strict", is_flag=True, help="Exit with 1 when something was not converted.")
def convert(file: str, kind: Format | None, output: str | None, strict: bool) -> None:
    """Print the layer-4 part of FILE, a haproxy.cfg or nginx.conf (-: stdin), as an lb.toml.

    Comments say where a decision was taken. What is not converted is named on stderr, with its line and what to do
    instead. Environment variables that a haproxy.cfg uses have the values that they have here.
    """
    name = "stdin" if file == STDIN else file
    text = _text(file, name)
    done = converted(text, name, kind or format_of(text, name), os.environ)
    for problem in done.lost:
        click.echo(f"not converted: {problem}", err=True)
    if not done.text:
        raise ConversionError(f"{name}: nothing in it is for a layer-4 load balancer")
    _write(done, output)
    click.echo(_summary(name, done), err=True)
    if strict and done.lost:
        raise ConversionError(f"{name}: not all was converted (--strict)")


def _summary(name: str, done: Conversion) -> str:
    counts = f"{_counted(done.listeners, 'listener')}, {_counted(done.pools, 'pool')}"
    lost = f"; {_counted(len(done.lost), 'thing')} not converted" if done.lost else ""
    return f"{name}: {counts}{lost}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _text(file: str, name: str) -> str:
    """ConfigError for what cannot be read."""
    try:
        raw = sys.stdin.buffer.read(FILE_BYTES_MAX + 1) if file == STDIN else read_bytes(file, bytes_max=FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError([Problem("", f"cannot be read: {error.strerror}", name)]) from None
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError([Problem("", f"cannot be read: larger than {FILE_BYTES_MAX >> 20} MiB", name)])
    return decoded(raw)


def _write(done: Conversion, output: str | None) -> None:
    if output is None:
        click.echo(done.text, nl=False)
        return
    try:
        replace_file(Path(output), done.text.encode())
    except (OSError, ValueError) as error:
        raise ConversionError(f"{output} cannot be written: {getattr(error, 'strerror', None) or error}") from None
