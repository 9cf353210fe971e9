"""What is wrong with a backend at the moment: switched from a test's thread, looked at by the backend's own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from l4lb.errors import UsageError


@dataclass(frozen=True, slots=True)
class Faults:
    """None and False: not so. `reset_after` and `cut_after` count the bytes of answers, per connection, from the last
    switch on; `bytes_per_s` is what each connection gets; each `drop_every`-th datagram is lost, and each answer to one
    is sent `copies` times."""

    refuse: bool = False
    hang: bool = False
    reset_after: int | None = None
    cut_after: int | None = None
    bytes_per_s: float | None = None
    drop_every: int | None = None
    copies: int = 1


class Switches:
    """The faults of one backend. `changed` is notified with each change."""

    def __init__(self, apply: Callable[[Faults], None] = lambda faults: None) -> None:
        self.changed = threading.Condition()
        self.now = Faults()
        self.version = 0
        self._apply = apply

    def switch(self, **fields: bool | int | float | None) -> Fault:
        with self.changed:
            before = {name: getattr(self.now, name) for name in fields}
            self._set(fields)
        return Fault(self, before)

    def _set(self, fields: dict[str, bool | int | float | None]) -> None:
        self.now = replace(self.now, **fields)  # type: ignore[arg-type]
        self.version += 1
        self._apply(self.now)
        self.changed.notify_all()

    def back(self, fields: dict[str, bool | int | float | None]) -> None:
        with self.changed:
            self._set(fields)

    def heal(self) -> None:
        with self.changed:
            self._set({name: getattr(Faults(), name) for name in Faults.__slots__})


class Fault:
    """A fault that was switched on. In a ``with`` statement it ends with that; otherwise by `end`, or by `heal` of the
    backend."""

    def __init__(self, switches: Switches, before: dict[str, bool | int | float | None]) -> None:
        self._switches = switches
        self._before = before

    def end(self) -> None:
        """As it was before."""
        self._switches.back(self._before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def at_least(name: str, value: float, least: float) -> None:
    """UsageError for a smaller one."""
    if value < least:
        raise UsageError(f"{name}: {value!r}: expected at least {least:g}")
