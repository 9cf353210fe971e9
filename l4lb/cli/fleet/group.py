"""``l4lb fleet``: nodes, and who is drained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import click

from l4lb.cli.fleet.config import config
from l4lb.cli.fleet.judging import behind, differing, not_drained, problems
from l4lb.cli.fleet.reaching import asked, fleet_option, live_nodes, this_user, waited
from l4lb.cli.shared.connection import as_json, duration_option
from l4lb.cli.shared.groups import Group
from l4lb.cli.shared.output import joined
from l4lb.cli.shared.tables import Column, Row, Table, terminal_width
from l4lb.control.fleet.store import FleetError, Overview, Store
from l4lb.control.state.fleet import BackendCounts


@click.group(cls=Group)
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
    generation = f"generation {found.generation}" if found.generation else "no configuration"
    click.echo(f"fleet, {generation}, {len(found.nodes)} nodes")
    click.echo("\n".join(_table(found).lines(terminal_width())))
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


_COLUMNS = (
    Column("node"),
    Column("state"),
    Column("version", extra=2),
    Column("generation"),
    Column("tables"),
    Column("sessions", right=True, extra=1),
)


def _table(found: Overview) -> Table:
    others = _others(found)
    rows = []
    for name, node in sorted(found.nodes.items()):
        state = f"{node.state}, drains" if node.draining and node.state == "running" else node.state
        late = f"{node.generation}, not {found.generation}" if behind(found, node) else str(node.generation)
        values = {"node": name, "state": state, "version": node.version, "generation": late}
        values |= {"tables": others.get(name, "equal"), "sessions": str(node.sessions_active)}
        usable = f"usable backends: {_counts_text(node.backends)}" if node.backends else ""
        rows.append(Row(values, joined((usable, node.error), "; ")))
    absent = sorted(found.drained - found.nodes.keys())
    return Table(_COLUMNS, [*rows, *(Row({"node": name, "state": "not alive, to be drained"}) for name in absent)])


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
    return ", ".join(f"{pool} {counts.usable}/{counts.total}" for pool, counts in sorted(backends.items()))
