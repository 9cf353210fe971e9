"""The ``exec`` check: a program whose exit code 0 means up. No shell.

Its environment is PATH and L4LB_BACKEND_ADDRESS (an IP address or ``unix:...``), L4LB_BACKEND_PORT (empty for a unix
socket), L4LB_POOL and L4LB_TIMEOUT (seconds); its input is empty. When it fails, the first line that it printed is the
reason. It runs in a new session and process group, which is killed when the program ends and at the time-out: no
process that it started remains, unless that one began another session.

A pidfd reports the program's end. SIGCHLD would not do: it belongs to the program that embeds the balancer.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence

from l4lb.control.checks.checks import OUR_OWN, CheckFailed, NotChecked, Target, begin_step
from l4lb.errors import EngineError
from l4lb.model.states import Shortage
from l4lb.model.verdicts import ADVICE
from l4lb.net.threads import started

MAX_LINE_BYTES = 200
MAX_OUTPUT_BYTES = 1 << 20  # a program that prints more is no check
READ_BYTES = 65536
REAP_S = 0.05


async def check_exec(target: Target) -> None:
    """Raises CheckFailed at steps ``start`` and ``command``; the caller bounds the time."""
    begin_step("start")
    with _running(target) as program:
        begin_step("command")
        output = await _output_until_exit(program)
    if code := program.process.returncode:
        ended = f"exit code {code}" if code > 0 else f"killed by {_signal_name(-code)}"
        line = output.line
        raise CheckFailed("command", f"{ended}: {line}" if line else ended)


def _environment(target: Target) -> dict[str, str]:
    address, is_unix = target.address, target.address.family == socket.AF_UNIX
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "L4LB_BACKEND_ADDRESS": str(address) if is_unix else address.host,
        "L4LB_BACKEND_PORT": "" if is_unix else str(address.port),
        "L4LB_POOL": target.pool,
        "L4LB_TIMEOUT": f"{target.settings.timeout:g}",
    }


class _Program:
    """A running program, and the read end of the pipe for its output."""

    def __init__(self, process: subprocess.Popen[bytes], output_fd: int) -> None:
        self.process, self.output_fd = process, output_fd

    def end(self) -> None:
        os.close(self.output_fd)
        with contextlib.suppress(ProcessLookupError):  # before it is reaped: until then no other process has its id
            os.killpg(self.process.pid, signal.SIGKILL)
        _reap(self.process)


def _start(target: Target) -> _Program:
    command = target.settings.command
    try:
        return _open(command, _environment(target))
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in OUR_OWN:
            raise _not_started(error) from error
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckFailed("start", f"{command[0]}: {reason.lower()}") from error


def _open(command: Sequence[str], environment: dict[str, str]) -> _Program:
    """Opens the descriptors itself: when Popen of Python 3.11.2 cannot open one, it leaks the others."""
    with contextlib.ExitStack() as ours:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        ours.callback(os.close, null)
        output, printed = os.pipe()
        ours.callback(os.close, printed)
        try:
            process = subprocess.Popen(
                command, env=environment, start_new_session=True, stdin=null, stdout=printed, stderr=null
            )
        except BaseException:
            os.close(output)
            raise
    return _Program(process, output)


def _not_started(error: OSError) -> NotChecked:
    """pipe2(2): EMFILE, ENFILE. fork(2): EAGAIN (processes or threads), ENOMEM. execve(2) is about the program."""
    number = error.errno or 0
    advice = {errno.EAGAIN: "raise TasksMax= of the unit or RLIMIT_NPROC", errno.ENOMEM: "out of memory"}
    return NotChecked(f"{os.strerror(number).lower()}: {advice.get(number, ADVICE[Shortage.FILES])}")


@contextlib.contextmanager
def _running(target: Target) -> Iterator[_Program]:
    program = _start(target)
    try:
        yield program
    finally:
        program.end()


def _reap(process: subprocess.Popen[bytes]) -> None:
    """A killed process is gone within a millisecond, unless the kernel holds it; nobody here waits for that. When no
    thread can start for the wait, `subprocess` reaps it at the start of the next program."""
    try:
        process.wait(REAP_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(EngineError):
            started(threading.Thread(target=process.wait, name="l4lb-reap", daemon=True))


async def _output_until_exit(program: _Program) -> Output:
    """Read the program's output until it ends. Does not reap it."""
    loop = asyncio.get_running_loop()
    output = Output(program.output_fd, loop.create_future())
    try:
        pidfd = os.pidfd_open(program.process.pid)
    except OSError as error:
        raise _not_started(error) from error
    loop.add_reader(output.fd, output.read)
    loop.add_reader(pidfd, output.end)
    try:
        await output.ended
    finally:
        loop.remove_reader(pidfd)
        loop.remove_reader(output.fd)
        os.close(pidfd)
    return output


class Output:
    """Reads all output of a program, so that it never blocks, and keeps the beginning. `ended` is set at its end."""

    def __init__(self, fd: int, ended: asyncio.Future[None]) -> None:
        os.set_blocking(fd, False)
        self.fd, self.ended = fd, ended
        self._start, self._count = b"", 0

    @property
    def line(self) -> str:
        text = self._start.partition(b"\n")[0].decode("utf-8", "replace").strip()
        return "".join(char if char.isprintable() else "?" for char in text)

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.fd, READ_BYTES)
            self._count += len(data)
            self._start += data[: MAX_LINE_BYTES - len(self._start)]
            if not data:
                asyncio.get_running_loop().remove_reader(self.fd)
            elif self._count > MAX_OUTPUT_BYTES and not self.ended.done():
                self.ended.set_exception(CheckFailed("command", "printed more than 1 MiB"))

    def end(self) -> None:
        """The program has ended: the rest of its output is in the pipe."""
        self.read()
        if not self.ended.done():
            self.ended.set_result(None)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time one
