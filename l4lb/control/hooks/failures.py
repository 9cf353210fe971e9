"""What goes wrong in hooks: an event for each hook, once a second at most. Any thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

Report = Callable[[str, dict[str, object], int], None]
REPORT_EVERY_S = 1.0  # of one hook; what comes between is counted


class Failures:
    """`report` emits an event from any thread."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._reported: dict[str, tuple[float, int]] = {}  # by hook: when last, and how many since
        self._lock = threading.Lock()

    def raised(self, hook: str, error: BaseException, **about: object) -> None:
        """A ValueError is one of ours, which says what was wrong with an answer."""
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        self.add(hook, reason, **about)

    def add(self, hook: str, reason: str, **about: object) -> None:
        now = time.monotonic()
        with self._lock:
            last, since = self._reported.get(hook, (0.0, 0))
            due = now - last >= REPORT_EVERY_S
            self._reported[hook] = (now, 0) if due else (last, since + 1)
        if due:
            fields: dict[str, object] = {"hook": hook, **about, "reason": reason[:500]}
            if since:
                fields["unreported"] = since
            self._report("hook_failed", fields, logging.ERROR)
