"""keepalived, by a file that it tracks: 0 while this node is fit for the addresses, else 1. It reads the file when
that is written (inotify), while it runs a check once a second at most. `l4lb vrrp-config` writes a configuration with
both: a node has to be fit by the file and by the check, which alone decides where nobody writes the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from l4lb.cli.addresses.engine import EngineError
from l4lb.cli.addresses.following import follow, following_options, withdraw_once, withdraw_option
from l4lb.cli.addresses.hysteresis import Level
from l4lb.cli.addresses.keepalived import TRACK_FILE


class Keepalived:
    """A node that drains is not fit: `nopreempt` leaves a master where it is, however low its priority. keepalived
    remembers nothing: it reads the file when it starts."""

    refresh_s = 0.0
    retry_s = 1.0
    inbox = -1
    said: Mapping[Level, str] = {
        Level.NORMAL: "this node is fit",
        Level.DRAINING: "this node is unfit",
        Level.WITHDRAWN: "this node is unfit",
    }

    def __init__(self, file: str) -> None:
        self._file = file

    def apply(self, level: Level) -> None:
        """At once or not at all: rename(2)."""
        new = f"{self._file}.new"
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
            try:
                os.write(fd, b"0\n" if level is Level.NORMAL else b"1\n")
            finally:
                os.close(fd)
            os.replace(new, self._file)
        except OSError as error:
            # ENOENT, of the directory; EACCES, EROFS, ENOSPC; EISDIR, ENXIO, ELOOP of what is there
            raise EngineError(f"{self._file}: {error.strerror}") from None

    def receive(self) -> None:
        """Nothing comes by itself."""


def _absolute(ctx: click.Context, param: click.Parameter, path: str) -> str:
    if not path.startswith("/"):
        raise click.BadParameter(f'"{path}": expected an absolute path')
    return path


@click.command()
@click.option(
    "--track-file", default=TRACK_FILE, show_default=True, metavar="FILE", callback=_absolute,
    help="The file that keepalived tracks, as in `l4lb vrrp-config`.",
)  # fmt: skip
@withdraw_option
@following_options
def keepalived(track_file: str, withdraw: bool, **following: Any) -> int:
    """Write a file by which keepalived knows whether this node is fit for its addresses.

    A node is fit while the instance is ready and does not drain. `l4lb vrrp-config` prints a keepalived.conf that
    tracks the file.
    """
    engine = Keepalived(track_file)
    return withdraw_once(engine) if withdraw else follow(engine, **following)
