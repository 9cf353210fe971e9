"""``l4lb``: the group of commands, and how errors leave it: on stderr; 1 failed, 2 usage or bad config."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from l4lb.errors import ConfigError, L4lbError
from l4lb.version import __version__

# By name, the module that has it: imported when it is asked for, since what serves needs ten times what status does.
COMMANDS = {
    "serve": "serve",
    "demo": "demo",
    "check": "check",
    "schema": "schema",
    "status": "status",
    "top": "top",
    "explain": "explain",
    "backend": "backend",
    "session": "session",
    "reload": "lifecycle",
    "drain": "lifecycle",
    "upgrade": "lifecycle",
    "completion": "completion",
}

EXTRAS = {"top": "top"}  # commands that need packages of an extra, and which


class Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        try:
            module = import_module(f"l4lb.cli.{COMMANDS[name]}")
        except ModuleNotFoundError as error:
            return _lacking(name, error)
        command: click.Command = getattr(module, name)
        return command


def _lacking(name: str, error: ModuleNotFoundError) -> click.Command:
    """A command whose packages are an extra of l4lb that is not installed: says so, whatever its arguments."""
    package = (error.name or "").partition(".")[0]
    if name not in EXTRAS or package == "l4lb":
        raise error

    def fail(arguments: tuple[str, ...]) -> None:
        raise click.ClickException(f"{name} needs {package}: pip install 'l4lb[{EXTRAS[name]}]'")

    words = click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)
    short = f"Needs more: pip install 'l4lb[{EXTRAS[name]}]'."
    settings = {"ignore_unknown_options": True}
    return click.Command(name, settings, fail, [words], short_help=short, add_help_option=False)


@click.group(cls=Commands, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="l4lb")
def cli() -> None:
    """A layer-4 load balancer."""


def main() -> None:
    """The console script."""
    sys.exit(run())


def run() -> int:
    """Run the command that was asked for; what goes wrong is told in one line first. The exit code."""
    try:
        return int(cli.main(prog_name="l4lb", standalone_mode=False) or 0)
    except click.UsageError as error:
        click.echo(f"l4lb: {error.format_message()}", err=True)
        if error.ctx is not None:
            click.echo(f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.", err=True)
        return 2
    except click.ClickException as error:
        click.echo(f"l4lb: {error.format_message()}", err=True)
    except click.Abort:
        click.echo("l4lb: interrupted", err=True)
    except ConfigError as error:
        click.echo(str(error), err=True)
        return 2
    except L4lbError as error:
        click.echo(f"l4lb: {error}", err=True)
    return 1
