"""Which hooks there are, for all who show or ask them. Immutable: any thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from l4lb.config import Listener
from l4lb.config.rules.hooks import no_hook_for


@dataclass(frozen=True, slots=True, eq=False)
class Hook:
    """`call` is the operator's function, `name` how messages call it. `listeners` None: every one that can have it, and
    has none of its own. `deadline_s` and `rejects` are of one that is asked about sessions."""

    call: Callable[..., object]
    name: str
    is_async: bool
    listeners: frozenset[str] | None = None
    deadline_s: float = 0.0
    rejects: bool = False
    configured: bool = False  # by the file

    def is_of(self, listener: str) -> bool:
        return self.listeners is None or listener in self.listeners


Hooks = tuple[Hook, ...]


def added(hooks: Sequence[Hook], hook: Hook | None) -> Hooks:
    """Those for single listeners come first."""
    every = [*hooks, hook] if hook is not None else hooks
    return tuple(sorted(every, key=lambda one: one.listeners is None))


def without(hooks: Sequence[Hook], listeners: Collection[str] | None) -> Hooks:
    """Without those of these listeners; None: without any."""
    if isinstance(listeners, str):
        listeners = [listeners]
    names = frozenset(listeners or ())
    left = []
    for hook in hooks if listeners is not None else ():
        own = hook.listeners
        if own is None or not own & names:
            left.append(hook)
        elif own - names:
            left.append(dataclasses.replace(hook, listeners=own - names))
    return tuple(left)


def configured_as(hooks: Sequence[Hook], hook: Hook | None) -> Hooks:
    """With `hook` as the one of the configuration."""
    given = [one for one in hooks if not one.configured]
    return added(given, dataclasses.replace(hook, configured=True) if hook is not None else None)


def first_of(hooks: Sequence[Hook], listener: str) -> Hook | None:
    return next((hook for hook in hooks if hook.is_of(listener)), None)


def hook_of(hooks: Sequence[Hook], name: str, listener: Listener) -> Hook | None:
    """The one in force that is asked about its sessions."""
    return None if no_hook_for(listener) else first_of(hooks, name)
