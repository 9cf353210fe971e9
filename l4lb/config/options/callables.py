"""Code of other packages that a configuration names: sinks for records and sources of discovery by entry point, health
checks too or as ``package.module:function``.

Looking a name up imports the module that it is in, when the configuration is loaded and also under `l4lb check`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from l4lb import plugins
from l4lb.errors import RAISED_BY_OTHERS


def health_check_names() -> list[str]:
    """The types of health check that other packages add; imports none of them."""
    return list(plugins.names(plugins.HEALTH_CHECKS))


def load_health_check(name: str) -> Callable[..., Any]:
    """The check function of an added type; ValueError says why there is none."""
    return _found(lambda: plugins.load(plugins.HEALTH_CHECKS, name), name)


def discovery_names() -> list[str]:
    """The types of discovery that other packages add; imports none of them."""
    return list(plugins.names(plugins.DISCOVERY))


def load_discovery(name: str) -> Callable[..., Any]:
    """The function that is an added source of backends; ValueError says why there is none."""
    return _found(lambda: plugins.load(plugins.DISCOVERY, name), name)


def load_record_sink(name: str) -> Callable[..., Any]:
    """The function that opens an added sink for records; ValueError says why there is none."""
    return _found(lambda: plugins.load(plugins.RECORD_SINKS, name), name)


def load_callable(text: str) -> Callable[..., Any]:
    """``package.module:function``; ValueError says what is wrong with it."""
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise ValueError('expected "package.module:function"')

    def load() -> Any:
        found = importlib.import_module(module)
        try:
            return functools.reduce(getattr, name.split("."), found)
        except AttributeError:
            raise LookupError(f"{module} has no {name}") from None

    return _found(load, name)


def _found(load: Callable[[], Any], name: str) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = load()
    except LookupError as error:
        raise ValueError(str(error)) from None
    except RAISED_BY_OTHERS as error:  # a module runs its own code when it is imported
        raise ValueError(f"cannot be imported: {type(error).__name__}: {error}") from None
    if not callable(found):
        raise ValueError(f"{name} is not a function")
    return found
