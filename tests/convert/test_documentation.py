"""The tables of docs/migration-haproxy.md and docs/migration-nginx.md have every directive that the converter knows, no
other, and say of each what the converter says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from l4lb.convert.drafting.directives import Fate, Table
from l4lb.convert.haproxy import keywords, parameters
from l4lb.convert.nginx import keywords as nginx

TABLES: dict[str, list[Table]] = {
    "docs/migration-haproxy.md": [
        keywords.SECTIONS,
        keywords.GLOBAL,
        keywords.PROXY,
        parameters.BIND,
        parameters.SERVER,
        parameters.FETCHES,
    ],
    "docs/migration-nginx.md": [nginx.MAIN, nginx.STREAM, nginx.LISTEN, nginx.UPSTREAM, nginx.SERVER],
}
HEAD = ["| directive | is | what it becomes, or why not |", "|---|---|---|"]
SAID = {Fate.NEEDLESS: "not needed", Fate.HTTP: "of HTTP"}


def table_of(table: Table) -> list[str]:
    """Its lines in Markdown."""
    rows = [f"| `{name}` | {SAID.get(one.fate, one.fate)} | {one.says} |" for name, one in table.items()]
    return [*HEAD, *rows]


def tables_in(document: str) -> list[list[str]]:
    """Those that begin with HEAD."""
    parts = re.split(r"\n(?!\|)", Path(document).read_text(encoding="utf-8"))
    found = [[line for line in part.split("\n") if line.startswith("|")] for part in parts]
    return [lines for lines in found if lines[:2] == HEAD]


@pytest.mark.parametrize("document", TABLES)
def test_the_tables_are_those_of_the_converter(document: str) -> None:
    assert tables_in(document) == [table_of(table) for table in TABLES[document]]


@pytest.mark.parametrize("document", TABLES)
def test_every_directive_says_something(document: str) -> None:
    for table in TABLES[document]:
        assert len(table) >= 8
        for name, directive in table.items():
            assert directive.says.strip(), name
            assert "|" not in directive.says, name


def test_every_option_that_is_named_exists() -> None:
    """Names in backquotes with an underscore are options, commands, metrics or variables of l4lb."""
    pages = [page for page in Path("docs").glob("*.md") if not page.name.startswith("migration-")]
    known = "\n".join(page.read_text() for page in (Path("lb.toml.example"), Path("CONTRIBUTING.md"), *pages))
    for tables in TABLES.values():
        for table in tables:
            for directive in table.values():
                for name in re.findall(r"`([a-z]+_[a-z_]+)", directive.says):
                    assert name in known, name
