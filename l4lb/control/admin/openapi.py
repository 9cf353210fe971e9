"""``GET /openapi.json``: the OpenAPI 3.1 document, generated from the routes and the shapes that they name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from l4lb.control.admin.routes import PATH_PARAMETERS, Route
from l4lb.control.reporting.shapes import Error

_REF = "#/components/schemas/{model}"
_ERROR = {"$ref": _REF.format(model="Error")}
_SAID = {
    201: "Added",
    400: "A parameter is wrong",
    401: "The token is missing or wrong, or a page of another origin asks",
    403: "The token is for reading alone",
    404: "There is no such thing",
    408: "The body did not come in time",
    409: "It cannot be done now, or not with what there is",
    422: "The body does not fit",
    503: "Not ready",
    507: "It cannot be saved in the state file, and was not done",
}


def _key(route: Route) -> str:
    return f"{route.method} {route.path}"


def _parameters(route: Route) -> list[dict[str, Any]]:
    named = re.findall(r"{(\w+)}", route.path)
    path = [
        {"name": name, "in": "path", "required": True, "description": PATH_PARAMETERS[name],
         "schema": {"type": "string", "minLength": 1}}
        for name in named
    ]  # fmt: skip
    schema = route.query.model_json_schema()
    query = []
    for name, field in schema.get("properties", {}).items():
        description = field.pop("description", "")
        required = name in schema.get("required", ())
        query.append({"name": name, "in": "query", "required": required, "description": description, "schema": field})
    return path + query


def _guarded(route: Route) -> tuple[int, ...]:
    """What the guard answers, see guard.py."""
    return () if route.public else (401,) if route.method == "GET" else (401, 403)


def _responses(route: Route, schema: dict[str, Any]) -> dict[str, Any]:
    content = {"content": {media: {"schema": schema} for media in (route.media, *route.or_media)}}
    answers = {str(status): {"description": _SAID.get(status, "Done"), **content} for status in route.statuses}
    errors = {400, *route.refuses, *_guarded(route), *((408, 422) if route.body else ())}
    for status in sorted(errors):
        described = {"description": _SAID[status], "content": {"application/json": {"schema": _ERROR}}}
        answers[str(status)] = described
    return answers


def _operation(route: Route, schemas: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    answer = schemas.get((_key(route), "serialization"), {})
    operation: dict[str, Any] = {
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": _responses(route, answer),
        "security": [] if route.public else [{"token": []}, {}],
    }
    if route.body is not None:
        content = {"application/json": {"schema": schemas[_key(route), "validation"]}}
        operation["requestBody"] = {"required": False, "content": content}
    return operation


def document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    answers = [(_key(route), "serialization", TypeAdapter(route.answer)) for route in routes if route.answer]
    bodies = [(_key(route), "validation", TypeAdapter(route.body)) for route in routes if route.body]
    adapters: Any = [*answers, *bodies, ("error", "serialization", TypeAdapter(Error))]
    schemas, definitions = TypeAdapter.json_schemas(adapters, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "l4lb admin API", "version": version},
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
