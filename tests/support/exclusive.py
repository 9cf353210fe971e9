"""What there is one of on this machine: tests that run side by side take turns."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_LOCKS = Path("/run/lock")


@contextlib.contextmanager
def exclusive(what: str) -> Iterator[None]:
    """Wait for the test that has it. The kernel releases it when a process ends. Users have locks of their own: the
    file of another one cannot be opened."""
    _LOCKS.mkdir(parents=True, exist_ok=True)  # there is none in a root that nobody has started
    with (_LOCKS / f"l4lb-tests-{os.geteuid()}-{what}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
