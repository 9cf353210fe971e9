from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from l4lb.config import (
    AdminConfig,
    Backend,
    Config,
    DiscoveryConfig,
    GlobalConfig,
    HealthConfig,
    KeepaliveConfig,
    Listener,
    PerSourceConfig,
    Pool,
    Route,
)
from l4lb.config.options.proxy import OwnTlv
from l4lb.config.schema import json_schema

EXAMPLE = Path("lb.toml.example")


def test_the_schema_knows_every_option() -> None:
    text = json.dumps(json_schema())
    for model in (
        GlobalConfig,
        AdminConfig,
        Listener,
        Pool,
        Backend,
        HealthConfig,
        KeepaliveConfig,
        OwnTlv,
        Route,
        PerSourceConfig,
        DiscoveryConfig,
    ):
        for name in model.model_fields:
            assert f'"{name}"' in text


def uncommented() -> dict[str, Any]:
    """The example with every option that is commented out put in force."""
    lines = [
        line[1:] if line.startswith("#") and not line.startswith("# ") else line
        for line in EXAMPLE.read_text().splitlines()
    ]
    return tomllib.loads("\n".join(lines))


def test_the_example_is_valid() -> None:
    Config.load(EXAMPLE)


def test_the_example_shows_every_option_with_its_default() -> None:
    data = uncommented()
    config = Config.model_validate(data)
    shown: list[tuple[type[BaseModel], BaseModel, dict[str, Any], set[str]]] = [
        (GlobalConfig, config.global_, data["global"], set()),
        (AdminConfig, config.admin, data["admin"], set()),
        (Listener, config.listeners["web"], data["listeners"]["web"], {"bind", "pool", "routes"}),
        (Route, config.listeners["web"].routes[0], data["listeners"]["web"]["routes"][0], {"pool"}),
        (PerSourceConfig, config.listeners["web"].per_source, data["listeners"]["web"]["per_source"], set()),
        (Pool, config.pools["web"], data["pools"]["web"], {"backends", "discovery", "health"}),
        (DiscoveryConfig, config.pools["web"].discovery, data["pools"]["web"]["discovery"], set()),
        (HealthConfig, config.pools["web"].health, data["pools"]["web"]["health"], set()),
    ]
    for model, instance, raw, required in shown:
        assert set(raw) >= set(model.model_fields) - required, set(model.model_fields) - set(raw)
        for name, field in model.model_fields.items():
            if name not in required:
                assert getattr(instance, name) == field.get_default(call_default_factory=True), name
