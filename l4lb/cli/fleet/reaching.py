"""Shared by the commands for a fleet: where its etcd is, who asks, and how long is waited."""

from __future__ import annotations

import asyncio
import getpass
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import click

from l4lb.cli.shared.connection import Progress
from l4lb.control.fleet.place import Place, parse_place
from l4lb.control.fleet.store import FleetError, Overview, Store, opened
from l4lb.errors import L4lbError
from l4lb.net.services.json_api import ApiError

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
_LOOK_EVERY_S = 0.3
_COMPLETED_WITHIN_S = 1.0  # by each answer of etcd

fleet_option = click.option(
    "--fleet", "url", envvar="L4LB_FLEET", metavar="URL", help="The fleet, etcd://HOST/PREFIX (env L4LB_FLEET)."
)


def asked(url: str | None, call: Callable[[Store], Awaitable[T]]) -> T:
    """What `call` returns of the fleet at `url`."""
    if not url:
        raise click.UsageError("give the fleet: --fleet etcd://HOST:2379/PREFIX, or L4LB_FLEET in the environment")
    try:
        place = parse_place(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--fleet") from None

    try:
        return asyncio.run(_ask(place, call))
    except ApiError as error:
        raise FleetError(f"{place.url}: {_said_by_etcd(error)}") from None


async def _ask(place: Place, call: Callable[[Store], Awaitable[T]]) -> T:
    async with opened(place) as store:
        return await call(store)


def live_nodes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For shell completion. A fleet that does not answer at once completes nothing."""
    try:
        place = parse_place(ctx.params.get("url") or "")
        place = replace(place, access=replace(place.access, timeout_s=_COMPLETED_WITHIN_S))
        found = asyncio.run(_ask(place, Store.overview))
    except (ApiError, L4lbError, OSError, ValueError):
        return []
    return [name for name in sorted(found.nodes) if name.startswith(incomplete)]


def _said_by_etcd(error: ApiError) -> str:
    return f"etcd refuses that: {error}" if error.status else f"etcd does not answer: {error}"


def this_user() -> str:
    """Who is named in the history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = "?"
    return f"{user}@{socket.gethostname()}"


async def waited(store: Store, judge: Callable[[Overview], str], timeout_s: float) -> str:
    """Look at the fleet until `judge` says nothing more, or time is over; what it said last. Shows that meanwhile. An
    etcd that is away for a moment is waited for, too."""
    progress, deadline = Progress(), time.monotonic() + timeout_s
    try:
        while True:
            try:
                said = judge(await store.overview())
            except ApiError as error:
                said = _said_by_etcd(error)
            if not said or time.monotonic() > deadline:
                return said
            progress.say(said)
            await asyncio.sleep(_LOOK_EVERY_S)
    finally:
        progress.end()
