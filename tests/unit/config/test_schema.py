from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

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


# ---- what l4lb accepts, the schema accepts ----

VALIDATOR = jsonschema_rs.validator_for(json_schema())
PAGES = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]
FILES = [EXAMPLE, *sorted(Path("examples").rglob("lb.toml")), *sorted(Path("contrib").rglob("lb.toml"))]


def refused(data: dict[str, Any]) -> list[str]:
    return [f"{list(one.instance_path)}: {one.message}" for one in VALIDATOR.iter_errors(data)]


def accepted(data: dict[str, Any]) -> bool:
    try:
        Config.model_validate(data)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("file", FILES, ids=str)
def test_it_accepts_the_files_that_are_shipped(file: Path) -> None:
    assert refused(tomllib.loads(file.read_text())) == []


def test_it_accepts_every_option_of_the_example_in_force() -> None:
    assert refused(uncommented()) == []


def test_it_accepts_the_samples_in_the_documentation() -> None:
    blocks = [block for page in PAGES for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)]
    whole = [data for block in blocks if accepted(data := tomllib.loads(block))]
    assert len(whole) >= 5, "the others are parts of a file"
    for data in whole:
        assert refused(data) == [], data


SCALARS = ["off", "auto", "5s", "250ms", "10MiB/s", "100/s", "64KiB", ":80", "10.0.0.1:80", "10.0.0.0/8", "web", "GET",
           "hex:16", "any", "unix:@x", 2, 3, 443, 0.5, 7.5, True, False]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(SCALARS),
    st.lists(st.sampled_from(SCALARS), max_size=3),
    st.dictionaries(st.sampled_from(["address", "type", "value", "idle", "weight", "a"]), st.sampled_from(SCALARS),
                    max_size=2),
)  # fmt: skip


def places(table: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path of every key, tables too, and its value."""
    for key, value in table.items() if isinstance(table, dict) else ():
        yield (*path, key), value
        yield from places(value, (*path, key))


BASE = uncommented()
PLACES = dict(places(BASE))


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(list(PLACES)), VALUES), min_size=1, max_size=2))
def test_it_accepts_what_the_models_accept(changes: list[tuple[tuple[str, ...], Any]]) -> None:
    """The example with every option, of which some have another value: single, in a list, off, of another type."""
    data = copy.deepcopy(BASE)
    for path, value in changes:
        at: Any = data
        for part in path[:-1]:
            at = at.get(part) if isinstance(at, dict) else None
        if isinstance(at, dict) and not (isinstance(PLACES[path], bool) and isinstance(value, str)):
            at[path[-1]] = value  # text for a boolean is read, and an editor should mark it
    if accepted(data):
        assert refused(data) == [], changes


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[global]\nworker = 2", "global"),
        ('[listeners.a]\nbind = 80\npool = "p"', "listeners"),
        ("[pools.p]\nbackends = [{ addres = 1 }]", "pools"),
        ("[pools.p.health]\nrise = 0", "pools"),
        ("[global]\nhash_seed = -1", "global"),
        ('[pools.p]\nweigth = "x"', "pools"),
    ],
)
def test_it_still_refuses_what_is_wrong(text: str, place: str) -> None:
    found = refused(tomllib.loads(text))
    assert any(one.startswith(f"['{place}'") for one in found), found


# ---- for people in an editor ----


def tables() -> Iterator[tuple[str, dict[str, Any]]]:
    schema = json_schema()
    yield "", schema
    yield from schema["$defs"].items()


def test_every_option_is_described() -> None:
    for name, table in tables():
        for key, option in table.get("properties", {}).items():
            text = option.get("description", "")
            assert text, (name, key)
            assert "``" not in text, (name, key)
            assert not text.startswith("expected"), (name, key)


def test_every_default_is_one_that_the_schema_accepts() -> None:
    schema = json_schema()
    for name, table in tables():
        for key, option in table.get("properties", {}).items():
            if "default" in option:
                alone = jsonschema_rs.validator_for({**option, "$defs": schema["$defs"]})
                assert alone.is_valid(option["default"]), (name, key)
    assert schema["$defs"]["HealthConfig"]["properties"]["interval"]["default"] == "2s"


def test_it_has_only_what_draft_7_has() -> None:
    text = json.dumps(json_schema())
    for keyword in ("ge", "le", "lt", "gt", "exclusiveMinimum", "exclusiveMaximum", "prefixItems"):
        assert f'"{keyword}": ' not in text
    assert '"type": "null"' not in text
