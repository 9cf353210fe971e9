"""``l4lb check FILE...``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import click

from l4lb.cli.shared.connection import as_json
from l4lb.cli.shared.output import json_text
from l4lb.config import Config
from l4lb.config.reading.bounds import FILE_BYTES_MAX
from l4lb.control.changes.environment import source_problems
from l4lb.control.fleet.reading import load
from l4lb.errors import ConfigError, Problem

STDIN = "-"
WRONG = 2  # the exit code


@dataclass(slots=True)
class Found:
    """What there is to say about one configuration."""

    file: str
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"ok": not self.errors, **asdict(self)}


@click.command()
@click.argument("files", metavar="FILE...", type=click.Path(), nargs=-1, required=True)
@as_json
def check(files: tuple[str, ...], as_json: bool) -> int:
    """Check configurations, files (- is stdin) or those of fleets (etcd://...), and print every error in them.

    Warnings are what would fail on this host now, such as names that do not resolve and paths where this user cannot
    write, and what is hardly meant, such as a pool that no listener uses.
    """
    if files.count(STDIN) > 1:
        raise click.UsageError("stdin can be read once: - is there more than once")
    found = [_checked(file) for file in files]
    if as_json:
        click.echo(json_text([one.as_json() for one in found]))
    else:
        for one in found:
            _print(one)
    return WRONG if any(one.errors for one in found) else 0


def _checked(file: str) -> Found:
    found = Found(file)
    try:
        config = _read() if file == STDIN else load(file)
        found.counts = {
            "listeners": len(config.listeners),
            "pools": len(config.pools),
            "backends": sum(len(pool.backends) for pool in config.pools.values()),
        }
        _look(config, found)
    except ConfigError as error:
        found.errors = list(error.problems)
    return found


def _read() -> Config:
    """From stdin."""
    if sys.stdin is None:
        raise ConfigError([Problem("", "cannot be read: it is closed", STDIN)])
    raw = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        if len(raw) <= FILE_BYTES_MAX:
            raise ConfigError([Problem("", f"not UTF-8 (byte {error.start})", STDIN)]) from None
        text = raw.decode(errors="replace")  # too large anyway, and perhaps cut within a character
    return Config.loads(text, file=STDIN)


def _look(config: Config, found: Found) -> None:
    """Add what would fail on this host now. ConfigError for what is wrong anywhere."""
    from l4lb.control.changes.in_kernel import kernel_needs
    from l4lb.control.changes.preflight import preflight  # not imported for a broken file
    from l4lb.control.hooks.modules import load_hooks

    load_hooks(config)
    found.errors, found.warnings = preflight(config)
    if not found.errors:
        found.warnings += [
            Problem(one.path, f"{one.message} (serve would refuse it here)", one.file, one.line)
            for one in source_problems(config)
        ]
        found.notes = list(kernel_needs(config))


def _lines(found: Found) -> Iterator[str]:
    yield from (f"warning: {one}" for one in found.warnings)
    yield from (f"note: {one}" for one in found.notes)
    yield from map(str, found.errors)


def _print(found: Found) -> None:
    for line in _lines(found):
        click.echo(line, err=True)
    if not found.errors:
        counts = ", ".join(f"{count} {kind}" for kind, count in found.counts.items())
        click.echo(f"{found.file}: ok ({counts})")


def expect_usable(config: Config) -> None:
    """Print what would fail on this host now as warnings; ConfigError for what is wrong anywhere."""
    found = Found("")
    _look(config, found)
    errors, found.errors = found.errors, []
    for line in _lines(found):
        click.echo(line, err=True)
    if errors:
        raise ConfigError(errors)
