"""``l4lb status``: a running instance's listeners, pools and backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from l4lb.cli.shared.completing import pools
from l4lb.cli.shared.connection import admin_options, connected
from l4lb.cli.shared.listing import (
    backend_table,
    every_backend,
    listener_table,
    needs_attention,
    pool_table,
    unhealthy,
)
from l4lb.cli.shared.output import Form, blocks, joined, json_text, output_options, show, table_text, width_of
from l4lb.cli.shared.tables import printable
from l4lb.cli.shared.texts import age_text, drain_text, fleet_text, usage_text

Shape = Mapping[str, Any]
_NAMED_MAX = 5


@click.command()
@click.argument("pool", required=False, shell_complete=pools)
@click.option("--unhealthy", "only", is_flag=True, help="Only the backends that get no new session, and why.")
@click.option("--summary", is_flag=True, help="Without the backends: a line for each listener and pool.")
@output_options
@admin_options
def status(
    pool: str | None,
    only: bool,
    summary: bool,
    wanted: Form,
    admin: str | None,
    token_file: str | None,
) -> None:
    """Show what a running instance, or one POOL of it, is doing. With -o plain: the backends, one on each line."""
    if (only or summary) and wanted.as_json:
        raise click.UsageError("JSON has all of it: --unhealthy and --summary are for tables")
    if only and summary:
        raise click.UsageError("--unhealthy shows backends, --summary leaves them out")

    def text() -> str:
        with connected(admin, token_file) as client:
            answer: Shape = client.pool(pool) if pool else client.status()
        if wanted.as_json:
            return json_text(answer)
        found: list[Shape] = [answer] if pool else answer["pools"]
        if wanted.name == "plain":
            return _plain(found, only, summary, wanted)
        shown = [] if summary else unhealthy(found) if only else every_backend(found)
        return blocks(
            [
                *([] if only or pool else _above(answer, wanted)),
                *([] if only or not found else [pool_table(found).lines(width_of(wanted))]),
                *([backend_table(shown, pools=not pool).lines(width_of(wanted))] if shown else []),
                _problems(found) or (["every backend gets new sessions"] if only and not shown else []),
            ]
        )

    show(wanted, text)


def _plain(pools: list[Shape], only: bool, summary: bool, wanted: Form) -> str:
    if summary:
        return table_text(pool_table(pools, every=True), wanted)
    return table_text(backend_table(unhealthy(pools) if only else every_backend(pools), every=True), wanted)


def _above(answer: Shape, wanted: Form) -> list[list[str]]:
    """What stands above the pools: the process and its listeners."""
    listeners = answer["listeners"]
    return [_head(answer), listener_table(listeners).lines(width_of(wanted)) if listeners else []]


def _head(answer: Shape) -> list[str]:
    state = drain_text(answer["drain"]) or answer["state"]
    lines = (
        f"l4lb {answer['version']}, {state}, process {answer['pid']}, up {age_text(answer['uptime_s'])}",
        joined(
            (
                f"snapshot {answer['snapshot_version']}, {answer['sessions_active']} sessions",
                usage_text(answer["usage"]),
            )
        ),
        fleet_text(answer.get("fleet")),
    )
    return [printable(line) for line in lines if line]


def _problems(pools: list[Shape]) -> list[str]:
    """At the end, where a long table on a terminal leaves it in sight. What an operator took out is no problem."""
    empty = [printable(one["name"]) for one in pools if not one["usable"]]
    backends = every_backend(pools)
    out = sum(needs_attention(one) for _, one in backends)
    lines = [f"pools without a usable backend: {len(empty)} of {len(pools)}: {_named(empty)}"] if empty else []
    if out:
        lines.append(f"backends that should get new sessions and do not: {out} of {len(backends)} (see --unhealthy)")
    slow = [printable(f"{one['id']} of {pool['name']}") for pool, one in backends if one.get("slow")]
    if slow:
        lines.append(f"backends much slower than their pool: {len(slow)} of {len(backends)}: {_named(slow)}")
    return lines


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(names[:_NAMED_MAX]) + more
