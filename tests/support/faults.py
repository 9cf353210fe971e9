"""System calls of a running `l4lb` that fail as a test wants: the other side of tests/native/faults.c, which is built
with cc when the first test asks for it and preloaded into the process.

    with Faults() as faults, l4lb("serve", ..., environment=faults.environment) as process:
        with faults.injected("connect", errno.EADDRNOTAVAIL, address_port=port) as rule:
            ...
            assert rule.hit

By default a rule is for the workers' threads only. Rules can be added and lifted at any time.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.programs import require, without_preload

SOURCE = Path(__file__).parents[1] / "native" / "faults.c"
VERSION = 1
RULES = 16
# The order of `enum call`.
CALLS = (
    *("accept", "socket", "connect", "recv", "send", "splice", "pipe", "epoll_ctl", "epoll_wait", "recvmmsg"),
    *("sendmmsg", "sendmsg", "recvmsg", "setsockopt", "getsockopt", "ioctl", "bind", "eventfd", "read", "write"),
    *("fcntl", "shutdown", "malloc"),
)
WORKERS, CONTROL, OTHERS = 1, 2, 4
TCP, UDP, UNIX, PIPES, OTHER, LISTENING = 1, 2, 4, 8, 16, 32
STREAM, DATAGRAM = 1 << 8, 2 << 8  # of socket(2), with the family: `argument=socket.AF_INET | DATAGRAM`
OUT_OF_SOCKET, INTO_SOCKET = 0, 1  # of splice(2): `argument`


class _Rule(ctypes.Structure):
    _fields_ = (
        ("call", ctypes.c_uint32),
        ("error", ctypes.c_int32),
        ("amount", ctypes.c_uint32),
        ("every", ctypes.c_uint32),
        ("permille", ctypes.c_uint32),
        ("threads", ctypes.c_uint32),
        ("kinds", ctypes.c_uint32),
        ("local_port", ctypes.c_uint16),
        ("peer_port", ctypes.c_uint16),
        ("argument", ctypes.c_int32),
        ("address_port", ctypes.c_uint32),
        ("left", ctypes.c_int64),
        ("met", ctypes.c_uint64),
        ("hit", ctypes.c_uint64),
    )


class _Control(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("active", ctypes.c_uint32), ("rules", _Rule * RULES))


class Rule:
    """One that was injected, by its place."""

    def __init__(self, faults: Faults, place: int) -> None:
        self._faults = faults
        self.place = place

    @property
    def met(self) -> int:
        """How many calls it was about."""
        return int(self._faults.at(self.place).met)

    @property
    def hit(self) -> int:
        """How many of them failed or were made smaller."""
        return int(self._faults.at(self.place).hit)


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    """Of the built library; it goes when this process does. Others may preload it: l4lb may run as nobody."""
    directory = tempfile.TemporaryDirectory(prefix="l4lb-faults-")
    Path(directory.name).chmod(0o755)
    return directory


@functools.cache
def library() -> Path:
    built = Path(_directory().name) / "faults.so"
    compiler = shutil.which("cc") or require("gcc")
    command = [compiler, "-O1", "-g", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(built), str(SOURCE), "-ldl"]
    done = subprocess.run(command, env=without_preload(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return built


class Faults:
    """The rules of one process, and of those that it becomes by an upgrade."""

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="rules-", dir=_directory().name)  # noqa: SIM115  # `close`
        self._file.truncate(ctypes.sizeof(_Control))
        self._map = mmap.mmap(self._file.fileno(), ctypes.sizeof(_Control))
        self._control: _Control | None = _Control.from_buffer(self._map)
        self._control.version = VERSION
        Path(self._file.name).chmod(0o666)

    @property
    def environment(self) -> dict[str, str]:
        before = os.environ.get("LD_PRELOAD")
        preload = f"{before}:{library()}" if before else str(library())
        return {"LD_PRELOAD": preload, "L4LB_FAULTS": self._file.name}

    def at(self, place: int) -> _Rule:
        assert self._control is not None
        return self._control.rules[place]

    def inject(
        self,
        call: str,
        error: int = 0,
        *,
        amount: int = 0,
        every: int = 1,
        permille: int = 1000,
        count: int = -1,
        threads: int = WORKERS,
        kinds: int = 0,
        local_port: int = 0,
        peer_port: int = 0,
        argument: int = -1,
        address_port: int = 0,
    ) -> Rule:
        """From now on `call` fails with `error`, or, without one, is made with a size of `amount` at most. Only each
        `every`-th, only so many in a thousand, `count` times at most (-1: without end); only on file descriptors of
        `kinds`, with this local port or peer's, or for this address. Its `met` and `hit` count."""
        assert self._control is not None
        place = next(place for place in range(RULES) if not self.at(place).call)
        rule = self.at(place)
        rule.met = rule.hit = 0
        rule.error, rule.amount, rule.every, rule.permille, rule.left = error, amount, every, permille, count
        rule.threads, rule.kinds, rule.argument = threads, kinds, argument
        rule.local_port, rule.peer_port, rule.address_port = local_port, peer_port, address_port
        rule.call = CALLS.index(call) + 1
        self._control.active = 1
        return Rule(self, place)

    def lift(self, rule: Rule) -> None:
        """Its counters stay as they are until its place is used again."""
        self.at(rule.place).call = 0

    @contextlib.contextmanager
    def injected(self, call: str, error: int = 0, **how: int) -> Iterator[Rule]:
        rule = self.inject(call, error, **how)
        try:
            yield rule
        finally:
            self.lift(rule)

    def lift_all(self) -> None:
        assert self._control is not None
        self._control.active = 0
        for place in range(RULES):
            self.at(place).call = 0

    def close(self) -> None:
        self.lift_all()
        self._control = None
        self._map.close()
        self._file.close()

    def __enter__(self) -> Faults:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
