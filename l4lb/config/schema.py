"""The configuration's JSON Schema, made from the models; for editors and `l4lb schema`.

What l4lb accepts, the schema accepts: single values where a list may stand, "off", addresses in place of tables. The
exception is text in place of a number or a boolean (``weight = "2"``), which l4lb reads and an editor should mark. What
must hold between options is `l4lb check`'s to say. It keeps to what draft 7 has, which editors understand.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from l4lb.config.config import Config
from l4lb.config.options.base import addresses, listify
from l4lb.config.options.listener import off_to_none
from l4lb.config.options.models import backend_table, load_factor
from l4lb.config.options.units import AS_WRITTEN

_LIMITS = {"ge": "minimum", "le": "maximum"}
_CODE = re.compile(r":? ``.*?``")  # in the docstring of a model, how it is written in Python


class _Schema(GenerateJsonSchema):
    """Of what is read: the values before validators have brought them into one form."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        inner = super().function_before_schema(schema)
        function: Any = schema["function"]["function"]
        if function in (listify, addresses):
            return {"anyOf": [inner.get("items", {}), inner]}
        if function is backend_table:
            return {"anyOf": [{"type": "string"}, inner]}
        if function in (off_to_none, load_factor):
            return {"anyOf": [{"const": "off"}, inner]}
        return inner

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """TOML has no null: what may be None is left out."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """With units, as `Config.dumps` writes it."""
        found = super().default_schema(schema)
        written: Any = schema["schema"].get("serialization", {}).get("function")
        if written is not None and isinstance(found.get("default"), float):
            found["default"] = written(found["default"], SimpleNamespace(context=AS_WRITTEN))
        return found

    def field_title_should_be_set(self, schema: Any) -> bool:
        """The key itself says it."""
        return False


def json_schema() -> dict[str, Any]:
    schema: dict[str, Any] = _polished(Config.model_json_schema(by_alias=True, schema_generator=_Schema))
    for definition in schema["$defs"].values():
        del definition["title"]  # the name of a class
    about = "Configuration of l4lb: listeners, where clients are accepted, and pools, where they are sent."
    return {
        **schema,
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "l4lb configuration",
        "description": about,
    }


def _polished(node: Any) -> Any:
    """For people: defaults that TOML can have, descriptions without Python, references with what stands beside them."""
    if isinstance(node, list):
        return [_polished(one) for one in node]
    if not isinstance(node, dict):
        return node
    found = {_LIMITS.get(key, key): _polished(value) for key, value in node.items()}
    if "default" in found and (found["default"] is None or isinstance(found["default"], dict)):
        del found["default"]
    for limit in ("lt", "exclusiveMaximum"):  # of integers alone
        if limit in found:
            found["maximum"] = found.pop(limit) - 1
    if isinstance(text := found.get("description"), str):
        found["description"] = _CODE.sub("", text).removeprefix("expected ")
    if "$ref" in found and len(found) > 1:  # draft 7 ignores what stands beside a reference
        found["allOf"] = [{"$ref": found.pop("$ref")}]
    return found
