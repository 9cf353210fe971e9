"""The options of discovery, and which of them each type of source has."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from l4lb.config.options.base import Model, argv
from l4lb.config.options.callables import discovery_names
from l4lb.config.options.units import Duration, DurationOrZero
from l4lb.model.hints import did_you_mean

OPTIONS: dict[str, tuple[str, ...]] = {  # by type: what only some types have
    "file": ("path", "format"),
    "exec": ("command", "format", "interval", "timeout"),
}
REQUIRED: dict[str, tuple[str, ...]] = {"file": ("path",), "exec": ("command",)}


def known_types() -> list[str]:
    return [*OPTIONS, *discovery_names()]


def _type(name: str) -> str:
    if name and name not in known_types():
        raise ValueError(f"expected one of {', '.join(known_types())}{did_you_mean(name, known_types())}")
    return name


SourceType = Annotated[
    str,
    AfterValidator(_type),
    WithJsonSchema({"anyOf": [{"enum": list(OPTIONS)}, {"type": "string"}], "description": "where backends come from"}),
]


class DiscoveryConfig(Model):
    """Where a pool's backends come from, besides those that it names itself."""

    type: SourceType = ""
    hold_down: DurationOrZero = Field(
        default=0.0, description="how long a backend stays that the source no longer names; 0: not at all"
    )
    path: str = Field(default="", description="of a file that is watched")
    format: Literal["auto", "lines", "json", "toml"] = Field(
        default="auto", description="auto: by the end of the path, .json or .toml, else lines"
    )
    command: Annotated[tuple[str, ...], BeforeValidator(argv)] = Field(
        default=(), description="the program that prints the backends, and its arguments"
    )
    interval: Duration = Field(default=30.0, description="from one end of the program to its next start")
    timeout: Duration = Field(default=10.0, description="how long an answer may take")
    options: dict[str, Any] = Field(default_factory=dict, description="for types of other packages")
