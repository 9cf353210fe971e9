"""Server names that simple regular expressions match."""

from __future__ import annotations

import re

import pytest

from l4lb.convert.drafting.values import names_of_regex

CLIENTS = ["x.example", "www.x.example", "m.x.example", "a.www.x.example", "wwwx.example", "x.example.net", "xxexample"]
CLIENTS += ["a.example", "b.example", "c.example", "aa.example", "a.example.com", "example", "ax.example", ""]


def matches(names: list[str], client: str) -> bool:
    return any(client == name or (name[:2] == "*." and client.endswith(name[1:])) for name in names)


@pytest.mark.parametrize(
    "pattern",
    [
        r"^x\.example$",
        r"^(www\.)?x\.example$",
        r"^(?:www\.|m\.)?x\.example$",
        r"^(a|b)\.example(\.com)?$",
        r"^(.*\.)?x\.example$",
        r"^.+\.x\.example$",
        r".*\.x\.example$",
        r"^(.+\.)?(x|a)\.example$",
    ],
)
def test_they_match_whom_the_expression_does(pattern: str) -> None:
    names = names_of_regex(pattern)
    assert names is not None
    for client in CLIENTS:
        assert matches(names, client) == (re.search(pattern, client) is not None), client


@pytest.mark.parametrize(
    "pattern",
    [
        r"x\.example$",
        r"(.*\.)?x\.example$",
        r"^x\.example",
        r"^x.example$",
        r"^xs?\.example$",
        r"^x{2}\.example$",
        r"^(x|y)*\.example$",
        r"^x|y$",
        r"^(a)?$",
        r"^(a\.)?\.b$",
        r"^$",
        r"^(" + "|".join(f"n{number}" for number in range(65)) + r")\.example$",
    ],
)
def test_all_others_are_none(pattern: str) -> None:
    assert names_of_regex(pattern) is None
