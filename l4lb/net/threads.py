"""Starts threads with the names that `top -H` and `ps -L` show, and reports why one cannot start."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from l4lb.errors import EngineError

REFUSED = "can't start new thread"  # what Python's RuntimeError says, also of threads that a library starts


def no_thread() -> EngineError:
    reason = "out of memory, or the limit of processes (RLIMIT_NPROC, pids.max) is reached"
    return EngineError(f"cannot start a thread: {reason}")


def started(thread: threading.Thread) -> threading.Thread:
    """Start `thread` and return it. EngineError for pthread_create(3)'s EAGAIN: no memory for its stack, or
    RLIMIT_NPROC, pids.max or threads-max is reached."""
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        raise no_thread() from error
    return thread


def name_this_thread(name: str) -> None:
    """At most 15 bytes are kept. A missing /proc is no error."""
    with contextlib.suppress(OSError):
        Path("/proc/thread-self/comm").write_text(name, encoding="ascii")
