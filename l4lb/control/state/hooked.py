"""Which hooks there are, for all who show or ask them. Immutable: any thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from l4lb.config import Listener
from l4lb.config.rules.hooks import no_hook_for


@dataclass(frozen=True, slots=True)
class Hook:
    """`call` is the operator's function, `name` how messages call it. `listeners` None: every one that can have it."""

    call: Callable[..., object]
    name: str
    is_async: bool
    deadline_s: float
    rejects: bool
    listeners: frozenset[str] | None = None
    configured: bool = False  # by the file

    def is_of(self, listener: str) -> bool:
        return self.listeners is None or listener in self.listeners


def hook_of(hooks: Sequence[Hook], name: str, listener: Listener) -> Hook | None:
    """The one in force. Those for single listeners come first."""
    if no_hook_for(listener):
        return None
    return next((hook for hook in hooks if hook.is_of(name)), None)
