"""``l4lb reload``, ``l4lb drain``, ``l4lb upgrade``: the life of a running instance."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any

import click

from l4lb.cli.shared.completing import listeners
from l4lb.cli.shared.confirming import Asking, confirm_options
from l4lb.cli.shared.connection import Progress, admin_options, connected, duration_option, sessions
from l4lb.cli.shared.texts import age_text
from l4lb.client import Client
from l4lb.errors import AdminError, ConfigError, Problem
from l4lb.remote import RemoteListener
from l4lb.remote import drain as asked_to_drain

_POLL_S = 0.1


@click.command()
@admin_options
def reload(admin: str | None, token_file: str | None) -> None:
    """Make the instance read its file again. A wrong file changes nothing."""
    with connected(admin, token_file) as client:
        try:
            changes = client.reload()
        except AdminError as error:
            if error.code != "invalid":
                raise
            raise ConfigError([Problem("", line) for line in str(error).splitlines()]) from None
    for kind, counts in (("listeners", changes.listeners), ("pools", changes.pools), ("backends", changes.backends)):
        click.echo("{}: {} added, {} removed, {} changed".format(kind, *counts))
    if changes.needs_restart:
        click.echo(f"l4lb: from the next upgrade or restart on: {', '.join(changes.needs_restart)}", err=True)


@click.command()
@admin_options
def upgrade(admin: str | None, token_file: str | None) -> None:
    """Replace the instance by a new process, without a refused or reset connection."""
    with connected(admin, token_file) as client:
        pid = client.upgrade()
    click.echo(f"process {pid} accepts now; the one before it drains")


@click.command()
@click.option(
    "--listener",
    default="",
    metavar="NAME",
    shell_complete=listeners,
    help="Drain this listener alone; the process goes on. As `l4lb listener drain`.",
)
@duration_option("--timeout", "How long sessions may go on (drain_timeout).")
@click.option(
    "--wait", is_flag=True, help="Wait until it is over, with progress; exit with 1 when sessions had to be reset."
)
@click.option("--undo", is_flag=True, help="With --listener: let it accept again. As `l4lb listener resume`.")
@confirm_options
@admin_options
def drain(
    listener: str, timeout: float | None, wait: bool, undo: bool, asking: Asking, admin: str | None,
    token_file: str | None,
) -> int:  # fmt: skip
    """Stop accepting, let the sessions end, then exit: the instance, or one listener of it."""
    if undo and (not listener or wait or timeout is not None or asking.dry_run):
        raise click.UsageError("--undo goes with --listener alone")
    if undo:
        with connected(admin, token_file) as client:
            resume_listener(client, listener)
        return 0
    return drain_what(lambda: connected(admin, token_file), listener, timeout, wait, asking)


def resume_listener(client: Client, listener: str) -> None:
    RemoteListener(client, listener).resume()
    click.echo(f"listener {listener}: accepts")


def drain_what(connect: Callable[[], Client], listener: str, timeout: float | None, wait: bool, asking: Asking) -> int:
    """Drain `listener` or, without one, the instance; the exit code. A listener can resume, so nobody is asked."""
    what = f"listener {listener}" if listener else "the instance"
    with connect() as client:
        if asking.looks and not asking.may(_what_a_drain_does(client, listener, timeout), harmless=bool(listener)):
            return 0
        if not wait:
            said = asked_to_drain(client, False, timeout, listener)
            click.echo(f"{what}: drains, {sessions(said['sessions_active'])}, at most {said['remaining_s']:.0f} s")
            return 0
        with connect() as watching:
            cut = _watched(lambda: asked_to_drain(client, True, timeout, listener), watching, listener)["sessions_cut"]
    click.echo(f"{what}: drained, {f'{sessions(cut)} reset' if cut else 'no session was left'}")
    return 1 if cut else 0


def _what_a_drain_does(client: Client, listener: str, timeout: float | None) -> str:
    """What would happen, with the numbers of now. AdminError for an unknown listener."""
    limit = client.config["global"]["drain_timeout"] if timeout is None else timeout
    then = f"its sessions may go on for {age_text(limit)}, then they are reset"
    if listener:
        count = sessions(RemoteListener(client, listener).status["sessions_active"])
        return f"listener {listener}, with {count}, would refuse new clients; {then}"
    status = client.status()
    listeners = ", ".join(one["name"] for one in status["listeners"]) or "no listener"
    return (
        f"process {status['pid']} at {client.address}, with {sessions(status['sessions_active'])}, would stop accepting"
        f" ({listeners}); {then}, and it exits"
    )


def _watched(drain: Callable[[], Mapping[str, Any]], watching: Client, listener: str) -> Mapping[str, Any]:
    """Return the result of `drain`, and show progress meanwhile. It waits on a thread, which an interrupt abandons."""
    over: Future[Mapping[str, Any]] = Future()

    def run() -> None:
        try:
            over.set_result(drain())
        except BaseException as error:
            over.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    progress = Progress()
    try:
        while not wait_for([over], timeout=_POLL_S).done:
            with contextlib.suppress(AdminError):
                said = RemoteListener(watching, listener).status if listener else watching.status()
                if said["drain"] is not None and said["drain"]["sessions_active"]:
                    progress.say(_progress(said["drain"]))
        return over.result()
    except AdminError as error:
        if error.code == "unreachable":
            raise AdminError("the instance ended before its drain was over") from error
        raise
    finally:
        progress.end()


def _progress(drain: Mapping[str, Any]) -> str:
    return f"{sessions(drain['sessions_active'])} left, at most {drain['remaining_s']:.0f} s more"
