"""The configuration's JSON Schema, made from the models; for editors and `l4lb schema`."""

from __future__ import annotations

from typing import Any

from l4lb.config.config import Config


def json_schema() -> dict[str, Any]:
    schema = Config.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "l4lb configuration"}
