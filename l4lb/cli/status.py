"""``l4lb status``: a running instance's pools and listeners as tables, or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from l4lb.cli.completing import pools
from l4lb.client import Client
from l4lb.net.admin_socket import default_admin_address

HEALTH_STYLE = {"up": "green", "down": "red", "unknown": "yellow"}
PIPED_WIDTH = 200  # where no terminal has a width: nothing is cut off


def size_text(count: int) -> str:
    """Bytes in the largest unit that keeps them above 1."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _check_text(check: dict[str, Any] | None) -> str:
    if check is None:
        return ""
    return f"{check['latency_ms']:.1f} ms" if check["ok"] else f"{check['step']}: {check['reason']}"


def _table(title: str) -> Table:
    return Table(title=Text(title), title_justify="left")


def _pool_table(pool: dict[str, Any]) -> Table:
    table = _table(f"pool {pool['name']} ({pool['policy']})")
    for heading in ("backend", "health", "admin state"):
        table.add_column(heading, overflow="fold")
    for heading in ("weight", "sessions", "total", "up", "down", "connect failures"):
        table.add_column(heading, justify="right")
    table.add_column("last check", overflow="fold")
    for one in pool["backends"]:
        counts = [str(one[key]) for key in ("weight", "sessions_active", "sessions_total")]
        sizes = [size_text(one["bytes_up"]), size_text(one["bytes_down"])]
        health = Text(one["health"], HEALTH_STYLE[one["health"]])
        last = Text(_check_text(one["last_check"]))  # as text: "[fe80::1]:80" would be taken for markup
        table.add_row(Text(one["id"]), health, one["admin_state"], *counts, *sizes, str(one["connect_failures"]), last)
    return table


def _listener_table(listeners: list[dict[str, Any]]) -> Table:
    table = _table("listeners")
    for heading in ("listener", "address", "pool"):
        table.add_column(heading, overflow="fold")
    for heading in ("sessions", "total"):
        table.add_column(heading, justify="right")
    for one in listeners:
        counts = [str(one["sessions_active"]), str(one["sessions_total"])]
        table.add_row(Text(one["name"]), Text("\n".join(one["addresses"])), Text(one["pool"]), *counts)
    return table


@click.command()
@click.argument("pool", required=False, shell_complete=pools)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; its form is stable.")
@click.option("--admin", envvar="L4LB_ADMIN", metavar="ADDR", help="Admin API of the instance (env L4LB_ADMIN).")
@click.option("--token-file", envvar="L4LB_TOKEN_FILE", metavar="FILE", help="Its token (env L4LB_TOKEN_FILE).")
def status(pool: str | None, as_json: bool, admin: str | None, token_file: str | None) -> None:
    """Show what a running instance is doing."""
    with Client(admin or default_admin_address(), token=read_token(token_file)) as client:
        answer = client.pool(pool) if pool else client.status()
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    if pool:
        console.print(_pool_table(answer))
    else:
        _print_all(console, answer)


def read_token(file: str | None) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").strip() if file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{file}: cannot be read: {error}", param_hint="--token-file") from None


def _print_all(console: Console, answer: dict[str, Any]) -> None:
    head = f"l4lb {answer['version']}, {answer['state']}, process {answer['pid']}, up {answer['uptime_s']:.0f} s"
    console.print(f"{head}, snapshot {answer['snapshot_version']}, {answer['sessions_active']} sessions", markup=False)
    console.print(_listener_table(answer["listeners"]))
    for one in answer["pools"]:
        console.print(_pool_table(one))
