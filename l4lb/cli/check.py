"""``l4lb check FILE``."""

from __future__ import annotations

import click

from l4lb.config import Config
from l4lb.control.environment import source_problems


@click.command()
@click.argument("file", type=click.Path())
def check(file: str) -> None:
    """Check a configuration and print every error in it."""
    config = Config.load(file)
    backends = sum(len(pool.backends) for pool in config.pools.values())
    for problem in source_problems(config):
        click.echo(f"warning: {problem} (serve would refuse it here)", err=True)
    counts = f"{len(config.listeners)} listeners, {len(config.pools)} pools, {backends} backends"
    click.echo(f"{file}: ok ({counts})")
