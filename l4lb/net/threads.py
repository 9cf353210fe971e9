"""Threads under the names that `top -H` and `ps -L` show."""

from __future__ import annotations

import contextlib
from pathlib import Path


def name_this_thread(name: str) -> None:
    """At most 15 bytes are kept. A /proc that is not there is no reason to fail."""
    with contextlib.suppress(OSError):
        Path("/proc/thread-self/comm").write_text(name, encoding="ascii")
