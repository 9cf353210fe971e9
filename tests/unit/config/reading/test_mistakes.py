"""Mistakes that people make: each has a message that says what to write, and none brings errors of other keys along."""

from __future__ import annotations

import pytest

from l4lb.config import Config
from l4lb.errors import ConfigError

HEAD = '[listeners.web]\nbind = ":80"\npool = "web"\n'


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.loads(text, file="lb.toml")
    return [str(one).removeprefix("lb.toml:") for one in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bind = 8080", '2: listeners.web.bind: 8080: expected an address such as ":8080" or "127.0.0.1:8080"'),
        ("bind = true", '2: listeners.web.bind: true: expected an address such as ":8080", or a list of them'),
        (
            'bind = "a:1, b:2"',
            '2: listeners.web.bind: "a:1, b:2": expected one address; several are a list: ["a:1", "b:2"]',
        ),
        (
            'bind = [":1", "a:1,[::1]:2"]',
            '2: listeners.web.bind[1]: "a:1,[::1]:2": expected one address; several are a list: ["a:1", "[::1]:2"]',
        ),
    ],
)
def test_addresses_of_a_listener(text: str, message: str) -> None:
    assert problems(f'[listeners.web]\n{text}\npool = "web"\n[pools.web]\nbackends = ["c:3"]\n') == [message]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"a:1,b:2"', '5: pools.web.backends: "a:1,b:2": expected one address; several are a list: ["a:1", "b:2"]'),
        ("[8080]", '5: pools.web.backends[0]: 8080: expected an address such as "10.0.0.1:8080", or a table'),
    ],
)
def test_addresses_of_backends(text: str, message: str) -> None:
    assert problems(f"{HEAD}[pools.web]\nbackends = {text}\n") == [message]


def test_a_unix_socket_may_have_a_comma() -> None:
    Config.loads(f'{HEAD}[pools.web]\nbackends = ["unix:/run/a,b.sock"]\n')


@pytest.mark.parametrize(
    "options",
    [
        'type = "htp", path = "/x", expect_status = "200"',
        'type = 5, path = "/x"',
    ],
)
def test_a_wrong_type_of_check_brings_no_other_errors(options: str) -> None:
    (only,) = problems(f'{HEAD}[pools.web]\nbackends = ["c:3"]\nhealth = {{ {options} }}\n')
    assert only.startswith("6: pools.web.health.type: ")


def test_but_errors_of_other_tables_and_of_values_are_still_found() -> None:
    text = f'{HEAD}[pools.web]\nbackends = ["c:3"]\nhealth = {{ type = "htp", rise = 0 }}\n'
    text += '[pools.b]\nbackends = ["c:3"]\nhealth = { type = "tcp", path = "/x" }\n'
    assert [one.split(": ")[1] for one in problems(text)] == [
        "pools.web.health.type",
        "pools.web.health.rise",
        "pools.b.health.path",
    ]


def test_a_wrong_protocol_brings_no_other_errors() -> None:
    text = f'{HEAD}protocol = "upd"\nudp_responses = 1\n[pools.web]\nbackends = ["c:3"]\n'
    (only,) = problems(text)
    assert only.startswith('4: listeners.web.protocol: "upd"')


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("", "bind"),
        ("", "address"),
        ("[global]\n", "discovery"),
        ("[listeners.web]\n", "discovery"),
        ("[pools.web]\n", "address"),
    ],
)
def test_an_unknown_key_hides_no_other_error(table: str, key: str) -> None:
    """Also one that other tables have, and need."""
    text = '[listeners.web]\nbind = ":80"\npool = "wbe"\n[pools.web]\nbackends = ["c:3"]\n[global]\n'
    found = problems(text.replace(table, f'{table}{key} = "d:4"\n', 1))
    assert sorted("unknown key" in one for one in found) == [False, True]
    assert any('listeners.web.pool: "wbe": no such pool' in one for one in found)


def test_unknown_tables_have_a_line() -> None:
    text = (
        f'{HEAD}[pools.web]\nbackends = ["c:3"]\n[listners.a]\nbind = ":1"\n[admn]\nbind = "x"\n[[pool.x.y]]\nz = 1\n'
    )
    assert problems(text) == [
        '6: listners: unknown key (did you mean "listeners"?)',
        '8: admn: unknown key (did you mean "admin"?)',
        '10: pool: unknown key (did you mean "pools"?)',
    ]


def lines_of_syntax(text: str) -> list[int]:
    found = problems(text)
    assert all(": not TOML: " in one for one in found), found
    return [int(one.partition(":")[0]) for one in found]


def test_several_syntax_errors_at_once() -> None:
    text = '[listeners.web]\nbind = "127.0.0.1:80\npool = "web"\n[pools.web\nbackends = ["a:1"]\nx = = 3\n'
    assert lines_of_syntax(text) == [2, 4, 6]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('[pools.web]\nbackends = [\n  "a:1",\n[pools.b]\nbackends = ["c:3"]\n', 1),
        ('[pools.web]\nx = """\ny = = 1\nz = = 2\n', 1),
        ('[pools.web]\nbackends = [ "a:1" "b:2",\n "c:3" ]\n', 1),
        ("[a]\nx = 1\n[a]\ny = 1\n[a]\nz = 1\n", 1),
    ],
)
def test_what_may_follow_from_the_first_error_is_not_said(text: str, lines: int) -> None:
    assert len(lines_of_syntax(text)) == lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("x = 1\ny = 'a\nz = 2\nz = = 3\n", [2, 4]),
        ("x = 1\ny = '''a\nz = 2\n", [2]),
        ('x = """a"""\ny = """a "b"\nz = 2\n', [2]),
        ('x = """a"""\ny = "a', [2]),
        ("x = [\n1,\n2\n\n\n", [3]),
    ],
)
def test_what_is_never_closed(text: str, lines: list[int]) -> None:
    assert lines_of_syntax(text) == lines


def test_lines_are_those_of_toml() -> None:
    """A line separator of Unicode ends none, and a CRLF is one."""
    assert lines_of_syntax("# a\u2028b\nx = = 1\ny = = 2\n") == [2, 3]
    assert lines_of_syntax("x = 1\r\nx = 2\r\nx = 3\r\n") == [2]


def test_they_are_bounded() -> None:
    assert len(problems("x = = 1\n" * 1000)) <= 21


@pytest.mark.parametrize("value", ["[]", "{}", "5", "[[1]]"])
def test_a_type_that_is_no_text(value: str) -> None:
    found = problems(f'{HEAD}[pools.web]\nbackends = ["c:3"]\ndiscovery = {{ type = {value} }}\n')
    assert found[0].startswith("6: pools.web.discovery.type: "), found
