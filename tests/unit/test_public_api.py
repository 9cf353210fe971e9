"""The public API as it is: a change of it is a change of this file, too. Everything in it is documented, and importing
it costs nothing that is not used."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import l4lb
import l4lb.config
import l4lb.discovery
import l4lb.health
import l4lb.hooks
import l4lb.policies
import l4lb.proxy_protocol
import l4lb.records
import l4lb.testing
from l4lb.remote import RemoteBackend, RemoteBans, RemoteListener, RemotePool
from l4lb.views import BackendView, BansView, ListenerView, PoolView

LISTED = Path(__file__).with_name("public_api.txt")
MODULES = [
    l4lb,
    l4lb.discovery,
    l4lb.health,
    l4lb.hooks,
    l4lb.policies,
    l4lb.proxy_protocol,
    l4lb.records,
    l4lb.testing,
]
VIEWS = [PoolView, BackendView, ListenerView, BansView, RemotePool, RemoteBackend, RemoteListener, RemoteBans]
# A number with a unit is explained by one of these words wherever it is a parameter.
UNITS = {"timeout": "second", "drain": "second", "for_s": "second", "bytes_per_s": "second", "sent_bytes": "bytes"}
HEAVY = {"pydantic", "aiohttp", "uvloop", "asyncio", "prometheus_client", "dns", "psutil", "rich", "click", "ssl"}
MODULES_MAX = 6  # of l4lb's own and new ones of the standard library, for `import l4lb`


def exported() -> Iterator[tuple[str, Any]]:
    for module in MODULES:
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        for name in getattr(module, "__all__", [name for name in own if not name.startswith("_")]):
            yield f"{module.__name__}.{name}", getattr(module, name)
    for kind in VIEWS:
        yield f"{kind.__module__}.{kind.__name__}", kind


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Its public ones, that l4lb itself has made."""
    for name, value in inspect.getmembers(kind):
        owner = next((one for one in kind.__mro__ if name in vars(one)), kind)
        if not name.startswith("_") and owner.__module__.startswith("l4lb"):
            yield name, value


def lines() -> Iterator[str]:
    for name, value in exported():
        if not inspect.isclass(value):
            yield f"{name}{_signature(value)}"
            continue
        yield name
        if issubclass(value, BaseModel):
            yield from (f"{name}.{field}" for field in value.model_fields)
        for member, inner in members(value):
            if not (issubclass(value, BaseModel) and member in BaseModel.__dict__):
                yield f"{name}.{member}{_signature(inner)}"


def _signature(value: Any) -> str:
    if not callable(value):
        return ""
    return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(value))) if inspect.isroutine(value) else ""


def test_the_public_api_is_as_listed() -> None:
    """When it was changed on purpose: python -m tests.unit.test_public_api"""
    assert list(lines()) == LISTED.read_text().splitlines()


def documented() -> Iterator[tuple[str, str]]:
    for name, value in exported():
        if inspect.isclass(value) or inspect.isroutine(value):
            yield name, inspect.getdoc(value) or ""
        if inspect.isclass(value):
            for member, inner in members(value):
                if inspect.isroutine(inner) or isinstance(inner, property):
                    yield f"{name}.{member}", _own_doc(inner)


def _own_doc(member: Any) -> str:
    function = member.fget if isinstance(member, property) else member
    return getattr(function, "__doc__", None) or ""


@pytest.mark.parametrize(("name", "text"), list(documented()), ids=lambda value: value if "l4lb." in str(value) else "")
def test_everything_public_is_documented(name: str, text: str) -> None:
    assert text.strip(), f"{name} has no docstring"
    assert text.strip()[-1] in ".`:" or text.strip().endswith("..."), f"{name}: a sentence ends with a full stop"


def test_parameters_with_units_say_them() -> None:
    for name, value in exported():
        if not inspect.isclass(value):
            continue
        for member, inner in members(value):
            text = _own_doc(inner)
            if not inspect.isfunction(inner) or text.startswith("See `"):
                continue
            for parameter in inspect.signature(inner).parameters:
                unit = UNITS.get(parameter)
                see = re.search(r"[Ss]ee `|[Tt]he same", text)
                assert unit is None or unit in text or see, f"{name}.{member}: {parameter} in what unit?"


def test_twins_refer_to_methods_that_are_there() -> None:
    for name, value in exported():
        if inspect.isclass(value):
            for member, inner in members(value):
                if found := re.fullmatch(r"See `(\w+)`\.", _own_doc(inner).partition("\n")[0]):
                    assert hasattr(value, found[1]), f"{name}.{member}"


@pytest.mark.parametrize(
    "name", sorted(set(l4lb.config.__all__) - {"Flags", "build_backend", "from_flags", "load", "loads"})
)
def test_every_option_is_described_in_the_example(name: str) -> None:
    """Models are documented by their options, which `lb.toml.example` and the schema explain."""
    assert inspect.getdoc(getattr(l4lb.config, name)), name


def test_an_import_loads_nothing_heavy() -> None:
    """What takes long is imported when it is first used."""
    program = (
        "import json, sys; before = set(sys.modules); import l4lb; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {program}"],
                          capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    loaded = json.loads(done.stdout)
    assert not {name.partition(".")[0] for name in loaded} & HEAVY
    assert len(loaded) <= MODULES_MAX, loaded


def test_a_client_needs_no_models() -> None:
    """Scripts that ask an instance start as fast as may be."""
    program = (
        "import sys; from l4lb import Client, AdminError; print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert not set(done.stdout.split()) & {"pydantic", "aiohttp", "uvloop", "prometheus_client"}


if __name__ == "__main__":
    LISTED.write_text("".join(f"{line}\n" for line in lines()))
