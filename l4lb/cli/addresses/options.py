"""The options that say which instance is asked, and what of it has to be ready. Shared by `l4lb health` and `l4lb
announce`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from l4lb.cli.addresses.asking import Instance, Scope, default_instance, parse_instance
from l4lb.errors import AdminError

F = TypeVar("F", bound=Callable[..., Any])
BACKENDS_MAX = 1_000_000


def _completed(what: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """The names of the instance that --admin names, asked for by a module that takes long to import."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        from l4lb.cli.shared import completing

        found: list[str] = getattr(completing, what)(ctx, param, incomplete)
        return found

    return complete


_OPTIONS = (
    click.option("--admin", envvar="L4LB_ADMIN", metavar="ADDR", help="Admin API of the instance (env L4LB_ADMIN)."),
    click.option(
        "--listener", "listeners", multiple=True, metavar="NAME", shell_complete=_completed("listeners"),
        help="A listener that has to accept; may be repeated. Default: all.",
    ),
    click.option(
        "--pool", "pools", multiple=True, metavar="NAME", shell_complete=_completed("pools"),
        help="A pool that has to have usable backends; may be repeated. Default: those of the listeners.",
    ),
    click.option(
        "--min-backends", type=click.IntRange(1, BACKENDS_MAX), default=1, show_default=True, metavar="N",
        help="How many have to be usable in each of these pools.",
    ),
)  # fmt: skip


def instance_options(command: F) -> F:
    """`admin`, `listeners`, `pools` and `min_backends`, for `instance_of`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def admin_address(admin: str | None) -> str:
    """Of the instance that is meant, as users write it."""
    text = admin or default_instance()
    try:
        parse_instance(text)
    except AdminError as error:
        raise click.BadParameter(str(error), param_hint="--admin") from None
    return text


def instance_of(admin: str | None, listeners: tuple[str, ...], pools: tuple[str, ...], min_backends: int) -> Instance:
    return Instance(parse_instance(admin_address(admin)), Scope(listeners, pools, min_backends))
