"""``l4lb``: the group of commands, and its exit codes: 1 failed, 2 usage or bad config, 130 interrupted (as shells
report SIGINT), 141 when the reader of the output has gone (SIGPIPE). Errors go to stderr."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from types import FrameType
from typing import Any

import click
from click.shell_completion import CompletionItem, add_completion_class

from l4lb.cli.shared.groups import Group
from l4lb.cli.shared.shells import Bash
from l4lb.errors import ConfigError, L4lbError
from l4lb.version import __version__

# The module and the summary of each command. A module is imported when its command is run, not to list it: serve needs
# ten times as much as status.
COMMANDS = {
    "serve": ("serve", "Run the load balancer."),
    "demo": ("demo", "Run a load balancer with small backends and traffic."),
    "check": ("check", "Check a configuration and print every error in it."),
    "convert": ("converting.convert", "Print a haproxy.cfg or nginx.conf as lb.toml."),
    "schema": ("schema", "Print the configuration's JSON Schema, for editors."),
    "status": ("instance.status", "Show what a running instance is doing."),
    "top": ("top.command", "Watch a running instance live, and change it by keys."),
    "explain": ("instance.explain", "Show which backend a client gets, and why."),
    "events": ("instance.events", "Show what has happened, and what happens."),
    "config": ("instance.config", "Show the configuration in use; compare it with a file."),
    "listener": ("instance.listener", "List, drain and resume the listeners."),
    "pool": ("instance.pool", "List the pools, a line for each."),
    "backend": ("instance.backend", "List and change the backends of a pool."),
    "session": ("instance.session", "List and end current sessions."),
    "source": ("instance.source", "List the heaviest sources of clients."),
    "ban": ("instance.ban", "Keep clients out at runtime, for a time."),
    "reload": ("instance.lifecycle", "Make the instance read its file again."),
    "drain": ("instance.lifecycle", "Stop accepting, let the sessions end, then exit."),
    "upgrade": ("instance.lifecycle", "Replace the instance by a new process."),
    "health": ("addresses.health", "Say by the exit code whether an instance is ready."),
    "announce": ("addresses.announce", "Announce virtual addresses by a routers' daemon."),
    "vrrp-config": ("addresses.vrrp", "Print a keepalived.conf that checks an instance."),
    "fleet": ("fleet.group", "Look after a fleet: its nodes, its configuration in etcd."),
    "completion": ("completion", "Print the script for completion in a shell."),
}

INTERRUPTED = 128 + signal.SIGINT
READER_LEFT = 128 + signal.SIGPIPE


class Left(Exception):
    """Ends a command without an error of its own. Bypasses click, which has other exit codes for this."""

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code


def _interrupted(number: int, frame: FrameType | None) -> None:
    """In an import, which a command may begin at any time, SIGINT still ends the process as the kernel does: Python
    ignores an exception that is raised while it forgets a module's lock."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        frame = frame.f_back
    raise KeyboardInterrupt


@contextlib.contextmanager
def _leaving() -> Iterator[None]:
    """Only output raises BrokenPipeError here: an instance that is gone is an AdminError. SIGINT, which ended the
    process at once until now, raises an exception meanwhile."""
    before = signal.getsignal(signal.SIGINT)
    try:
        if before == signal.SIG_DFL:
            signal.signal(signal.SIGINT, _interrupted)
        yield
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BrokenPipeError:
        raise Left(READER_LEFT) from None
    except KeyboardInterrupt:
        raise Left(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, before)


class Commands(Group):
    def make_context(self, *given: Any, **options: Any) -> click.Context:
        with _leaving():
            return super().make_context(*given, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _leaving():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module_name, summary = COMMANDS[name]
        module = import_module(f"l4lb.cli.{module_name}")
        if not gc.isenabled():  # see `l4lb.__main__`
            gc.freeze()
            gc.enable()
        command: click.Command = getattr(module, name.replace("-", "_"))
        command.short_help = summary
        return command

    def summaries(self, ctx: click.Context) -> list[tuple[str, str]]:
        return [(name, summary) for name, (_, summary) in COMMANDS.items()]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name, help=said) for name, said in self.summaries(ctx) if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="l4lb")
def cli() -> None:
    """A layer-4 load balancer."""


add_completion_class(Bash)


def main() -> None:
    """The console script, see `l4lb.__main__`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None, where it was closed
            stream.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    try:
        code = run()
    except OSError:  # stderr cannot be written either
        code = READER_LEFT
    for stream in (sys.stdout, sys.stderr):
        _drop_what_is_left(stream)
    sys.exit(code)


def _drop_what_is_left(stream: Any) -> None:
    """Discard output that cannot be written: the interpreter would try again at its end, and print an error."""
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run() -> int:
    """Run the given command, print an error as one line, and return the exit code."""
    try:
        return int(cli.main(prog_name="l4lb", standalone_mode=False) or 0)
    except Left as left:
        if left.exit_code == INTERRUPTED:
            click.echo("l4lb: interrupted", err=True)
        return left.exit_code
    except click.UsageError as error:
        click.echo(f"l4lb: {error.format_message()}", err=True)
        if error.ctx is not None:
            click.echo(f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.", err=True)
        return 2
    except click.ClickException as error:
        click.echo(f"l4lb: {error.format_message()}", err=True)
    except click.Abort:
        click.echo("l4lb: interrupted", err=True)
        return INTERRUPTED
    except ConfigError as error:
        click.echo(str(error), err=True)
        return 2
    except L4lbError as error:
        click.echo(f"l4lb: {error}", err=True)
    except BrokenPipeError:
        return READER_LEFT
    except OSError as error:  # such as ENOSPC where the output goes
        click.echo(f"l4lb: {error.strerror or error}", err=True)
    return 1
