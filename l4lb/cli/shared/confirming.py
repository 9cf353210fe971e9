"""``--yes`` and ``--dry-run`` of the commands that take something away from clients, and the question that they ask in
a terminal. A script, which has none, is not asked."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from l4lb.cli.shared.tables import is_terminal


@dataclass(frozen=True, slots=True)
class Asking:
    """What the user has said about questions in advance."""

    yes: bool = False
    dry_run: bool = False

    @property
    def looks(self) -> bool:
        """Whether `may` needs to be told what would happen."""
        return self.dry_run or (not self.yes and is_terminal(sys.stdin) and is_terminal(sys.stderr))

    def may(self, what: str, harmless: bool = False) -> bool:
        """Whether to do `what`; call it if it `looks`. False in a dry run, which prints it. Nobody is asked about what
        is `harmless`. click.ClickException when the answer is no."""
        if self.dry_run:
            click.echo(f"dry run: {what}")
            return False
        if harmless:
            return True
        click.echo(what, err=True)
        if not click.confirm("Go on?", err=True):
            raise click.ClickException("nothing was done")
        return True


def confirm_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives `command` an `asking`, the `Asking`."""

    @functools.wraps(command)
    def run(*given: Any, yes: bool, dry_run: bool, **others: Any) -> Any:
        return command(*given, asking=Asking(yes, dry_run), **others)

    click.option("--dry-run", is_flag=True, help="Only say what would happen.")(run)
    click.option("-y", "--yes", is_flag=True, help="Do not ask, as in a script, which has no terminal.")(run)
    return run
