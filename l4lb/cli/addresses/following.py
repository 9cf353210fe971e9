"""What the commands of all engines share: which instance is followed, how closely, and how to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from l4lb.cli.addresses.announcing import Announcer, Pace, say
from l4lb.cli.addresses.engine import Engine, EngineError
from l4lb.cli.addresses.hysteresis import Level
from l4lb.cli.addresses.options import instance_of, instance_options
from l4lb.cli.shared.connection import duration_option

F = TypeVar("F", bound=Callable[..., Any])

_PACE = (
    duration_option("--interval", "How often the instance is asked.", "200ms"),
    duration_option("--rise", "So long it has to be ready before it is announced again.", "3s"),
    duration_option("--fall", "So long it may be not ready before the addresses are withdrawn.", "0"),
    duration_option("--fail-after", "An instance that hangs counts as down so long after its last answer.", "3s"),
    duration_option("--gone-after", "The same of one that has ended: for restarts that keep sessions.", "0"),
)
withdraw_option = click.option(
    "--withdraw", is_flag=True, help="Only withdraw, and end: for ExecStopPost= of the unit."
)
refresh_option = duration_option(
    "--refresh", "How often the daemon is told again, since it may have been restarted.", "5s"
)


def following_options(command: F) -> F:
    """Those for `follow`."""
    for option in reversed(_PACE):
        command = option(command)
    return instance_options(command)


def follow(engine: Engine, **options: Any) -> int:
    """Run until a signal; the exit code. `options` are those of `following_options`."""
    names = ("admin", "listeners", "pools", "min_backends")
    instance = instance_of(*(options.pop(name) for name in names))
    for name in ("interval", "fail_after"):
        if not options[name]:
            raise click.BadParameter("expected a duration above 0", param_hint=f"--{name.replace('_', '-')}")
    return Announcer(engine, instance, Pace(**options)).run()


def withdraw_once(engine: Engine) -> int:
    """The exit code."""
    try:
        engine.apply(Level.WITHDRAWN)
    except EngineError as error:
        say(f"cannot be told to withdraw: {error}")
        return 1
    return 0
