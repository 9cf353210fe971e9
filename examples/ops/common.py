"""What the scripts beside this file share: options, exit codes, Ctrl-C, waiting, and the commands that they run.

Exit codes are those of l4lb: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from l4lb import Client, L4lbError
from l4lb.remote import RemoteBackend, RemotePool

FAILED, USAGE, INTERRUPTED = 1, 2, 130
TICK_S = 0.05
OUTPUT_MAX = 500  # characters of a failed command's output that are shown
F = TypeVar("F", bound=Callable[..., Any])


class Failed(Exception):
    """What was asked for was not done; the message says what is so now."""


class Interrupted(Exception):
    """Ctrl-C, SIGTERM or SIGHUP came; the message says what is so now."""


def say(text: str, err: bool = False) -> None:
    """A reader of the output that has gone, or a terminal that was closed, stops nothing halfway."""
    with contextlib.suppress(OSError):
        click.echo(text, err=err)


# ---- Ctrl-C ----


class Stop:
    """Notes Ctrl-C, SIGTERM and SIGHUP, and raises `Interrupted` where the script waits: never halfway through a
    change, and never in what puts things back. `asked` counts them; `notice` is said at each."""

    def __init__(self, notice: str = "") -> None:
        self.asked = 0
        self._notice = notice
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self.asked += 1
        if self._notice:
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), f"{self._notice}\n".encode())  # print may be at work

    def check(self) -> None:
        if self.asked:
            raise Interrupted

    def sleep(self, seconds: float) -> None:
        self.until(lambda: False, seconds)

    def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `condition` holds. False when it did not within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.check()
            if condition():
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(TICK_S, left))


def run(command: click.Command) -> NoReturn:
    """Run the script and exit."""
    try:
        code = command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE)
    except (Failed, L4lbError) as error:
        say(f"error: {error}", err=True)
        sys.exit(FAILED)
    except (Interrupted, KeyboardInterrupt, click.Abort) as error:
        say(f"interrupted{': ' if str(error) else ''}{error}", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(code or 0)


# ---- options ----


UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """From text such as 500ms, 30s, 5m or 1h."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", value)
    if match is None:
        raise click.BadParameter(f'"{value}": expected a duration such as 500ms, 30s or 5m')
    return float(match[1]) * UNITS[match[2]]


def duration(name: str, default: str | None, description: str, parameter: str = "") -> Callable[[F], F]:
    """An option in seconds; `parameter` where its name is none of Python's."""
    names = (name, parameter) if parameter else (name,)
    return click.option(
        *names,
        metavar="DURATION",
        callback=_seconds,
        default=default,
        show_default=default is not None,
        help=description,
    )


def admin_options(command: F) -> F:
    """`admin` and `token_file`, for `connected`."""
    where, token = "Admin API of the instance (env L4LB_ADMIN).", "Its token (env L4LB_TOKEN_FILE)."
    command = click.option("--token-file", envvar="L4LB_TOKEN_FILE", metavar="FILE", help=token)(command)
    default = "unix:/run/l4lb/admin.sock"
    return click.option("--admin", envvar="L4LB_ADMIN", metavar="ADDR", default=default, show_default=True, help=where)(
        command
    )


def connected(admin: str, token_file: str | None) -> Client:
    try:
        token = Path(token_file).read_text(encoding="utf-8").strip() if token_file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{token_file}: cannot be read: {error}", param_hint="--token-file") from None
    return Client(admin, token=token)


# ---- commands of the user's ----


def words(option: str, text: str) -> list[str]:
    """A command as a shell would split it; there is no shell."""
    try:
        found = shlex.split(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}", param_hint=option) from None
    if not found:
        raise click.BadParameter("expected a command", param_hint=option)
    return found


def filled(command: Sequence[str], pool: str, address: str, backend: str = "") -> list[str]:
    """With {host}, {port}, {address}, {id} and {pool} replaced."""
    host, _, port = address.rpartition(":")
    fields = {"host": host.strip("[]"), "port": port, "address": address, "id": backend or address, "pool": pool}
    return [re.sub(r"\{(host|port|address|id|pool)\}", lambda match: fields[match[1]], word) for word in command]


def output_of(command: Sequence[str], timeout_s: float, given_up: Callable[[], bool] = lambda: False) -> str:
    """Run a command to its end and return what it printed. Failed when it cannot be run, fails or takes longer than
    `timeout_s`, or once `given_up`. Ctrl-C in the terminal does not reach it."""
    shown = shlex.join(command)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:  # no pipe: a daemon would hold it
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        except OSError as error:
            raise Failed(f"{shown}: cannot be run: {error.strerror}") from None
        why = _ended(process, timeout_s, given_up)
        out.seek(0)
        err.seek(0)
        printed, errors = out.read(), err.read()
    if why:
        raise Failed(f"{shown}: {why}{_tail(errors or printed)}")
    return printed


def _ended(process: subprocess.Popen[bytes], timeout_s: float, given_up: Callable[[], bool]) -> str:
    """Waits for it. Empty, or why it has failed."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None:
        if time.monotonic() > deadline or given_up():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "killed" if given_up() else f"killed after {timeout_s:g} s"
        time.sleep(TICK_S / 5)
    code = process.returncode
    return "" if code == 0 else f"exit code {code}" if code > 0 else f"killed by signal {-code}"


def _tail(text: str) -> str:
    text = " ".join(text.split())
    return f": {text[-OUTPUT_MAX:]}" if text else ""


# ---- health ----


def require_checks(client: Client, pool: str) -> None:
    """Failed when nothing would say that a backend of the pool is back."""
    health = client.config["pools"][client.pools[pool].name]["health"]
    if health["type"] == "none":
        raise Failed(f'pool "{pool}" has no health checks, so that nothing says when a backend is up: give it one')


def last_checked(backend: RemoteBackend) -> float:
    """When its latest check was, on the clock of the instance."""
    check = backend.status["last_check"]
    return check["at"] if check else 0.0


def is_up_since(pool: RemotePool, backend: str, since: float) -> bool:
    """Whether it is up, and its last two checks after `since` have passed: the first may have begun before."""
    for one in pool.status["backends"]:
        if one["id"] == backend:
            later = [check["ok"] for check in one.get("checks", []) if check["at"] > since]
            return one["health"] == "up" and len(later) >= 2 and all(later[-2:])
    raise Failed(f'backend "{backend}" is not in pool "{pool.name}" any more')


def usable(pool: RemotePool) -> set[str]:
    """Those that may get new sessions."""
    return {one["id"] for one in pool.status["backends"] if one["usable"]}
