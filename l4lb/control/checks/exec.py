"""The ``exec`` check: a program whose exit code 0 means up. `l4lb.net.programs` says how it runs.

Its environment is PATH and L4LB_BACKEND_ADDRESS (an IP address or ``unix:...``), L4LB_BACKEND_PORT (empty for a unix
socket), L4LB_POOL and L4LB_TIMEOUT (seconds); its input is empty. When it fails, the first line that it printed is the
reason.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator

from l4lb.control.checks.checks import OUR_OWN, CheckFailed, NotChecked, Target, begin_step
from l4lb.model.states import Shortage
from l4lb.model.verdicts import ADVICE
from l4lb.net.programs import Program, TooMuch, start

MAX_LINE_BYTES = 200
MAX_OUTPUT_BYTES = 1 << 20  # a program that prints more is no check


async def check_exec(target: Target) -> None:
    """Raises CheckFailed at steps ``start`` and ``command``; the caller bounds the time."""
    begin_step("start")
    with _running(target) as program:
        begin_step("command")
        try:
            await program.ended()
        except OSError as error:
            raise _not_started(error) from error
        except TooMuch as error:
            raise CheckFailed("command", str(error)) from error
    if reason := program.failure():
        raise CheckFailed("command", reason)


def _environment(target: Target) -> dict[str, str]:
    address, is_unix = target.address, target.address.family == socket.AF_UNIX
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "L4LB_BACKEND_ADDRESS": str(address) if is_unix else address.host,
        "L4LB_BACKEND_PORT": "" if is_unix else str(address.port),
        "L4LB_POOL": target.pool,
        "L4LB_TIMEOUT": f"{target.settings.timeout:g}",
    }


@contextlib.contextmanager
def _running(target: Target) -> Iterator[Program]:
    command = target.settings.command
    try:
        program = start(command, _environment(target), keep_bytes=MAX_LINE_BYTES, max_bytes=MAX_OUTPUT_BYTES)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in OUR_OWN:
            raise _not_started(error) from error
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckFailed("start", f"{command[0]}: {reason.lower()}") from error
    try:
        yield program
    finally:
        program.close()


def _not_started(error: OSError) -> NotChecked:
    """See `l4lb.net.programs.start` and `Program.ended`."""
    number = error.errno or 0
    advice = {errno.EAGAIN: "raise TasksMax= of the unit or RLIMIT_NPROC", errno.ENOMEM: "out of memory"}
    return NotChecked(f"{os.strerror(number).lower()}: {advice.get(number, ADVICE[Shortage.FILES])}")
