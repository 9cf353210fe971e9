"""``l4lb schema``."""

from __future__ import annotations

import json

import click

from l4lb.config.schema import json_schema


@click.command()
def schema() -> None:
    """Print the configuration's JSON Schema, for editors."""
    click.echo(json.dumps(json_schema(), indent=2))
