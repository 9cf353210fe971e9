"""Switch a listener from its pool to another one (blue to green), watch that, and switch back when it goes wrong.

The pools stay as they are: only `pool` of [listeners.LISTENER] in the configuration FILE changes, and is reloaded, so
that a restart keeps it. New sessions go to the new pool at once, those that are there go on where they are. The way
back is the same command with the old pool.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import common
from common import Failed, Interrupted, Stop, say

from l4lb import Client, L4lbError
from l4lb.remote import RemotePool

LOOK_EVERY_S = 0.2

# ---- the file ----


def parsed(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Failed(f"{file}: {error}") from None


def with_pool(text: str, file: Path, listener: str, pool: str) -> str:
    """The same text, comments and all, with another `pool` of that listener. Failed when it is not on a line of its own
    in a table of its own."""
    lines, inside = text.splitlines(keepends=True), False
    header = re.compile(rf"\s*\[\s*listeners\s*\.\s*(['\"]?){re.escape(listener)}\1\s*\]")
    for number, line in enumerate(lines):
        if line.lstrip().startswith("["):
            inside = header.match(line) is not None
        elif inside and re.match(r"\s*pool\s*=", line):
            lines[number] = re.sub(r"=\s*(\"[^\"]*\"|'[^']*')", lambda _: f'= "{pool}"', line, count=1)
    changed, wanted = "".join(lines), parsed(text, file)
    wanted.get("listeners", {}).get(listener, {})["pool"] = pool
    if parsed(changed, file) != wanted:
        raise Failed(f'{file}: expected a line pool = "..." below [listeners.{listener}]; nothing has changed')
    return changed


def write(file: Path, text: str) -> None:
    """Whoever reads the file meanwhile finds the old one or the new one."""
    try:
        fd, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(fd, "w", encoding="utf-8", newline="") as out:
                out.write(text)
                os.fsync(out.fileno())
            status = file.stat()
            os.chmod(name, status.st_mode & 0o7777)
            os.chown(name, status.st_uid, status.st_gid)
            os.replace(name, file)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise Failed(f"{file}: cannot be replaced: {error.strerror}") from None


def read(file: Path) -> str:
    try:
        with file.open(encoding="utf-8", newline="") as text:  # line ends stay as they are
            return text.read()
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(f"{file}: cannot be read: {error}") from None


class Switch:
    """Sends a listener to a pool by its file. `file` must be the one that the instance reads."""

    def __init__(self, client: Client, listener: str, file: Path) -> None:
        self._client = client
        self._listener = listener
        self._file = Path(os.path.realpath(file))

    @property
    def pool(self) -> str:
        return self._client.listeners[self._listener].status["pool"]

    def check(self) -> None:
        said = parsed(read(self._file), self._file).get("listeners", {}).get(self._listener, {}).get("pool")
        if said != self.pool:
            there = f'the instance sends listener "{self._listener}" to pool "{self.pool}"'
            raise Failed(f'{self._file}: says pool = "{said}", but {there}: reload it first, or name its file')

    def to(self, pool: str) -> None:
        """Either all of it, or Failed and nothing."""
        before = read(self._file)
        write(self._file, with_pool(before, self._file, self._listener, pool))
        try:
            self._client.reload()
            if self.pool != pool:
                raise Failed(f"{self._file} is not the file of the instance at {self._client.address}")
        except (Failed, L4lbError) as error:
            write(self._file, before)
            with contextlib.suppress(L4lbError):  # should it have been applied all the same
                self._client.reload()
            raise Failed(f'not switched to pool "{pool}", and the file is as it was: {error}') from None


# ---- judging ----


def counted(pool: RemotePool) -> tuple[int, int]:
    """Sessions that were tried, and those that failed."""
    backends = pool.status["backends"]
    failures = sum(one["connect_failures"] + one["early_resets"] for one in backends)
    return sum(one["sessions_total"] + one["connect_failures"] for one in backends), failures


def gate(pool: RemotePool, least: int | None, timeout_s: float, stop: Stop) -> int:
    """Wait until enough backends may get sessions, by default all that are ready. Returns that number."""
    ready = [one["id"] for one in pool.status["backends"] if one["admin_state"] == "ready" and one["weight"] > 0]
    wanted = max(1, len(ready)) if least is None else least
    if not stop.until(lambda: len(common.usable(pool)) >= wanted, timeout_s):
        there = f"{len(common.usable(pool))} usable backends after {timeout_s:g} s"
        raise Failed(f'pool "{pool.name}" has {there}, expected {wanted}; nothing has changed')
    return wanted


def problem(pool: RemotePool, least: int, before: tuple[int, int], max_error_rate: float) -> str:
    """What is wrong with the new pool since `before`; empty: nothing."""
    if (there := len(common.usable(pool))) < least:
        return f"{there} usable backends, expected {least}"
    tried, failures = (now - then for now, then in zip(counted(pool), before, strict=True))
    if failures > max_error_rate * tried:
        return f"{failures} of {tried} sessions failed, more than {max_error_rate:.1%}"
    return ""


def watch_pool(pool: RemotePool, least: int, max_error_rate: float, seconds: float, stop: Stop) -> None:
    """Failed as soon as something is wrong."""
    before, until = counted(pool), time.monotonic() + seconds
    while time.monotonic() < until:
        stop.sleep(LOOK_EVERY_S)
        if found := problem(pool, least, before, max_error_rate):
            raise Failed(found)


def confirm(switch: Switch, old: str, watched: Callable[[], None]) -> None:
    """Switch back when what is watched goes wrong, or when Ctrl-C comes meanwhile."""
    try:
        watched()
    except (Failed, L4lbError) as error:
        switch.to(old)
        raise Failed(f'back at pool "{old}": {error}') from None
    except Interrupted:
        switch.to(old)
        raise Interrupted(f'back at pool "{old}"') from None


def end_sessions(client: Client, listener: str, pool: str, after_s: float, stop: Stop) -> None:
    """Let the old pool's sessions of that listener go on for a while, then reset them."""
    if not stop.until(lambda: not client.sessions(listener=listener, pool=pool, limit=1), after_s):
        say(f'{client.kill_sessions(listener=listener, pool=pool)} sessions at pool "{pool}" were reset')


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("listener")
@click.argument("pool")
@click.option("--file", required=True, metavar="FILE", type=click.Path(path_type=Path), help="What the instance reads.")
@click.option("--min-usable", type=click.IntRange(1), help="Usable backends that the new pool must have [all of it].")
@common.duration("--ready-timeout", "30s", "How long to wait for these.")
@common.duration("--watch", "30s", "How long to watch after the switch; Ctrl-C meanwhile switches back.")
@click.option(
    "--max-error-rate", type=click.FloatRange(0, 1), default=0.01, show_default=True, metavar="SHARE",
    help="Switch back when more of the new pool's sessions fail: connects, and resets before the first byte.",
)  # fmt: skip
@common.duration("--end-old", None, "Reset sessions at the old pool when they go on for longer [never].")
@common.admin_options
def main(
    listener: str,
    pool: str,
    file: Path,
    min_usable: int | None,
    ready_timeout: float,
    watch: float,
    max_error_rate: float,
    end_old: float | None,
    admin: str,
    token_file: str | None,
) -> None:
    stop = Stop()
    with common.connected(admin, token_file) as client:
        new, switch = client.pools[pool], Switch(client, listener, file)
        switch.check()
        if (old := switch.pool) == pool:
            say(f'listener "{listener}" is at pool "{pool}" already')
            return
        least = gate(new, min_usable, ready_timeout, stop)
        switch.to(pool)
        say(f'listener "{listener}": from pool "{old}" to pool "{pool}"')
        confirm(switch, old, lambda: watch_pool(new, least, max_error_rate, watch, stop))
        say(f"all is well; the way back: blue_green.py {listener} {old} --file {file}")
        if end_old is not None:
            end_sessions(client, listener, old, end_old, stop)


if __name__ == "__main__":
    common.run(main)
