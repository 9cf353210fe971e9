"""Turns an error of pydantic into its place in the configuration and a message for whoever wrote that. Pure."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from l4lb.config.options.paths import Path
from l4lb.model.hints import did_you_mean

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


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a value of this type is, or has in a list, a table or a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _known_keys(kind: type[BaseModel], path: Path) -> list[str]:
    """The keys that the table above the end of `path` may have, in a `kind`."""
    model, names = kind, False
    for part in path[:-1]:
        if isinstance(part, int) or names:  # an index, or the name of one of many
            names = False
            continue
        field = next((one for name, one in model.model_fields.items() if part in (name, one.alias)), None)
        found = _model_in(field.annotation) if field is not None else None
        if field is None or found is None:
            return []
        model, names = found, get_origin(field.annotation) is dict
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


def message_of(error: ErrorDetails, path: Path, within: type[BaseModel]) -> str:
    """One line: the value, and what was expected. `path` leads to it in a `within`."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    key = str(path[-1]) if path else ""
    if kind == "extra_forbidden":
        return f"unknown key{did_you_mean(key, _known_keys(within, path))}"
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
