"""The module of `[hooks]`: hears of sessions that have ended.

A reload loads this module again, but not what it imports: what was seen stays.
"""

from __future__ import annotations

from typing import Any

from new_country.watch import Watch, from_environment

WATCH: Watch = from_environment()


def on_close(record: dict[str, Any]) -> None:
    """l4lb calls it on a thread of its own, one record after the other, and no session waits for it."""
    WATCH.saw(record)
