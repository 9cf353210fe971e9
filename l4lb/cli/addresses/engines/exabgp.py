"""ExaBGP's process API: ExaBGP starts this process and reads commands from its stdout, a line each. It answers "done"
or "error" on stdin, in the same order, and closes that when it ends. ``exabgp.api.ack`` may be off: then nothing comes.

A route stays in ExaBGP when the process that announced it dies; ExaBGP starts the process again, whose first command
says what holds now.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from l4lb.cli.addresses.asking import one_line
from l4lb.cli.addresses.engine import ANNOUNCED, DaemonGone, EngineError
from l4lb.cli.addresses.following import follow, following_options
from l4lb.cli.addresses.hysteresis import Level
from l4lb.cli.addresses.prefixes import Prefix, Routes, checked, next_hop_option, parse_host, route_options

WRITTEN_WITHIN_S = 5.0
_READ_BYTES = 1 << 16
_LINE_MAX = 4096  # of an answer; a longer one is not for us
_UNANSWERED_MAX = 4096  # commands that are remembered; with ack off none is ever answered


class ExaBgp:
    refresh_s = 0.0
    retry_s = 10.0
    said: Mapping[Level, str] = ANNOUNCED

    def __init__(self, routes: Routes, peers: Sequence[str], syntax: int, inbox: int = 0, outbox: int = 1) -> None:
        self.inbox = inbox
        self._outbox = outbox
        self._routes = routes
        self._targets = _targets(peers, syntax)
        self._asked: deque[str] = deque(maxlen=_UNANSWERED_MAX)
        self._read = b""

    def apply(self, level: Level) -> None:
        for line in self.commands(level):
            self._write(line)

    def commands(self, level: Level) -> Iterator[str]:
        for prefix in self._routes.prefixes:
            for target in self._targets:
                yield f"{target}{self._command(prefix, level)}"

    def _command(self, prefix: Prefix, level: Level) -> str:
        route = f"route {prefix} next-hop {self._routes.next_hop_of(prefix) or 'self'}"
        if level is Level.WITHDRAWN:
            return f"withdraw {route}"
        communities = f" community [ {' '.join(self._routes.communities)} ]" if self._routes.communities else ""
        return f"announce {route} med {self._routes.med_of(level)}{communities}"

    def _write(self, line: str) -> None:
        """All of the line or nothing of it: a pipe takes up to PIPE_BUF bytes at once when it takes any, pipe(7)."""
        if not select.select([], [self._outbox], [], WRITTEN_WITHIN_S)[1]:
            raise EngineError(f"ExaBGP has read nothing for {WRITTEN_WITHIN_S:g} s")
        try:
            os.write(self._outbox, f"{line}\n".encode("ascii"))
        except OSError as error:  # EPIPE; ENOSPC where stdout is a file
            raise DaemonGone(f"ExaBGP reads no more: {error.strerror}") from None
        self._asked.append(line)

    def receive(self) -> None:
        try:
            data = os.read(self.inbox, _READ_BYTES)
        except OSError as error:
            raise DaemonGone(f"ExaBGP cannot be read: {error.strerror}") from None
        if not data:
            raise DaemonGone("ExaBGP has ended")
        *lines, rest = (self._read + data).split(b"\n")
        self._read = rest[-_LINE_MAX:]
        refused = [said for line in lines if (said := self._answered(line.decode("utf-8", "replace").strip()))]
        if refused:
            raise EngineError(refused[0])

    def _answered(self, line: str) -> str:
        """What was refused; empty for anything else, such as what ExaBGP tells all its processes about neighbors."""
        if not line.startswith(("done", "error")):
            return ""
        asked = self._asked.popleft() if self._asked else "a command"
        return f"ExaBGP answers {one_line(line)[:200]!r} to: {asked}" if line.startswith("error") else ""


def _targets(peers: Sequence[str], syntax: int) -> list[str]:
    """How commands begin, for each peer or for all."""
    if syntax == 6:
        return [f"peer {peer} " for peer in peers] or ["peer * "]
    return [f"neighbor {peer} " for peer in peers] or [""]


def _neighbors(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(parse_host(text)) for text in texts))


@click.command()
@route_options
@next_hop_option
@click.option(
    "--neighbor", "neighbors", multiple=True, metavar="IP", callback=checked(_neighbors),
    help="A neighbor to whom the routes are announced; may be repeated. Default: all.",
)  # fmt: skip
@click.option(
    "--syntax", type=click.Choice(["4", "6"]), default="4", show_default=True,
    help="Of ExaBGP's commands: 4 up to version 5, 6 from version 6 on.",
)  # fmt: skip
@following_options
def exabgp(
    prefixes: tuple[Prefix, ...],
    med: int,
    drain_med: int,
    communities: tuple[str, ...],
    next_hops: tuple[tuple[int, str], ...],
    neighbors: tuple[str, ...],
    syntax: str,
    **following: Any,
) -> int:
    """Announce PREFIX... as a process of ExaBGP.

    ExaBGP starts it (`process l4lb { run ...; encoder text; }`), reads its stdout and answers on its stdin. When ExaBGP
    ends, this ends too.
    """
    if os.isatty(0) or os.isatty(1):
        raise click.UsageError("this is started by ExaBGP, which reads its output; see docs/announce.md")
    routes = Routes(prefixes, med, drain_med, communities, next_hops)
    return follow(ExaBgp(routes, neighbors, int(syntax)), **following)
