"""Shared by the commands that talk to a running instance: options, values, progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from l4lb.model.durations import parse_duration, parse_long_duration
from l4lb.model.tokens import first_token
from l4lb.net.files import read_text

if TYPE_CHECKING:  # imported by those that use them: `l4lb health` is started each second
    from l4lb.client import Client

F = TypeVar("F", bound=Callable[..., Any])
_SAID_EVERY_S = 1.0  # without a terminal, where progress cannot rewrite its line


def _duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    try:
        return 0.0 if value in ("0", "0s") else None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def duration_option(name: str, description: str, default: str | None = None) -> Callable[[F], F]:
    """Seconds, from text such as 30s; 0 is "at once"."""
    return click.option(
        name, metavar="DURATION", callback=_duration, default=default, show_default=True, help=description
    )


def _long_duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_long_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def long_duration_option(name: str, parameter: str, description: str) -> Callable[[F], F]:
    return click.option(name, parameter, metavar="DURATION", callback=_long_duration, help=description)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON; its form is stable.")


def admin_options(command: F) -> F:
    """`admin` and `token_file`, for `connected`."""
    admin, token = "Admin API of the instance (env L4LB_ADMIN).", "Its token (env L4LB_TOKEN_FILE)."
    command = click.option("--token-file", envvar="L4LB_TOKEN_FILE", metavar="FILE", help=token)(command)
    return click.option("--admin", envvar="L4LB_ADMIN", metavar="ADDR", help=admin)(command)


def connected(admin: str | None, token_file: str | None) -> Client:
    from l4lb.client import Client
    from l4lb.net.listen.admin_socket import default_admin_address

    return Client(admin or default_admin_address(), token=read_token(token_file))


def read_token(file: str | None) -> str:
    """The token to send. click.BadParameter when the file has none."""
    try:
        return first_token(read_text(file)) if file else ""
    except OSError as error:
        said = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        said = "cannot be read: not UTF-8"
    except ValueError as error:
        said = str(error)
    raise click.BadParameter(f"{file}: {said}", param_hint="--token-file")


class Progress:
    """Shows progress on stderr: in a terminal one line that changes, otherwise a line per change, at most one per
    second."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._said = ""
        self._said_at = -_SAID_EVERY_S

    def say(self, text: str) -> None:
        now = time.monotonic()
        if self._terminal:
            click.echo(f"\r\033[K{text}", err=True, nl=False)
        elif text != self._said and now - self._said_at >= _SAID_EVERY_S:
            click.echo(text, err=True)
            self._said_at = now
        self._said = text

    def end(self) -> None:
        if self._terminal and self._said:
            click.echo(err=True)


def sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count} sessions"
