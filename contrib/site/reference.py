"""Parts of the site that the code describes itself: options, commands, metrics, routes of the admin API, the library.

A page of docs/ has `<!-- generated: NAME -->` where one belongs; NAME is a key of `PARTS`."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import click
from places import ROOT

import l4lb
from l4lb.cli.main import cli
from l4lb.config.schema import json_schema
from l4lb.control.admin.routes import ROUTES

sys.path.insert(0, str(ROOT / "contrib"))

import manual

MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
MODULES = ("l4lb.hooks", "l4lb.policies", "l4lb.health", "l4lb.discovery", "l4lb.records", "l4lb.proxy_protocol",
           "l4lb.testing")  # fmt: skip


def filled(text: str) -> str:
    """A page with its generated parts."""
    return MARK.sub(lambda match: "\n".join(PARTS[match[1]]()), text)


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`" if text else ""


# ---- options ----


_KINDS_OF_VALUES = {"string": "text", "integer": "a number", "number": "a number", "boolean": "true, false"}


def configuration() -> Iterator[str]:
    """A table for each table of the file, in the order of the models."""
    schema = json_schema()
    for path, model in _tables(schema):
        yield f"## {path}\n"
        if description := model.get("description"):
            yield description + "\n"
        yield "| key | value | default | meaning |\n|---|---|---|---|"
        for key, option in model["properties"].items():
            default = json.dumps(option["default"]) if "default" in option else ""
            limits = _limits(option)
            meaning = cell(option.get("description", "")) + (f" ({limits})" if limits else "")
            yield f"| {code(key)} | {_value(option, schema['$defs'])} | {code(default)} | {meaning} |"
        yield ""


def _tables(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    definitions = schema["$defs"]

    def below(path: str, properties: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, option in properties.items():
            name = f"{path}.{key}" if path else key
            found = _reference(option)
            if found is None or "properties" not in definitions[found]:
                continue
            if "additionalProperties" in option:
                name += ".NAME"
            whole = f"[[{name}]]" if '"array"' in json.dumps(option) else f"[{name}]"
            yield whole, definitions[found]
            yield from below(name, definitions[found]["properties"])

    yield from below("", schema["properties"])


def _reference(option: dict[str, Any]) -> str | None:
    """The model that it is, or that it has one or many of."""
    found = re.findall(r'"#/\$defs/(\w+)"', json.dumps(option))
    return found[0] if found else None


def _value(option: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What may stand there, briefly."""
    found: list[str] = []
    for one in _alternatives(option, definitions):
        if "enum" in one:
            found += [code(str(value)) for value in one["enum"]]
        elif "const" in one:
            found.append(code(str(one["const"])))
        elif one.get("type") == "array":
            found.append("a list")
        elif "properties" in one or one.get("type") == "object":
            found.append("a table")
        elif one.get("examples"):
            found.append("such as " + ", ".join(code(str(example)) for example in one["examples"]))
        elif isinstance(kind := one.get("type"), str):
            found.append(_KINDS_OF_VALUES[kind])
    return ", ".join(dict.fromkeys(found))


