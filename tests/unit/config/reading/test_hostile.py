"""Configurations that nobody wrote on purpose: whatever is in the file, it is one or the problems are told, soon."""

from __future__ import annotations

import re
import time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l4lb.config import Config
from l4lb.errors import ConfigError, Problem

EXAMPLE = (Path(__file__).parents[4] / "lb.toml.example").read_text()
SMALL = """
[global]
state_file = "/tmp/state"
[listeners.web]
bind = ["127.0.0.1:0", "[::1]:0"]
pool = "web"
session_rate = "10/s"
[pools.web]
policy = "maglev"
backends = ["127.0.0.1:1", { address = "10.0.0.1:80", weight = 2, id = "two", tags = { rack = "1" } }]
[pools.web.health]
type = "http"
expect_body = "regex:a+"
headers = { x = "y" }
"""
WITHIN_S = 20.0  # also on a busy machine
VALUES = (
    "true", "-1", "0", "65536", "1e400", "nan", "-inf", "9" * 30, "9" * 5000, "1979-05-27T07:32:00Z", "07:32:00",
    '""', "[]", "{}", "[[]]", '" "', '"\\u0000"', '"\\n"', '"\\u202e"', '"tcp://x"', '":65536"', '":-1"', '"unix:"',
    '"fd:"', '"x" , "y"', '"' + "x" * 5000 + '"', '"regex:' + "(" * 3000 + '"', '"[::1%eth0]:1"', '"0x7f.1:80"',
    "[1, 'a', true]", "{ a = 1, b = { c = [1] } }", "'off'", "'auto'", "'5s'", "'100/s'", "0x10", "1_000",
)  # fmt: skip
VALUE = re.compile(r"(?<== )[^\n]+")


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    text = draw(st.sampled_from((EXAMPLE, SMALL, SMALL)))
    for _ in range(draw(st.integers(1, 4))):
        match draw(st.sampled_from(("value", "cut", "double", "insert", "key"))):
            case "value":
                places = list(VALUE.finditer(text))
                if places:
                    place = draw(st.sampled_from(places))
                    text = text[: place.start()] + draw(st.sampled_from(VALUES)) + text[place.end() :]
            case "cut":
                start = draw(st.integers(0, len(text)))
                text = text[:start] + text[start + draw(st.integers(0, 80)) :]
            case "double":
                lines = text.splitlines(keepends=True)
                if lines:
                    at = draw(st.integers(0, len(lines) - 1))
                    lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
                text = "".join(lines)
            case "insert":
                at = draw(st.integers(0, len(text)))
                text = text[:at] + draw(st.text(max_size=20)) + text[at:]
            case "key":
                at = draw(st.integers(0, len(text)))
                depth = draw(st.integers(1, 5000))
                text = (
                    text[:at]
                    + draw(st.sampled_from(("[" * depth, "a." * depth, "{x=" * depth, '"' * depth)))
                    + text[at:]
                )
    raw = text.encode("utf-8", "surrogatepass")
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=4)) + raw[at:]
    return raw


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(raw=mutated())
def test_whatever_is_in_a_file_it_is_judged_soon(raw: bytes, tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_bytes(raw)
    began = time.monotonic()
    problems = problems_of(file)
    assert time.monotonic() - began < WITHIN_S
    assert all(str(problem).isprintable() for problem in problems), "a line each, whatever the values have in them"


def problems_of(file: Path) -> tuple[Problem, ...]:
    try:
        Config.load(file)
    except ConfigError as error:
        return error.problems
    return ()
