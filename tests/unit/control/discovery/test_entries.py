from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb.control.discovery.entries import parse_entries

LINES = """
# a comment
10.0.0.1:80
  10.0.0.2:80   weight=2,priority=1  # another
[::1]:80, id=six zone=a

unix:/run/app#1.sock
"""


def test_lines() -> None:
    answer = parse_entries(LINES, "lines")
    assert list(answer.entries) == [
        "10.0.0.1:80",
        {"address": "10.0.0.2:80", "weight": 2, "priority": 1},
        {"address": "[::1]:80", "id": "six", "zone": "a"},
        "unix:/run/app#1.sock",
    ]
    assert answer.place(1) == "line 4"


@pytest.mark.parametrize(
    ("text", "format_"),
    [
        ('["10.0.0.1:80", {"address": "10.0.0.2:80", "weight": 2}]', "json"),
        ('{"backends": ["10.0.0.1:80", {"address": "10.0.0.2:80", "weight": 2}]}', "json"),
        ('backends = ["10.0.0.1:80", { address = "10.0.0.2:80", weight = 2 }]', "toml"),
        ('[[backends]]\naddress = "10.0.0.1:80"\n[[backends]]\naddress = "10.0.0.2:80"\nweight = 2', "toml"),
    ],
)
def test_json_and_toml(text: str, format_: str) -> None:
    answer = parse_entries(text, format_)
    assert [one if isinstance(one, str) else one["address"] for one in answer.entries] == ["10.0.0.1:80", "10.0.0.2:80"]
    assert answer.place(1) == "backends[1]"


@pytest.mark.parametrize("format_", ["lines", "json", "toml"])
def test_an_empty_list_is_an_answer(format_: str) -> None:
    assert not parse_entries({"lines": "\n# none", "json": "[]", "toml": "backends = []"}[format_], format_).entries


@pytest.mark.parametrize(
    ("text", "format_", "message"),
    [
        ("10.0.0.1:80\n10.0.0.2:80 heavy", "lines", 'line 2: "heavy": expected an address, and options'),
        ("", "json", "line 1, column 1: not JSON: Expecting value"),
        ('["10.0.0.1:80" 3]', "json", "line 1, column 16: not JSON: "),
        ("[" * 100_000, "json", "not JSON of backends: too many levels within each other"),
        ('{"backend": []}', "json", '"backend": unknown key, expected backends'),
        ("3", "json", "expected a list of backends"),
        ("{}", "json", "expected a list of backends"),
        ("[3]", "json", "backends[0]: expected an address or a table, not 3"),
        ("backends = [\n  10.0.0.1]", "toml", "line 2: not TOML"),
        ("a = " + "[" * 100_000, "toml", "more than 32 levels"),
        ("", "toml", "expected a list of backends"),
        ("backends = [1979-05-27]", "toml", 'backends[0]: expected an address or a table, not "1979-05-27"'),
    ],
)
def test_what_is_wrong_says_where(text: str, format_: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_entries(text, format_)
    assert message in str(raised.value)


@given(st.text(), st.sampled_from(["lines", "json", "toml"]))
def test_any_text_is_entries_or_a_value_error(text: str, format_: str) -> None:
    try:
        answer = parse_entries(text, format_)
    except ValueError:
        return
    assert all(isinstance(one, str | dict) for one in answer.entries)
