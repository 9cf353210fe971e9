"""Writes the man pages: l4lb(1) and one for each command, from the commands themselves; lb.toml(5) from
lb.toml.example. `make man` runs it: ``python contrib/manual.py build/man``.

The date is SOURCE_DATE_EPOCH's, or today.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from l4lb.cli.main import cli
from l4lb.version import __version__

EXAMPLE = Path(__file__).parent.parent / "lb.toml.example"

EXIT_STATUS = (("0", "Done."), ("1", "Failed."), ("2", "Wrong usage, or a configuration that cannot be used."))
SIGNALS = (
    (
        "SIGTERM, SIGINT",
        "Refuse new clients, let sessions finish up to drain_timeout, exit 0. A second one exits at once. "
        "At a restart by systemd that keeps descriptors, sessions go on in the next process instead.",
    ),
    ("SIGHUP", "Reload the configuration. A wrong one changes nothing; the log says why."),
    ("SIGUSR1", "Open the files of log and access_log again, for logrotate(8)."),
    ("SIGUSR2", "Upgrade: a new process takes over the listening sockets and all sessions, and this one ends."),
)
ENVIRONMENT = (
    ("L4LB_ADMIN", "Address of the admin API, for commands that ask a running instance."),
    ("L4LB_TOKEN_FILE", "File with its token."),
    ("L4LB_FLEET", "URL of the fleet, for l4lb-fleet(1)."),
    ("L4LB_NODE", "Name of this node in its fleet, for l4lb-serve(1)."),
    ("RUNTIME_DIRECTORY", "Where the admin API's socket is by default, as systemd sets it."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "Set by the service manager: sd_notify(3)."),
    ("LISTEN_FDS, LISTEN_FDNAMES", 'Sockets that it passed, for bind = "fd:NAME": sd_listen_fds(3).'),
)
FILES = (
    ("/etc/l4lb/lb.toml", "The configuration of the service: lb.toml(5)."),
    ("/run/l4lb/admin.sock", "The admin API of the service, or of an instance that root started."),
    ("$XDG_RUNTIME_DIR/l4lb/admin.sock", "The admin API of an instance that another user started."),
)

Entries = Iterator[tuple[str, str]] | tuple[tuple[str, str], ...]


# ---- roff: man(7) ----


_ESCAPES = str.maketrans(
    {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}
)


def plain(text: str) -> str:
    """`text` so that none of it is an instruction."""
    lines = text.translate(_ESCAPES).splitlines()
    return "\n".join("\\&" + line if line.startswith(".") else line for line in lines)


def filled(text: str) -> str:
    """The same for text whose lines are filled anyway; short ones."""
    return plain(textwrap.fill(text, 64, break_long_words=False, break_on_hyphens=False))


def heading(name: str, section: int) -> str:
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    date = datetime.fromtimestamp(int(seconds), UTC) if seconds else datetime.now(UTC)
    return f'.TH {plain(name).upper()} {section} {date:%Y-%m-%d} "l4lb {plain(__version__)}" "l4lb"'


def section(title: str, *lines: str) -> list[str]:
    return [f'.SH "{title}"', *lines]


def entries(found: Entries) -> list[str]:
    return [line for term, text in found for line in (".TP", f".B {plain(term)}", filled(text) or "\\&")]


def references(*names: str) -> str:
    """Bold names with their sections, as in SEE ALSO."""
    split = (name.rstrip(")").partition("(") for name in names)
    return "\n".join(f".BR {plain(name)} ({number})," for name, _, number in split).rstrip(",")


# ---- commands ----


def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Context]]:
    """Every command below and its own, depth first, with a context to describe it in."""
    context = click.Context(command, info_name=" ".join(path), **cli.context_settings)
    yield path, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk(found, (*path, name))


def paragraphs(help_: str) -> list[str]:
    r"""click's help: paragraphs, of which those that begin with \b keep their lines."""
    lines: list[str] = []
    for number, block in enumerate(re.split(r"\n\s*\n", help_.strip())):
        kept = block.startswith("\b")
        lines += [".PP"] if number else []
        lines += [".nf", plain(block.removeprefix("\b").strip("\n")), ".fi"] if kept else [filled(block)]
    return lines


