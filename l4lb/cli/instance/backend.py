"""``l4lb backend``: a pool's backends, listed and changed while they serve."""

from __future__ import annotations

import time
from typing import Any

import click

from l4lb.cli.shared.completing import backends as known_backends
from l4lb.cli.shared.completing import pools
from l4lb.cli.shared.confirming import Asking, confirm_options
from l4lb.cli.shared.connection import Progress, admin_options, connected, duration_option, sessions
from l4lb.cli.shared.groups import Group
from l4lb.cli.shared.listing import backend_table, every_backend, unhealthy
from l4lb.cli.shared.output import Form, json_text, output_options, show, table_text
from l4lb.remote import RemoteBackend, RemotePool

_POLL_S = 0.1
in_pool = click.argument("pool", shell_complete=pools)
addresses = click.argument("backends", metavar="ADDR...", nargs=-1, required=True, shell_complete=known_backends)


@click.group(cls=Group)
def backend() -> None:
    """List and change the backends of a pool. ADDR is a backend's address or id."""


@backend.command("list")
@in_pool
@click.option("--unhealthy", "only", is_flag=True, help="Only those that get no new session.")
@output_options
@admin_options
def list_(pool: str, only: bool, wanted: Form, admin: str | None, token_file: str | None) -> None:
    """List the backends of POOL, their health and sessions."""

    def text() -> str:
        with connected(admin, token_file) as client:
            answer = client.pool(pool)
        found = unhealthy([answer]) if only else every_backend([answer])
        if wanted.as_json:
            return json_text([one for _, one in found])
        return table_text(backend_table(found, every=wanted.name == "plain", pools=wanted.name == "plain"), wanted)

    show(wanted, text)


def _tag(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    wrong = [value for value in values if not value.partition("=")[0] or "=" not in value]
    if wrong:
        raise click.BadParameter(f'"{wrong[0]}": expected KEY=VALUE')
    return {value.partition("=")[0]: value.partition("=")[2] for value in values}


@backend.command()
@in_pool
@click.argument("address", metavar="ADDR", shell_complete=known_backends)
@click.option("--weight", type=int, help="Share of new sessions (1).")
@click.option("--max-sessions", type=int, help="Most sessions at a time (0: no limit).")
@click.option("--priority", type=int, help="0 goes first; a higher number serves when no lower one can (0).")
@click.option("--id", help="Identity for hashing and statistics (the address).")
@click.option("--zone", help="Where it is.")
@click.option("--admin-state", type=click.Choice(["ready", "drain", "maint"]), help="Its admin state at first (ready).")
@click.option(
    "--tag", "tags", multiple=True, metavar="KEY=VALUE", callback=_tag, help="A tag of your own; may be given again."
)
@admin_options
def add(pool: str, address: str, admin: str | None, token_file: str | None, **given: Any) -> None:
    """Add a backend to POOL; an existing one gets the given settings."""
    settings = {key: value for key, value in given.items() if value not in (None, {})}
    with connected(admin, token_file) as client:
        there = client.pool(pool)["backends"]
        added = RemotePool(client, pool).add(address, **settings)
    known = any(address in (one["id"], one["address"]) for one in there)
    click.echo(f"{pool}: {added.id}: {'was there' if known else 'added'}")


@backend.command()
@in_pool
@addresses
@duration_option("--drain", "How long its sessions may go on (as on_backend_removed says).")
@confirm_options
@admin_options
def remove(
    pool: str, backends: tuple[str, ...], drain: float | None, asking: Asking, admin: str | None, token_file: str | None
) -> None:
    """Take backends out of POOL."""
    with connected(admin, token_file) as client:
        found = _found(RemotePool(client, pool), backends)
        if not _may(RemotePool(client, pool), found, "be removed", True, asking):
            return
        for one in found:
            RemotePool(client, pool).remove(one.id, drain)
            click.echo(f"{pool}: {one.id}: removed")


def _found(pool: RemotePool, backends: tuple[str, ...]) -> list[RemoteBackend]:
    """Find all of them before anything is changed: a typing error must neither add one nor leave a change half done."""
    return [pool.find(one) for one in backends]


def _may(pool: RemotePool, found: list[RemoteBackend], what: str, out: bool, asking: Asking) -> bool:
    """Whether to go on. It is harmless when they do not go `out`, or the pool has others that are usable."""
    if not asking.looks:
        return True
    ids = [one.id for one in found]
    there = pool.status["backends"]
    count = sum(one["sessions_active"] for one in there if one["id"] in ids)
    usable = {one["id"] for one in there if one["usable"]}
    left = usable - set(ids)
    said = f"{', '.join(ids)}, with {sessions(count)}, would {what}"
    if out:
        said += f"; usable backends of pool {pool.name}: {len(usable)} now, {len(left)} then"
    return asking.may(said, harmless=not out or bool(left) or not usable)


def _set_all(
    pool: str, backends: tuple[str, ...], asking: Asking, admin: str | None, token_file: str | None, **settings: Any
) -> None:
    said = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items())
    with connected(admin, token_file) as client:
        found = _found(RemotePool(client, pool), backends)
        out = settings.get("admin_state") in ("drain", "maint") or settings.get("weight") == 0
        if not _may(RemotePool(client, pool), found, f"get {said}", out, asking):
            return
        for one in found:
            one.set(**settings)
            click.echo(f"{pool}: {one.id}: {said}")


