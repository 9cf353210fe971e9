"""``l4lb check FILE``."""

from __future__ import annotations

import click

from l4lb.config import Config
from l4lb.control.changes.environment import source_problems
from l4lb.control.fleet.reading import load
from l4lb.errors import ConfigError


@click.command()
@click.argument("file", type=click.Path())
def check(file: str) -> None:
    """Check a configuration, a file or that of a fleet (etcd://...), and print every error in it. Warnings are what
    would fail on this host now: names that do not resolve, paths where this user cannot write."""
    config = load(file)
    expect_usable(config)
    backends = sum(len(pool.backends) for pool in config.pools.values())
    counts = f"{len(config.listeners)} listeners, {len(config.pools)} pools, {backends} backends"
    click.echo(f"{file}: ok ({counts})")


def expect_usable(config: Config) -> None:
    """Print what would fail on this host now as warnings; ConfigError for what is wrong anywhere."""
    from l4lb.control.changes.in_kernel import kernel_needs
    from l4lb.control.changes.preflight import preflight  # not imported for a broken file
    from l4lb.control.hooks.modules import load_hooks

    load_hooks(config)
    errors, warnings = preflight(config)
    for problem in warnings:
        click.echo(f"warning: {problem}", err=True)
    if errors:
        raise ConfigError(errors)
    for problem in source_problems(config):
        click.echo(f"warning: {problem} (serve would refuse it here)", err=True)
    for need in kernel_needs(config):
        click.echo(f"note: {need}", err=True)
