"""The documents for those who work on l4lb name files and functions that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCUMENTS = {"ARCHITECTURE.md": 20, "CONTRIBUTING.md": 20, "docs/kernel-internals.md": 20, "docs/fleet.md": 10}
NAME = re.compile(r"`((?:[\w-]+/)*[\w-]+\.(?:py|pyx|pxd))(?::(\w+))?`")
ROOTS = {"pxd": Path("l4lb/_dataplane"), "py": Path("l4lb"), "pyx": Path("l4lb")}


def path_of(name: str) -> Path:
    """As the documents say: headers from the data plane's folder on, modules from the package's, others whole."""
    below = ROOTS[name.rpartition(".")[2]] / name
    return below if below.exists() else Path(name)


def named(document: str) -> list[tuple[str, str]]:
    text = re.sub(r"```.*?```", "", Path(document).read_text(encoding="utf-8"), flags=re.DOTALL)
    return sorted(set(NAME.findall(text)))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_named_file_and_function_is_there(document: str) -> None:
    found = named(document)
    assert len(found) >= DOCUMENTS[document]
    for place, function in found:
        path = path_of(place)
        assert path.exists() or len(list(Path("l4lb").rglob(place))) == 1, f"{document}: {place}"
        if function:
            pattern = rf"^\s*(?:async def|def|class|cdef inline [^\n]*?|cdef enum|cdef struct)\s*\*?{function}\b"
            assert re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE), f"{document}: {place}:{function}"


def test_every_promise_of_security_has_its_tests() -> None:
    text = Path("SECURITY.md").read_text(encoding="utf-8")
    tests = "\n".join(file.read_text(encoding="utf-8") for file in Path("tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) >= 30
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []
    promises = [line for line in text.splitlines() if line.startswith("| ") and line.count("|") == 3]
    assert [line for line in promises if "`" not in line and "shown by" not in line] == []


def test_the_architecture_is_read_in_one_sitting() -> None:
    assert len(Path("ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()) <= 200
