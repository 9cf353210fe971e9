"""``l4lb fleet``: nodes, and who is drained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import click
from rich.table import Table
from rich.text import Text

from l4lb.cli.connection import as_json, console, duration_option
from l4lb.cli.fleet.config import config
from l4lb.cli.fleet.judging import behind, differing, not_drained, problems
from l4lb.cli.fleet.reaching import asked, fleet_option, live_nodes, this_user, waited
from l4lb.control.fleet.store import FleetError, Overview, Store
from l4lb.control.state.fleet import BackendCounts


@click.group()
def fleet() -> None:
    """Look after a fleet: balancers with one configuration, which is in etcd."""


fleet.add_command(config)


@fleet.command()
@as_json
@fleet_option
def status(as_json: bool, url: str | None) -> int:
    """Show the nodes that are alive. Exits with 1 when one of them does not go by the newest configuration, or nodes
    with the same one have different tables."""
    found = asked(url, Store.overview)
    wrong = list(problems(found))
    if as_json:
        click.echo(json.dumps(_as_json(found, wrong), indent=2))
        return 1 if wrong else 0
    console().print(_table(found))
    for line in wrong:
        click.echo(line, err=True)
    return 1 if wrong else 0


@fleet.command()
@click.argument("node", shell_complete=live_nodes)
@click.option("--wait", is_flag=True, help="Wait until the node has no session left; exit with 1 when it still has.")
@duration_option("--timeout", "How long --wait waits.", "10m")
@fleet_option
def drain(node: str, wait: bool, timeout: float, url: str | None) -> None:
    """Have routers send new clients to other nodes: /readyz of NODE answers 503, while it goes on accepting and
    serving. This survives its restart."""

    async def call(store: Store) -> str:
        await store.drain(node, this_user())
        return await waited(store, lambda found: not_drained(found, node), timeout) if wait else ""

    if left := asked(url, call):
        raise FleetError(f"{left}, after {timeout:g} s")
    click.echo(f"node {node}: {'drained, no session is left' if wait else 'drains'}")


@fleet.command()
@click.argument("node", shell_complete=live_nodes)
@fleet_option
def resume(node: str, url: str | None) -> None:
    """End the drain of NODE."""
    asked(url, lambda store: store.resume(node))
    click.echo(f"node {node}: no longer drained")


def _as_json(found: Overview, wrong: list[str]) -> Mapping[str, object]:
    nodes = []
    for name, node in sorted(found.nodes.items()):
        counts = {pool: one._asdict() for pool, one in node.backends.items()}
        nodes.append({**asdict(node), "backends": counts, "to_be_drained": name in found.drained})
    absent = sorted(found.drained - found.nodes.keys())
    return {"generation": found.generation, "nodes": nodes, "drained_absent": absent, "problems": wrong}


def _table(found: Overview) -> Table:
    generation = f"generation {found.generation}" if found.generation else "no configuration"
    table = Table(title=Text(f"fleet, {generation}, {len(found.nodes)} nodes"), title_justify="left")
    for heading in ("node", "state", "version", "generation", "tables", "sessions", "usable backends", "error"):
        table.add_column(heading, justify="right" if heading == "sessions" else "left", overflow="fold")
    others = _others(found)
    for name, node in sorted(found.nodes.items()):
        state = f"{node.state}, drains" if node.draining and node.state == "running" else node.state
        late = f"{node.generation}, not {found.generation}" if behind(found, node) else str(node.generation)
        texts = [name, state, node.version, late, others.get(name, "equal"), str(node.sessions_active)]
        table.add_row(*map(Text, [*texts, _counts_text(node.backends), node.error]))
    for name in sorted(found.drained - found.nodes.keys()):
        table.add_row(Text(name), "not alive, to be drained")
    return table


def _others(found: Overview) -> dict[str, str]:
    """By node: the pools whose table is not that of most nodes."""
    said: dict[str, list[str]] = {}
    for pool, tables in differing(found).items():
        most = max(tables.values(), key=len)
        for names in tables.values():
            for name in names if names is not most else ():
                said.setdefault(name, []).append(pool)
    return {name: f"differ: {', '.join(pools)}" for name, pools in said.items()}


def _counts_text(backends: Mapping[str, BackendCounts]) -> str:
    return "\n".join(f"{pool} {counts.usable}/{counts.total}" for pool, counts in sorted(backends.items()))
