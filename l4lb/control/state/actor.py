"""Who asked for the change that is being made, for its events. Control loop only: a context variable of the request's
task.

Tasks that a request starts inherit it, also those that outlive it, so an event names somebody only where a change calls
`by_whom`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_actor: ContextVar[str] = ContextVar("l4lb actor", default="")


@contextlib.contextmanager
def acting(name: str) -> Iterator[None]:
    """What happens within is done for `name`."""
    token = _actor.set(name)
    try:
        yield
    finally:
        _actor.reset(token)


def by_whom() -> dict[str, object]:
    """A field for the event of a change: nothing for one that the process itself, a signal or the library asks for."""
    name = _actor.get()
    return {"by": name} if name else {}
