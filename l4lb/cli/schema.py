"""``l4lb schema``."""

from __future__ import annotations

import json

import click

from l4lb.config.schema import json_schema


@click.command()
def schema() -> None:
    """Print the configuration's JSON Schema, for editors.

    Even Better TOML and taplo take it by a first line in the file: #:schema ./lb.schema.json
    """
    click.echo(json.dumps(json_schema(), indent=2))
