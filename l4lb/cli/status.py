"""``l4lb status``: a running instance's pools and listeners as tables, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from l4lb.cli.completing import pools
from l4lb.cli.connection import admin_options, as_json, connected, console

HEALTH_STYLE = {"up": "green", "down": "red", "unknown": "yellow"}


def size_text(count: int) -> str:
    """Bytes in the largest unit that keeps them above 1."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def health_text(backend: Mapping[str, Any]) -> Text:
    """What this process sees and, where that differs, what most nodes of its fleet see, which counts."""
    own, fleet = backend["health"], backend["fleet_health"]
    if fleet in (None, own):
        return Text(own, HEALTH_STYLE[own])
    return Text(f"{own}, fleet: {fleet}", HEALTH_STYLE[fleet])


def drain_text(drain: Mapping[str, Any] | None) -> str:
    """Empty while it accepts."""
    if drain is None:
        return ""
    return "drained" if drain["over"] else f"drains, at most {drain['remaining_s']:.0f} s more"


def usage_text(usage: Mapping[str, Any] | None) -> str:
    """CPU and memory of the process; empty when it could not read them."""
    if usage is None:
        return ""
    return f"CPU {100 * usage['cpu_ratio']:.0f} %, memory {size_text(usage['memory_bytes'])}"


def fleet_text(known: Mapping[str, Any] | None) -> str:
    """Which node of which fleet it is, and what is wrong there; empty for a process that belongs to none."""
    if known is None:
        return ""
    drains = ", drained by an operator" if known["draining"] else ""
    error = f": {known['error']}" if known["error"] else ""
    return f"node {known['node']} of {known['prefix']}, generation {known['generation']}{drains}{error}"


def _check_text(check: Mapping[str, Any] | None) -> str:
    if check is None:
        return ""
    return f"{check['latency_ms']:.1f} ms" if check["ok"] else f"{check['step']}: {check['reason']}"


def _name_text(backend: Mapping[str, Any]) -> str:
    """Its id, and its address when it is given by name."""
    at = (backend.get("resolved") or {}).get("address")
    return f"{backend['id']}\nat {at}" if at else str(backend["id"])


def _last_text(backend: Mapping[str, Any]) -> str:
    """The last check, or why its name has no address."""
    nowhere = backend.get("resolved") and not backend["resolved"]["address"]
    return str(backend["passed_over"]) if nowhere else _check_text(backend["last_check"])


def titled(title: str) -> Table:
    return Table(title=Text(title), title_justify="left")


def counts_text(counts: dict[str, int]) -> str:
    """A line for each."""
    return "\n".join(f"{count} {reason}" for reason, count in counts.items())


def _datagrams(counted: Mapping[str, Any]) -> bool:
    return bool(counted["datagrams_up"] or counted["datagrams_down"])


def _packets_text(in_kernel: Mapping[str, Any] | None, key: str) -> str:
    """Nobody knows how many of them go down where backends answer directly."""
    count = in_kernel[key] if in_kernel else 0
    return "-" if count is None else str(count)


def discovery_text(known: Mapping[str, Any] | None) -> str:
    """Where the backends come from, how old that is, and what is wrong with it; empty for a pool without a source."""
    if known is None:
        return ""
    age = "" if known["age_s"] is None else f", {known['age_s']:.0f} s ago"
    held = f", {known['held']} held" if known["held"] else ""
    error = f": {known['error']}" if known["error"] else ""
    return f"discovery by {known['type']}: {known['backends']} backends{held}{age}{error}"