@backend.command()
@in_pool
@addresses
@confirm_options
@admin_options
def ready(pool: str, backends: tuple[str, ...], asking: Asking, admin: str | None, token_file: str | None) -> None:
    """Let backends get new sessions (again)."""
    _set_all(pool, backends, asking, admin, token_file, admin_state="ready")


@backend.command()
@in_pool
@addresses
@confirm_options
@admin_options
def maint(pool: str, backends: tuple[str, ...], asking: Asking, admin: str | None, token_file: str | None) -> None:
    """Take backends out of service for maintenance: they get no new session, and health does not matter."""
    _set_all(pool, backends, asking, admin, token_file, admin_state="maint")


@backend.command()
@in_pool
@click.argument("address", metavar="ADDR", shell_complete=known_backends)
@click.argument("weight", type=int)
@confirm_options
@admin_options
def weight(pool: str, address: str, weight: int, asking: Asking, admin: str | None, token_file: str | None) -> None:
    """Set a backend's share of new sessions; 0: none."""
    _set_all(pool, (address,), asking, admin, token_file, weight=weight)


@backend.command()
@in_pool
@addresses
@click.option("--wait", is_flag=True, help="Wait until they have no session left; exit with 1 when some are left.")
@duration_option("--timeout", "With --wait: at most so long.", "30s")
@confirm_options
@admin_options
def drain(
    pool: str, backends: tuple[str, ...], wait: bool, timeout: float, asking: Asking, admin: str | None,
    token_file: str | None,
) -> int:  # fmt: skip
    """Give backends no new session; existing sessions go on."""
    with connected(admin, token_file) as client:
        draining = _found(RemotePool(client, pool), backends)
        if not _may(RemotePool(client, pool), draining, "get admin state drain", True, asking):
            return 0
        for one in draining:
            one.set(admin_state="drain")
        left = _wait(RemotePool(client, pool), draining, timeout) if wait else _left(RemotePool(client, pool), draining)
    for id_, count in left.items():
        click.echo(f"{pool}: {id_}: drain, {sessions(count)}")
    return 1 if wait and any(left.values()) else 0


def _left(pool: RemotePool, backends: list[RemoteBackend]) -> dict[str, int]:
    """Sessions by id, without backends that were removed meanwhile."""
    there = {one["id"]: one["sessions_active"] for one in pool.status["backends"]}
    return {one.id: there.get(one.id, 0) for one in backends}


def _wait(pool: RemotePool, backends: list[RemoteBackend], timeout_s: float) -> dict[str, int]:
    progress, deadline = Progress(), time.monotonic() + timeout_s
    try:
        while any((left := _left(pool, backends)).values()) and (remains := deadline - time.monotonic()) > 0:
            progress.say(f"{sessions(sum(left.values()))} left, at most {remains:.0f} s more")
            time.sleep(_POLL_S)
    finally:
        progress.end()
    return left
