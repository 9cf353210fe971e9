"""`l4lb serve` where there is too little of something: it runs, or says in a line what it has too little of."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import require
from tests.support.slow import slow
from tests.support.users import interpreter_of_all, require_root, unused_uid
from tests.support.waiting import wait_until

FILE = """
[global]
workers = 2
[admin]
bind = "unix:{directory}/admin.sock"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = ["127.0.0.1:1"]
"""
LIMITS = (
    *(("data", size << 20) for size in (40, 60, 80, 120)),
    *(("as", size << 20) for size in (50, 150, 250, 252)),
    *(("nofile", count) for count in (8, 16, 24, 32)),
    ("fsize", 0),
    *slow(
        *(("data", size << 20) for size in (20, 30, 50, 70, 90, 100)),
        *(("as", size << 20) for size in (100, 300, 400)),
        *(("nofile", count) for count in (12, 20)),
        ("fsize", 100),
    ),
)

ENOUGH_ADDRESSES = 250 << 20  # RLIMIT_AS: with a heap for each thread that was too little, and some starts crashed


@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer needs more memory than there is here")
@pytest.mark.parametrize(("kind", "limit"), LIMITS)
def test_a_limit_is_enough_or_is_named(kind: str, limit: int, tmp_path: Path) -> None:
    (tmp_path / "lb.toml").write_text(FILE.format(directory=tmp_path))
    command = [require("prlimit"), f"--{kind}={limit}", sys.executable, "-m", "l4lb", "serve", "-c"]
    reader, writer = os.pipe()  # a file would be under the limit too
    process = subprocess.Popen([*command, str(tmp_path / "lb.toml")], stderr=writer)
    os.close(writer)
    try:
        said = b""
        os.set_blocking(reader, False)

        def settled() -> bool:
            nonlocal said
            with contextlib.suppress(BlockingIOError):
                said += os.read(reader, 1 << 20)
            return b"admin listening" in said or process.poll() is not None

        assert wait_until(settled, 60), said
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) in (0, 1), said
        settled()
        assert process.returncode in (0, 1, 2), said
        assert process.returncode == 0 or kind != "as" or limit < ENOUGH_ADDRESSES, said
        assert b"Traceback" not in said
        if process.returncode:
            assert len(said.splitlines()) == 1, said
    finally:
        process.kill()
        process.wait()
        os.close(reader)


def test_threads_that_cannot_be_started(tmp_path: Path) -> None:
    """RLIMIT_NPROC, of another user: it does not bind root, and counts all that the user runs."""
    require_root()
    setpriv, prlimit = require("setpriv"), require("prlimit")
    uid = unused_uid()
    identity = [setpriv, f"--reuid={uid}", "--regid=nogroup", "--clear-groups"]
    address = ["--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1", "--admin", "off", "--workers", "2"]
    for count in (1, 2, 3, 4):
        done = subprocess.run(
            [*interpreter_of_all(), prlimit, f"--nproc={count}", *identity, sys.executable, "-m", "l4lb", "serve",
             *address], capture_output=True, text=True, timeout=60, cwd="/",
        )  # fmt: skip
        if "Permission denied" in done.stderr or "No module named" in done.stderr:
            pytest.skip(f"user {uid} cannot run this Python: {done.stderr.splitlines()[-1]}")
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            "l4lb: cannot start a thread: out of memory, or the limit of processes (RLIMIT_NPROC, pids.max) is reached"
        ]
