"""Turns an error of pydantic into its place in the configuration and a message for whoever wrote that. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from l4lb.config.options.health import HealthConfig
from l4lb.config.options.hints import did_you_mean
from l4lb.config.options.listener import KeepaliveConfig, Listener
from l4lb.config.options.models import AgentConfig, Backend, Options, PassiveConfig, Pool
from l4lb.config.options.paths import Path
from l4lb.config.options.process import AdminConfig, GlobalConfig
from l4lb.config.options.proxy import OwnTlv
from l4lb.config.options.routes import Route
from l4lb.config.options.sources import PerSourceConfig
from l4lb.config.reading.supported import is_later_key

_EXPECTED = {
    "int_type": "expected an integer",
    "int_parsing": "expected an integer",
    "int_from_float": "expected an integer",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected a string",
    "dict_type": "expected a table",
    "model_type": "expected a table",
    "list_type": "expected a list",
}

_WITHIN: dict[str, type[BaseModel]] = {
    "agent": AgentConfig,
    "backends": Backend,
    "health": HealthConfig,
    "keepalive": KeepaliveConfig,
    "passive": PassiveConfig,
    "per_source": PerSourceConfig,
    "routes": Route,
    "send_proxy_tlvs": OwnTlv,
}  # the tables in those of listeners and pools


def _known_keys(path: Path) -> list[str]:
    """The keys that the table above `path` may have."""
    above = [part for part in path[:-1] if not isinstance(part, int)]
    model: type[BaseModel] = Options
    if above[:1] == ["global"]:
        model = GlobalConfig
    elif above[:1] == ["admin"]:
        model = AdminConfig
    elif above[:1] in (["listeners"], ["pools"]):
        itself = Listener if above[0] == "listeners" else Pool
        model = next((_WITHIN[part] for part in above[2:] if part in _WITHIN), itself)
    return [field.alias or name for name, field in model.model_fields.items()]


def _shown(value: object) -> str:
    """The offending value, as TOML shows it, not too long."""
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else _repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _repr(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number that is too large"


def message_of(error: ErrorDetails, path: Path) -> str:
    """One line: the value, and what was expected."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    key = str(path[-1]) if path else ""
    if kind == "extra_forbidden":
        if is_later_key(path):
            return "not supported by this version"
        return f"unknown key{did_you_mean(key, _known_keys(path))}"
    if kind == "missing":
        return "missing: expected a value"
    if kind in ("literal_error", "enum"):
        return f"{_shown(value)}: expected {context['expected']}{did_you_mean(str(value), _choices(context))}"
    if kind == "value_error":
        return f"{_shown(value)}: {context['error']}" if not isinstance(value, dict) else str(context["error"])
    if kind == "too_short":
        return "empty: expected at least one"
    expected = _EXPECTED.get(kind) or error["msg"].replace("Input should be", "expected")
    return f"{_shown(value)}: {expected}"


def _choices(context: dict[str, Any]) -> list[str]:
    return [word.strip(" '") for word in str(context["expected"]).replace(" or ", ",").split(",")]


def error_path(error: ErrorDetails, data: dict[str, Any]) -> Path:
    """The key path of an error: pydantic's, without the names of union members that it appends."""
    path: list[str | int] = []
    at: Any = data
    for part in error["loc"]:
        if isinstance(part, str) and part.startswith("("):
            continue  # the tag of a union's member
        if isinstance(at, dict) and (part in at or error["type"] == "missing"):
            at = at.get(part)
        elif isinstance(at, list) and isinstance(part, int) and part < len(at):
            at = at[part]
        elif isinstance(part, int) and isinstance(at, str):
            continue  # a single string where a list was expected: it was made a list of one
        else:
            break
        path.append(part)
    return tuple(path)
