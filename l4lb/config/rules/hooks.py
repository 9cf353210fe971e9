"""What must hold between `[hooks]` and the listeners. The module itself is loaded later, see `l4lb.control.hooks`."""

from __future__ import annotations

from collections.abc import Iterator

from l4lb.config.options.listener import Listener
from l4lb.config.options.models import Options
from l4lb.model.hints import did_you_mean
from l4lb.model.states import Protocol

DEADLINE_MAX_S = 60.0


def no_record_for(listener: Listener) -> str:
    """Why nobody sees that listener's sessions end; empty when they are seen."""
    if listener.engine == "kernel":
        return 'a listener with engine = "kernel" can have no hook: its connections do not end here'
    return ""


def no_hook_for(listener: Listener) -> str:
    """Why that listener's sessions cannot be asked about; empty when they can."""
    if listener.protocol is Protocol.UDP:
        return "on_session is for TCP: a UDP listener's sessions cannot wait for it"
    return no_record_for(listener)


def hook_conflicts(config: Options) -> Iterator[tuple[tuple[str | int, ...], str]]:
    hooks = config.hooks
    if not hooks.module:
        for key in sorted(hooks.model_fields_set - {"module"}):
            yield ("hooks", key), "has no effect without module"
        return
    if not 0.001 <= hooks.deadline <= DEADLINE_MAX_S:
        yield ("hooks", "deadline"), f"expected 1ms to {DEADLINE_MAX_S:.0f}s"
    for index, name in enumerate(hooks.listeners):
        listener = config.listeners.get(name)
        if listener is None:
            hint = did_you_mean(name, [*config.listeners])
            yield ("hooks", "listeners", index), f'"{name}": no such listener{hint}'
        elif reason := no_record_for(listener):
            yield ("hooks", "listeners", index), f'"{name}": {reason}'
    if not hooks.listeners and config.listeners and all(map(no_record_for, config.listeners.values())):
        yield ("hooks", "module"), 'no listener can have a hook: none has engine = "proxy"'
