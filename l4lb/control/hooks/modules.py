"""The hook of a configuration's `[hooks] module`: its function `on_session`.

The module is loaded anew at each reload, beside the one that is in use: one that fails changes nothing. What it imports
itself is not loaded again.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from types import ModuleType

from l4lb.config import Config
from l4lb.control.hooks.hooks import new_hook
from l4lb.control.state.hooked import Hook
from l4lb.errors import ChangeError, ConfigError

_FUNCTION = "on_session"
_LATER = "on_close"


def load_hook(config: Config) -> Hook | None:
    """None when none is configured. ConfigError, at `hooks.module`, says why it cannot be used."""
    settings = config.hooks
    if not settings.module:
        return None
    try:
        found = getattr(_loaded(settings.module), _FUNCTION)
        hook = new_hook(found, settings.deadline, settings.on_error, settings.listeners or None)
    except (ValueError, ChangeError) as error:
        raise ConfigError([config.problem(("hooks", "module"), f'"{settings.module}": {error}')]) from error
    return hook


def _loaded(name: str) -> ModuleType:
    """ValueError says what is wrong with it."""
    try:
        module = _executed(name)
    except BaseException as error:  # a module runs its own code when it is imported: anything can come out of it
        if isinstance(error, KeyboardInterrupt):
            raise
        said = error.msg if isinstance(error, SyntaxError) else error
        raise ValueError(f"cannot be imported: {type(error).__name__}: {said}{_place(error)}") from error
    if hasattr(module, _LATER):
        raise ValueError(f"has {_LATER}, which this version does not call: expected {_FUNCTION} alone")
    if not callable(getattr(module, _FUNCTION, None)):
        raise ValueError(f"has no function {_FUNCTION}")
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
