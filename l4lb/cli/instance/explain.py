"""``l4lb explain POOL SOURCE``, ``l4lb explain LISTENER SOURCE``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypedDict

import click

from l4lb.cli.shared.completing import pools_and_listeners
from l4lb.cli.shared.connection import admin_options, as_json, connected


class Said(TypedDict):
    """What a client of a listener sends."""

    sni: str | None
    alpn: tuple[str, ...]
    first: str


@click.command()
@click.argument("name", metavar="POOL|LISTENER", shell_complete=pools_and_listeners)
@click.argument("source")
@click.option("-c", "--config", "file", metavar="FILE", help="Explain from this file, as if every backend were up.")
@click.option(
    "--to", default="", metavar="ADDR", help="The address that the client connects to, for a hash_key that needs it."
)
@click.option("--sni", metavar="NAME", help="A client of LISTENER whose ClientHello names this server.")
@click.option("--alpn", multiple=True, metavar="PROTOCOL", help="... and offers this protocol, such as h2; repeatable.")
@click.option("--first", default="", metavar="BYTES", help="... or whose first bytes are these, text or hex:...")
@as_json
@admin_options
def explain(
    name: str,
    source: str,
    file: str | None,
    to: str,
    sni: str | None,
    alpn: tuple[str, ...],
    first: str,
    as_json: bool,
    admin: str | None,
    token_file: str | None,
) -> None:
    """Show which backend a client at SOURCE (address, or address:port) gets, and why: of POOL, or by the routes of
    LISTENER, which is meant when --sni, --alpn or --first is given, or no pool has that name."""
    said: Said = {"sni": sni, "alpn": alpn, "first": first}
    if file is not None:
        answer: Mapping[str, Any] = _offline(file, name, source, to, said)
    else:
        with connected(admin, token_file) as client:
            if _of_listener(said) or (name not in client.pools and name in client.listeners):
                answer = client.listeners[name].explain(source, to, **said) if name in client.listeners else _no(name)
            else:
                answer = client.explain(name, source, to)
    click.echo(json.dumps(answer, indent=2) if as_json else "\n".join(_lines(answer)))


def _of_listener(said: Said) -> bool:
    return said["sni"] is not None or bool(said["alpn"] or said["first"])


def _no(name: str, kind: str = "listener", known: Mapping[str, Any] | None = None) -> Any:
    there = f"; there are {', '.join(known)}" if known else ""
    raise click.BadParameter(f'"{name}": no such {kind}{there}', param_hint=kind.upper())


def _offline(file: str, name: str, source: str, to: str, said: Said) -> Mapping[str, Any]:
    from l4lb import offline  # imports the whole product
    from l4lb.control.fleet.reading import load

    config = load(file)
    try:
        if _of_listener(said) or (name not in config.pools and name in config.listeners):
            if name not in config.listeners:
                _no(name, known=config.listeners)
            return offline.explain_listener(config, name, source, to, **said)
        if name not in config.pools:
            _no(name, "pool", config.pools)
        return offline.explain_pool(config, name, source, to)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _lines(answer: Mapping[str, Any]) -> list[str]:
    if "backend" not in answer:
        return _pool_lines(answer)
    backend = answer["backend"]
    lines = [f"listener {answer['listener']} refuses all clients: {answer['refusing']}"] if answer["refusing"] else []
    lines += [f"listener {answer['listener']}: {_route(answer)} to pool {backend['pool']}"]
    lines += [
        f"  not route {one['number']} (to {', '.join(one['pools'])}): {one['condition']} does not match"
        for one in answer["passed"]
    ]
    return lines + _pool_lines(backend)


def _route(answer: Mapping[str, Any]) -> str:
    if answer["route"] is None:
        return "no route takes this client, so it goes"
    conditions = ", ".join(f"{option} {' '.join(wanted)}" for option, wanted in answer["conditions"].items())
    split = " ".join(f"{pool}={weight}" for pool, weight in answer["split"].items())
    by = f", one of {split} by its address," if split else ""
    return f"route {answer['route']} ({conditions or 'all clients'}) takes this client{by}"


def _pool_lines(answer: Mapping[str, Any]) -> list[str]:
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
        slow = f" (slow: {one['slow']})" if one["slow"] else ""
        lines.append(f"  {number}. {one['id']}{of}{' (at max_sessions)' if one['full'] else ''}{slow}")
    lines += [f"  passed over: {id_}: {reason}" for id_, reason in answer["passed_over"].items()]
    return lines
