"""What tests that run side by side may have one after the other only: there is one on this machine."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

_LOCKS = Path("/run/lock")


@contextlib.contextmanager
def exclusive(what: str) -> Iterator[None]:
    """Waits for whoever has it. Ends with the process that takes it, too."""
    with (_LOCKS / f"l4lb-tests-{what}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
