"""The hooks of a configuration's `[hooks] module`: its functions `on_session` and `on_close`, or one of them.

The module is loaded anew at each reload, beside the one that is in use: one that fails changes nothing. What it imports
itself is not loaded again.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from dataclasses import dataclass
from types import ModuleType

from l4lb.config import Config
from l4lb.config.rules.hooks import no_hook_for
from l4lb.control.hooks.given import new_close_hook, new_hook
from l4lb.control.state.hooked import Hook
from l4lb.errors import RAISED_BY_OTHERS, ChangeError, ConfigError

_FUNCTIONS = ("on_session", "on_close")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a configuration's module has."""

    on_session: Hook | None = None
    on_close: Hook | None = None


def load_hooks(config: Config) -> Loaded:
    """None of them when no module is configured. ConfigError, at `hooks`, says why it cannot be used."""
    settings = config.hooks
    if not settings.module:
        return Loaded()
    try:
        module = _loaded(settings.module)
        on_session, on_close = _session_hook(config, module), None
        if hasattr(module, "on_close"):
            on_close = new_close_hook(module.on_close, settings.listeners or None)
    except (ValueError, ChangeError) as error:
        raise ConfigError([config.problem(("hooks", "module"), f'"{settings.module}": {error}')]) from error
    return Loaded(on_session, on_close)


def _session_hook(config: Config, module: ModuleType) -> Hook | None:
    """Where there is on_close too, `listeners` may have some whose sessions cannot be asked about. ValueError when that
    is true of all, ConfigError of any that have no use for the module then, and of options without use."""
    settings = config.hooks
    if not hasattr(module, "on_session"):
        _refuse_useless(config)
        return None
    against = {name: no_hook_for(config.listeners[name]) for name in settings.listeners or config.listeners}
    names = [name for name in settings.listeners if not against[name]]
    if settings.listeners and not hasattr(module, "on_close"):
        problems = [
            config.problem(("hooks", "listeners", index), f'"{name}": {against[name]}')
            for index, name in enumerate(settings.listeners)
            if against[name]
        ]
        if problems:
            raise ConfigError(problems)
    if against and all(against.values()):
        raise ValueError('no listener can have its on_session: none is of TCP with engine = "proxy"')
    return new_hook(module.on_session, settings.deadline, settings.on_error, names or None)


def _refuse_useless(config: Config) -> None:
    given = sorted(config.hooks.model_fields_set & {"deadline", "on_error"})
    if given:
        message = f'has no effect: "{config.hooks.module}" has no on_session'
        raise ConfigError([config.problem(("hooks", key), message) for key in given])


def _loaded(name: str) -> ModuleType:
    """ValueError says what is wrong with it."""
    try:
        module = _executed(name)
    except RAISED_BY_OTHERS as error:  # a module runs its own code when it is imported
        said = error.msg if isinstance(error, SyntaxError) else error
        raise ValueError(f"cannot be imported: {type(error).__name__}: {said}{_place(error)}") from error
    found = [one for one in _FUNCTIONS if hasattr(module, one)]
    if not found:
        raise ValueError(f"has no function {' or '.join(_FUNCTIONS)}")
    for one in found:
        if not callable(getattr(module, one)):
            raise ValueError(f"its {one} is no function")
    sys.modules[name] = module
    return module


def _executed(name: str) -> ModuleType:
    importlib.invalidate_caches()
    parent, _, _ = name.rpartition(".")
    if parent:
        importlib.import_module(parent)
    spec = importlib.util.find_spec(name) if name not in sys.modules else sys.modules[name].__spec__
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _place(error: BaseException) -> str:
    """Where in the operator's code it came from."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    frames = [one for one in traceback.extract_tb(error.__traceback__) if "importlib" not in one.filename]
    own = [one for one in frames if one.filename != __file__]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
