"""``l4lb``: the group of commands, and how errors leave it: on stderr; 1 failed, 2 usage or bad config."""

from __future__ import annotations

import sys

import click

from l4lb.cli.check import check
from l4lb.cli.completion import completion
from l4lb.cli.demo import demo
from l4lb.cli.explain import explain
from l4lb.cli.schema import schema
from l4lb.cli.serve import serve
from l4lb.cli.status import status
from l4lb.errors import ConfigError, L4lbError
from l4lb.version import __version__


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="l4lb")
def cli() -> None:
    """A layer-4 load balancer."""


for command in (serve, demo, check, schema, status, explain, completion):
    cli.add_command(command)


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