def _alternatives(option: dict[str, Any], definitions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "examples" in option:
        yield option
        return
    for key in ("anyOf", "oneOf", "allOf"):
        for one in option.get(key, ()):
            yield from _alternatives(one, definitions)
    if "$ref" in option:
        yield definitions[option["$ref"].rpartition("/")[2]]
    elif "type" in option or "enum" in option or "const" in option:
        yield option


def _limits(option: dict[str, Any]) -> str:
    low, high = option.get("minimum"), option.get("maximum")
    if low is None and high is None:
        return ""
    if high is None or high >= 2**31 - 1:
        return "" if low in (None, 0) else f"at least {low}"
    return f"{low} to {high:,}" if low is not None else f"at most {high:,}"


# ---- commands ----


def commands() -> Iterator[str]:
    for path, context in manual.walk(cli, ("l4lb",)):
        command = context.command
        yield f"## {' '.join(path)}\n"
        yield f"```text\n{' '.join(path)} {' '.join(command.collect_usage_pieces(context))}\n```\n"
        yield _help(inspect.cleandoc(command.help or "")) + "\n"
        rows = [row for row in manual.options(context) if row[0] != "-h, --help"]
        if rows:
            yield "| option | meaning |\n|---|---|"
            yield from (f"| {code(term)} | {cell(meaning)} |" for term, meaning in rows)
            yield ""
        if isinstance(command, click.Group):
            names = command.list_commands(context)
            yield " · ".join(f"[{name}](#{'-'.join((*path, name))})" for name in names) + "\n"


def _help(text: str) -> str:
    r"""click's help in Markdown: paragraphs that begin with \b keep their lines."""
    blocks = re.split(r"\n\s*\n", text)
    return "\n\n".join(
        f"```text\n{block[1:].strip(chr(10))}\n```" if block.startswith("\b") else block.replace("<", "&lt;")
        for block in blocks
    )


# ---- metrics ----


METRICS_IN = ("families.py", "exposition.py")
_KINDS = {"counter": "counter", "gauge": "gauge", "histogram": "histogram", "GaugeMetricFamily": "gauge"}


def metrics() -> Iterator[str]:
    """What the modules of `METRICS_IN` make, as it stands there."""
    yield "| metric | kind | labels | meaning |\n|---|---|---|---|"
    for file in METRICS_IN:
        tree = ast.parse((ROOT / "l4lb/control/reporting" / file).read_text(encoding="utf-8"))
        assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
        names = {target.id: one.value for one in assigned for target in one.targets if isinstance(target, ast.Name)}
        for kind, name, meaning, labels in _made(tree):
            whole = f"{name}_total" if kind == "counter" else name
            yield f"| {code(whole)} | {kind} | {', '.join(_labels(labels, names))} | {cell(meaning)} |"


def _made(tree: ast.AST) -> Iterator[tuple[str, str, str, ast.expr]]:
    """(kind, name, meaning, labels) of each that is named where it is made, or in the loop around that."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (kind := _kind(node)) and isinstance(node.args[0], ast.Constant):
            labels = ast.Tuple([]) if "Family" in ast.dump(node.func) else node.args[2]
            yield kind, _text(node.args[0]), _text(node.args[1]), labels
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
            calls = [one for one in ast.walk(node) if isinstance(one, ast.Call) and _kind(one)]
            for row in node.iter.elts if calls else ():
                assert isinstance(row, ast.Tuple)
                yield _kind(calls[0]), _text(row.elts[0]), _text(row.elts[1]), calls[0].args[2]


def _kind(call: ast.Call) -> str:
    """Of the metric that it makes; empty for any other call."""
    return _KINDS.get(call.func.id, "") if isinstance(call.func, ast.Name) else ""


def _labels(node: ast.expr, names: dict[str, ast.expr]) -> Iterator[str]:
    """The words of a tuple that may contain others, by name."""
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.Starred):
        yield from _labels(node.value, names)
    elif isinstance(node, ast.Name):
        yield from _labels(names[node.id], names)
    elif isinstance(node, ast.Tuple):
        for one in node.elts:
            yield from _labels(one, names)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
    return "..."


# ---- the admin API ----


def routes() -> Iterator[str]:
    yield "| route | does | parameters |\n|---|---|---|"
    for route in ROUTES:
        fields = route.query.model_fields
        body = route.body.model_fields if route.body else {}
        said = [f"{code('?' + name)} {field.description or ''}".strip() for name, field in fields.items()]
        said += [f"{code(name)} {field.description or ''}".strip() for name, field in body.items()]
        yield f"| {code(route.method + ' ' + route.path)} | {cell(route.summary)} | {cell('; '.join(said))} |"


# ---- the library ----


def library() -> Iterator[str]:
    yield "## l4lb\n"
    for name in l4lb.__all__:
        value = getattr(l4lb, name)
        if inspect.isclass(value):
            fields = ", ".join(map(code, getattr(value, "model_fields", ())))
            shown = "members: false" if fields else f"show_if_no_docstring: {str(issubclass(value, Enum)).lower()}"
            yield f"::: {value.__module__}.{value.__qualname__}\n    options:\n      heading_level: 3\n      {shown}\n"
            if fields:
                yield f"Fields, as in the [configuration](configuration.md): {fields}.\n"
    for module in MODULES:
        yield f"::: {module}\n    options:\n      heading_level: 2\n      show_root_full_path: true\n"


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "configuration": configuration,
    "commands": commands,
    "metrics": metrics,
    "routes": routes,
    "library": library,
}
