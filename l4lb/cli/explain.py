"""``l4lb explain POOL SOURCE``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from l4lb.cli.completing import pools
from l4lb.cli.connection import admin_options, as_json, connected


@click.command()
@click.argument("pool", shell_complete=pools)
@click.argument("source")
@click.option("-c", "--config", "file", metavar="FILE", help="Explain from this file, as if every backend were up.")
@click.option(
    "--to", default="", metavar="ADDR", help="The address that the client connects to, for a hash_key that needs it."
)
@as_json
@admin_options
def explain(
    pool: str, source: str, file: str | None, to: str, as_json: bool, admin: str | None, token_file: str | None
) -> None:
    """Show which backend of POOL a client at SOURCE (address, or address:port) gets, and why."""
    if file is not None:
        answer: Mapping[str, Any] = _offline(file, pool, source, to)
    else:
        with connected(admin, token_file) as client:
            answer = client.explain(pool, source, to)
    click.echo(json.dumps(answer, indent=2) if as_json else _text(answer))


def _offline(file: str, pool: str, source: str, to: str) -> Mapping[str, Any]:
    from l4lb.balancer import explain_offline  # imports the whole product
    from l4lb.config import Config

    config = Config.load(file)
    if pool not in config.pools:
        raise click.BadParameter(f'"{pool}": no such pool; there are {", ".join(config.pools)}', param_hint="POOL")
    try:
        return explain_offline(config, pool, source, to)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _text(answer: Mapping[str, Any]) -> str:
    chosen = answer["chosen"] or "no single one"
    lines = [f"pool {answer['pool']} ({answer['policy']}): a client at {answer['source']} gets {chosen}"]
    if answer["why"]:
        lines.append(f"  why: {answer['why']}")
    lines.append(f"  how: {answer['how']}")
    if answer["hash"] is not None:
        lines.append(f"  hash {answer['hash']}, slot {answer['slot']}, table {answer['table_digest'][:16]}")
    tiers = len({one["tier"] for one in answer["candidates"]})
    for number, one in enumerate(answer["candidates"], 1):
        of = f" ({one['tier']})" if tiers > 1 else ""
        lines.append(f"  {number}. {one['id']}{of}{' (at max_sessions)' if one['full'] else ''}")
    lines += [f"  passed over: {id_}: {reason}" for id_, reason in answer["passed_over"].items()]
    return "\n".join(lines)
