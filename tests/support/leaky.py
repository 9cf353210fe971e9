"""`l4lb` that says at its end what it has not given back: `python -m tests.support.leaky serve ...`."""

from __future__ import annotations

import json
import re
import sys

from l4lb.cli.main import main
from l4lb.engine.native import NativeForwarder

_close = NativeForwarder.close
_told: set[int] = set()


def _closing(self: NativeForwarder) -> None:
    _close(self)
    if id(self) in _told:
        return
    _told.add(id(self))
    left = self.leaks()
    for name, listener in self.stats().listeners.items():
        left[f"{name}: begun and not ended"] = listener.sessions_total - sum(listener.closed.values())
    print("leaks", json.dumps(left), file=sys.stderr, flush=True)


def leaks_in(log: str) -> dict[str, int]:
    """What the process said; without those that are 0."""
    match = re.search(r"^leaks (.*)$", log, re.MULTILINE)
    assert match is not None, log
    return {name: count for name, count in json.loads(match[1]).items() if count}


if __name__ == "__main__":
    NativeForwarder.close = _closing  # type: ignore[method-assign]
    main()