def options(context: click.Context) -> Entries:
    rows = (param.get_help_record(context) for param in context.command.get_params(context))
    return tuple(row for row in rows if row is not None and row[1])


def command_page(path: tuple[str, ...], context: click.Context) -> str:
    command = context.command
    summary = command.get_short_help_str(200).rstrip(".")
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [heading("-".join(path), 1)]
    lines += section("NAME", filled(f"{'-'.join(path)} \0 {summary}").replace("\0", "\\-"))
    lines += section("SYNOPSIS", f".B {plain(' '.join(path))}", plain(usage))
    lines += section("DESCRIPTION", *paragraphs(inspect.cleandoc(command.help or "")))
    if isinstance(command, click.Group):
        names = command.list_commands(context)
        found = ((name, command.get_command(context, name)) for name in names)
        described = tuple((f"{' '.join(path)} {name}", one.get_short_help_str(200)) for name, one in found if one)
        lines += section("COMMANDS", *entries(described))
    lines += section("OPTIONS", *entries(options(context)))
    if path == ("l4lb",) or path[1] == "serve":
        lines += section("SIGNALS", "Of l4lb serve:", *entries(SIGNALS))
    lines += section("EXIT STATUS", *entries(EXIT_STATUS))
    if path == ("l4lb",):
        lines += section("ENVIRONMENT", *entries(ENVIRONMENT)) + section("FILES", *entries(FILES))
    lines += section("SEE ALSO", see_also(path, context))
    return "\n".join(lines) + "\n"


def see_also(path: tuple[str, ...], context: click.Context) -> str:
    command = context.command
    below = command.list_commands(context) if isinstance(command, click.Group) else []
    above = [f"{'-'.join(path[:-1])}(1)"] if path[1:] else []
    return references(*above, *(f"{'-'.join((*path, name))}(1)" for name in below), "lb.toml(5)")


# ---- the configuration ----


_HEADER = re.compile(r"(\[[\w.]+\])\s*(?:# (.*))?$")
_OPTION = re.compile(r"#?(\w+ = .*?)(?:\s+# (.*))?$")


def example_entries(text: str) -> Iterator[tuple[str, str]]:
    """(line, what it means) for each option, and (table, "") for each header. Values and comments of several lines are
    joined."""
    whole = re.sub(
        r"\[\n(.*?)\n\]", lambda match: "[" + " ".join(match[1].split()).rstrip(",") + "]", text, flags=re.DOTALL
    )
    whole = re.sub(r"\n {10,}# ", " ", whole)
    for line in whole.splitlines():
        match = _HEADER.match(line) or _OPTION.match(line)
        if match:
            yield match[1], match[2] or ""


def configuration_page() -> str:
    text = EXAMPLE.read_text(encoding="utf-8")
    intro, _, rest = text.partition("\n\n")
    lines = [heading("lb.toml", 5)]
    lines += section("NAME", "lb.toml \\- configuration of l4lb")
    lines += section("DESCRIPTION", filled("A TOML file. Each option stands here with its default or an example."))
    lines += [".PP", filled(" ".join(line.lstrip("# ") for line in intro.splitlines()[1:]))]
    for line, meaning in example_entries(rest):
        if line.startswith("["):
            lines += section(plain(line.strip("[]"))) + ([filled(meaning)] if meaning else [])
        else:
            lines += entries(((line, meaning),))
    lines += section("SEE ALSO", references("l4lb(1)", "l4lb-check(1)", "l4lb-schema(1)"))
    return "\n".join(lines) + "\n"


def pages() -> Iterator[tuple[str, str]]:
    """(file name, content)."""
    for path, context in walk(cli, ("l4lb",)):
        yield f"{'-'.join(path)}.1", command_page(path, context)
    yield "lb.toml.5", configuration_page()


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in pages():
        (directory / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
