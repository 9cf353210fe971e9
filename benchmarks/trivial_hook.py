"""A hook that costs nothing of its own, for test_hooks.py: `[hooks] module = "benchmarks.trivial_hook"`."""

from __future__ import annotations

from l4lb.hooks import SessionInfo


def on_session(session: SessionInfo) -> None:
    """Everybody may come."""
