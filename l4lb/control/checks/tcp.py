"""The ``tcp`` check: a full handshake, then an orderly close, so that no backend logs a reset.

A backend that accepts and never answers (stopped, deadlocked) passes: only a check that talks detects that.
"""

from __future__ import annotations

from l4lb.control.checks.checks import Target
from l4lb.control.checks.stream import open_stream


async def check_tcp(target: Target) -> None:
    """Raises CheckFailed at step ``connect``; the caller bounds the time."""
    async with open_stream(target):
        pass