def pool_table(pool: Mapping[str, Any]) -> Table:
    """With datagrams, and network errors about them, and packets that the kernel forwarded, where there were any."""
    title = f"pool {pool['name']} ({pool['policy']})"
    table = titled("\n".join(filter(None, [title, discovery_text(pool["discovery"])])))
    for heading in ("backend", "health", "admin state"):
        table.add_column(heading, overflow="fold")
    datagrams = ("datagrams up", "datagrams down") if _datagrams(pool) else ()
    packets = ("packets up", "packets down") if pool["in_kernel"] else ()
    for heading in ("weight", "sessions", "total", "up", "down", *datagrams, *packets, "connect failures"):
        table.add_column(heading, justify="right")
    path_errors = any(one["path_errors"] for one in pool["backends"])
    if path_errors:
        table.add_column("path errors", overflow="fold")
    table.add_column("last check", overflow="fold")
    for one in pool["backends"]:
        counts = [str(one[key]) for key in ("weight", "sessions_active", "sessions_total")]
        sizes = [size_text(one["bytes_up"]), size_text(one["bytes_down"])]
        sizes += [str(one[heading.replace(" ", "_")]) for heading in datagrams]
        sizes += [_packets_text(one["in_kernel"], heading.replace(" ", "_")) for heading in packets]
        health = health_text(one)
        last = Text(_last_text(one))  # as text: "[fe80::1]:80" would be taken for markup
        said = [counts_text(one["path_errors"])] if path_errors else []
        failures = str(one["connect_failures"])
        table.add_row(Text(_name_text(one)), health, one["admin_state"], *counts, *sizes, failures, *said, last)
    return table


def kernel_text(in_kernel: Mapping[str, Any]) -> str:
    """The mode, and by which devices packets come in; what was tried there before, if anything."""
    devices = []
    for one in in_kernel["devices"]:
        tried = f" (not {one['tried']})" if one["tried"] else ""
        devices.append(f"{one['device']} by {one['way']}{tried}")
    return "\n".join([f"kernel, {in_kernel['mode']}", *devices])


def place_text(listener: Mapping[str, Any]) -> str:
    """In one line: its addresses, and of one that the kernel forwards its mode, and the ways it sees packets."""
    addresses = " ".join(listener["addresses"])
    if not listener["in_kernel"]:
        return addresses
    ways = sorted({one["way"] for one in listener["in_kernel"]["devices"]})
    return f"{addresses} {listener['in_kernel']['mode']}, {' '.join(ways)}"


def _listener_table(listeners: Sequence[Mapping[str, Any]]) -> Table:
    """With the engine, where there is more than the proxy."""
    table = titled("listeners")
    engines = any(one["in_kernel"] for one in listeners)
    for heading in ("listener", "protocol", *(["engine"] if engines else []), "address", "pool"):
        table.add_column(heading, overflow="fold")
    for heading in ("sessions", "total"):
        table.add_column(heading, justify="right")
    table.add_column("dropped", overflow="fold")
    for one in listeners:
        counts = [str(one["sessions_active"]), str(one["sessions_total"])]
        refusing = f"refusing clients: {one['refusing']}" if one["refusing"] else ""
        address = drain_text(one["drain"]) or "\n".join(filter(None, [*one["addresses"], refusing]))
        dropped = counts_text(one["dropped"])
        engine = [kernel_text(one["in_kernel"]) if one["in_kernel"] else one["engine"]] if engines else []
        texts = [one["name"], one["protocol"], *engine, address, one["pool"]]
        table.add_row(*map(Text, texts), *counts, dropped)
    return table


@click.command()
@click.argument("pool", required=False, shell_complete=pools)
@as_json
@admin_options
def status(pool: str | None, as_json: bool, admin: str | None, token_file: str | None) -> None:
    """Show what a running instance is doing."""
    with connected(admin, token_file) as client:
        answer = client.pool(pool) if pool else client.status()
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    if pool:
        console().print(pool_table(answer))
    else:
        _print_all(console(), answer)


def _print_all(console: Console, answer: Mapping[str, Any]) -> None:
    state = drain_text(answer["drain"]) or answer["state"]
    head = f"l4lb {answer['version']}, {state}, process {answer['pid']}, up {answer['uptime_s']:.0f} s"
    counted = f"snapshot {answer['snapshot_version']}, {answer['sessions_active']} sessions"
    console.print(", ".join(filter(None, [head, counted, usage_text(answer["usage"])])), markup=False)
    if said := fleet_text(answer.get("fleet")):
        console.print(said, markup=False)
    console.print(_listener_table(answer["listeners"]))
    for one in answer["pools"]:
        console.print(pool_table(one))
