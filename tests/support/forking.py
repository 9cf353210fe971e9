"""Starts `l4lb`, or a few lines of Python, out of a process that has imported it already; on this host or on one that
the tests made (`tests.support.namespaces`).

A start of Python with all imports takes a second of CPU time, and the tests start l4lb a thousand times. A fork of a
process that stops just before ``python -m l4lb`` takes 20 ms. From there on arguments, environment, directory,
descriptors and exit code are those of a process of its own; only the heap is not freed at the end. What a test of the
start itself looks at, such as limits, privileges or memory, starts l4lb as users do (`programs.L4lb`, ``fresh=True``).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import itertools
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

from l4lb.net.handover import Channel, close_all
from tests.support import entering

_STARTS_WITHIN_S = 300.0  # with all that it imports first
_numbers = itertools.count()
_environment_of_server = dict(os.environ)


class Forked:
    """A running child of the fork server, with what tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, pidfd: int, status: int, stdin: int, stdout: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin: IO[str] = os.fdopen(stdin, "w", encoding="utf-8")
        self.stdout: IO[str] = os.fdopen(stdout, encoding="utf-8")
        self._pidfd = pidfd
        self._status = status

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("l4lb", timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """As Popen's without input: until the output ends, and then the process."""
        self.stdin.close()
        deadline = time.monotonic() + (threading.TIMEOUT_MAX if timeout is None else timeout)
        parts = []
        with self.stdout:
            while True:
                if not select.select([self.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
                    raise subprocess.TimeoutExpired("l4lb", timeout or 0)
                if not (part := os.read(self.stdout.fileno(), 1 << 16)):
                    break
                parts.append(part)
        self.wait(max(0, deadline - time.monotonic()))
        return b"".join(parts).decode(), ""

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and the server is about to say so
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _ended(self, timeout_s: float | None) -> int | None:
        """The exit code, as Popen's, once the fork server has told it."""
        if self.returncode is None and select.select([self._status], [], [], timeout_s)[0]:
            self.returncode = int(os.read(self._status, 16))
            os.close(self._status)
            os.close(self._pidfd)
        return self.returncode


def takes(environment: Mapping[str, str] | None = None) -> bool:
    """Whether a child would see all of the environment: some of it is read as an interpreter starts."""
    return _read_at_start(_environment(environment)) == _read_at_start(_environment_of_server)


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, **(more or {})}


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    names = {name for name in environment if name.startswith(("LD_", "MALLOC_", "PYTHON"))}
    return {name: environment[name] for name in names - {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}}


def start(
    arguments: Sequence[str],
    stderr: int,
    environment: Mapping[str, str] | None = None,
    *,
    network: str = "",
    code: str = "",
) -> Forked:
    """``python -m l4lb`` with these arguments, or in its place a program's `code`. `environment` is added to this
    process's own; `network` names a network namespace, for a child as ``ip netns exec`` starts it."""
    request = {"arguments": arguments, "environment": _environment(environment), "directory": os.getcwd()}
    request |= {"network": network, "code": code}
    ours, theirs = [], []
    try:
        for _ in range(3):  # to write its input, to read its output and its exit code
            reading, writing = os.pipe()
            ours.append(reading)
            theirs.append(writing)
        ours[0], theirs[0] = theirs[0], ours[0]
        server, number = _server(os.getpid()), next(_numbers)
        server.send({**request, "number": number}, [*theirs, stderr], _STARTS_WITHIN_S)
        pid, pidfd = _answer(server, number)
    except BaseException:
        close_all(ours)
        raise
    finally:
        close_all(theirs)
    stdin, stdout, status = ours
    return Forked(pid, pidfd, status, stdin, stdout)


def _answer(server: Channel, number: int) -> tuple[int, int]:
    """To that request: the child and its pidfd. What comes late, for a test that no longer waits, ends that child."""
    while True:
        answer, (pidfd,) = server.receive(_STARTS_WITHIN_S)
        if answer["number"] == number:
            return answer["pid"], pidfd
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


def run(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    network: str = "",
    stdin: bytes = b"",
    timeout_s: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """What a command of l4lb's prints, and its exit code."""
    assert takes(environment)
    with tempfile.TemporaryFile("w+") as log:
        child = start(arguments, log.fileno(), environment, network=network)
        try:
            with contextlib.suppress(BrokenPipeError):  # not all need be read
                os.write(child.stdin.fileno(), stdin)
            out, _ = child.communicate(timeout_s)
        finally:
            _end(child)
        log.seek(0)
        return subprocess.CompletedProcess(arguments, child.wait(), out, log.read())


def _end(child: Forked) -> None:
    child.kill()  # no more than a look, where it has ended
    child.wait()
    child.stdin.close()
    child.stdout.close()


@contextlib.contextmanager
def python(code: str, *arguments: str, network: str = "") -> Iterator[Forked]:
    """A program that runs until the end of the block. What it says on stderr, the test says."""
    child = start(arguments, 2, network=network, code=code)
    try:
        yield child
    finally:
        _end(child)


def start_server() -> None:
    """Before the first test that counts descriptors: the server's socket stays open."""
    _server(os.getpid())


@functools.cache
def _server(_of: int) -> Channel:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forking", str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return Channel(ours)


class _Child(NamedTuple):
    pid: int
    status: int  # the pipe for its exit code


def _serve(channel: Channel) -> dict[str, Any] | None:
    """Fork a child for each request. Returns the request in the child, None in the server when its user has gone, and
    with it all children."""
    children: dict[int, _Child] = {}  # by pidfd
    poller = select.poll()
    poller.register(channel.sock, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            if fd in children:
                poller.unregister(fd)
                _report_end(fd, children.pop(fd))
                continue
            try:
                request, streams = channel.receive(_STARTS_WITHIN_S)
            except ConnectionError:
                for pidfd in children:  # of tests that were killed themselves
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return None
            status = streams.pop(2)
            pid = os.fork()
            if not pid:
                for number, fd in enumerate(streams):
                    os.dup2(fd, number)
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))
                channel.sock.detach()
                return request
            pidfd = os.pidfd_open(pid)
            channel.send({"pid": pid, "number": request["number"]}, [pidfd])
            close_all(streams)
            children[pidfd] = _Child(pid, status)
            poller.register(pidfd, select.POLLIN)


def _report_end(pidfd: int, child: _Child) -> None:
    _, how = os.waitpid(child.pid, 0)
    os.write(child.status, str(os.waitstatus_to_exitcode(how)).encode())
    os.close(child.status)
    os.close(pidfd)


def _import_all() -> None:
    """What commands import when they run."""
    from l4lb.cli.main import COMMANDS

    for module in {module for module, _ in COMMANDS.values()}:
        importlib.import_module(f"l4lb.cli.{module}")
    importlib.import_module("l4lb.control.admin.http")


def _main() -> None:
    channel = Channel.of_fd(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's is for the tests
    _import_all()
    gc.collect()
    gc.freeze()
    request = _serve(channel)
    if request is None:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115  # to what they are now
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(":"))  # sys.path[0] is the directory's
    code = _run(request)
    threading._shutdown()  # type: ignore[attr-defined]  # the interpreter's own end but for freeing a heap that was copied
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(request: dict[str, Any]) -> int:
    """Its exit code."""
    try:
        if request["network"]:
            entering.network_of_process(request["network"])
        if request["code"]:
            sys.argv[:] = ["-c", *request["arguments"]]
            exec(compile(request["code"], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.orig_argv[1:] = ["-m", "l4lb", *request["arguments"]]
            sys.argv[1:] = request["arguments"]
            runpy.run_module("l4lb", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else ended.code is not None
    except Exception:
        traceback.print_exc()
        return 1
    return 0 if request["code"] else 1


if __name__ == "__main__":
    _main()
