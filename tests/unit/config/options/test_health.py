"""Options of health checks: which type has which, and what each takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb import plugins
from l4lb.config import Config, HealthConfig
from l4lb.config.options.health import OPTIONS
from l4lb.config.options.patterns import parse_bytes, parse_pattern
from l4lb.errors import ConfigError
from tests.support.checking import check

BASE = '[listeners.l]\nbind = ":9"\npool = "p"\n[pools.p]\nbackends = ["127.0.0.1:1"]\n[pools.p.health]\n'
CALLABLE = "tests.unit.control.checks.functions:up"
VALUES = {
    "send_proxy": "true", "send": '"x"', "expect": '["x"]', "server_name": '"x.example"', "verify": "true",
    "method": '"HEAD"', "path": '"/x"', "host": '"x"', "headers": '{ X-A = "b" }', "expect_status": "200",
    "expect_body": '"x"', "name": '"x.example"', "record": '"SOA"', "transport": '"tcp"', "user": '"x"',
    "command": '["/bin/true"]', "callable": f'"{CALLABLE}"', "options": "{ a = 1 }",
}  # fmt: skip
NEEDED = {"dns": "name", "exec": "command", "python": "callable", "send_expect": "send"}


def problems(text: str) -> list[str]:
    try:
        Config.loads(BASE + text, file="lb.toml")
    except ConfigError as error:
        return [problem.removeprefix("lb.toml:") for problem in str(error).splitlines()]
    return []


def with_needed(type_: str, *options: str) -> str:
    keys = dict.fromkeys((NEEDED[type_],) if type_ in NEEDED else ()) | dict.fromkeys(options)
    return f'type = "{type_}"\n' + "".join(f"{key} = {VALUES[key]}\n" for key in keys)


@pytest.mark.parametrize("type_", OPTIONS)
@pytest.mark.parametrize("option", VALUES)
def test_an_option_works_with_its_types_and_is_an_error_with_the_others(type_: str, option: str) -> None:
    found = problems(with_needed(type_, option))
    if option in OPTIONS[type_]:
        assert found == []
    else:
        assert [line.partition(": ")[2] for line in found] == [
            f'pools.p.health.{option}: has no effect with type "{type_}"'
        ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('type = "dns"', '6: pools.p.health: type "dns" needs name'),
        ('type = "exec"', '6: pools.p.health: type "exec" needs command'),
        ('type = "python"', '6: pools.p.health: type "python" needs callable'),
        ('type = "send_expect"', '6: pools.p.health: type "send_expect" needs send, expect or both'),
        ('type = "send_expect"\nsend = [""]', '6: pools.p.health: type "send_expect" needs send, expect or both'),
        ('type = "htp"', '7: pools.p.health.type: "htp": expected one of none, tcp, '),
        ('type = "http"\nexpect_status = 99', "8: pools.p.health.expect_status: 99: expected a status such as 200"),
        ('type = "http"\nexpect_status = "300-200"', '8: pools.p.health.expect_status: "300-200": expected a status'),
        ('type = "http"\nexpect_status = true', "8: pools.p.health.expect_status: true: expected a status"),
        ('type = "http"\npath = "x"', '8: pools.p.health.path: "x": expected a path'),
        ('type = "http"\npath = "/a b"', '8: pools.p.health.path: "/a b": expected a path'),
        ('type = "http"\nhost = "a\\r\\nb"', "8: pools.p.health.host: "),
        ('type = "http"\nheaders = { "a b" = "c" }', '8: pools.p.health.headers: "a b" is not the name of a header'),
        ('type = "http"\nheaders = { a = "b\\r\\nc" }', '8: pools.p.health.headers: "a": a header is one line'),
        ('type = "http"\nheaders = { Host = "b" }', '8: pools.p.health.headers: "Host" cannot be set: use host'),
        ('type = "http"\nmethod = "POST"', "8: pools.p.health.method: \"POST\": expected 'GET' or 'HEAD'"),
        ('type = "http"\nmethod = "HEAD"\nexpect_body = "x"', "9: pools.p.health.expect_body: has no effect with"),
        ('type = "http"\nexpect_body = "regex:("', '8: pools.p.health.expect_body: "regex:(": not a regular'),
        ('type = "udp"\nsend = "hex:0"', '8: pools.p.health.send: "hex:0": expected pairs of hexadecimal digits'),
        ('type = "udp"\nsend = "regex:x"', '8: pools.p.health.send: "regex:x": "regex:" is for what is expected'),
        ('type = "udp"\nexpect = ["a", "hex:zz"]', "8: pools.p.health.expect: "),
        ('type = "tls"\nverify = "/nowhere"', '8: pools.p.health.verify: "/nowhere": cannot be read; expected true'),
        ('type = "dns"\nname = "a..b"', '8: pools.p.health.name: "a..b": not a name of DNS'),
        ('type = "dns"\nname = "a"\nrecord = "AB"', '9: pools.p.health.record: "AB": expected a type of record'),
        ('type = "exec"\ncommand = "/bin/true"', '8: pools.p.health.command: "/bin/true": expected a list such as'),
        ('type = "tcp"\nsend_proxi = true', '8: pools.p.health.send_proxi: unknown key (did you mean "send_proxy"?)'),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, message: str) -> None:
    assert any(line.startswith(message) for line in problems(text)), problems(text)


def test_a_mistyped_type_gets_a_suggestion() -> None:
    assert problems('type = "postgre"')[0].endswith('(did you mean "postgres"?)')


def test_programs_build_the_same() -> None:
    assert HealthConfig(type="http", expect_status=[200, "300-302"]).expect_status == ("200", "300-302")
    assert HealthConfig(type="udp", send="a", expect=["b", "c"]).expect == ("b", "c")
    with pytest.raises(ConfigError, match='HealthConfig: type "exec" needs command'):
        HealthConfig(type="exec")


def test_patterns() -> None:
    assert parse_bytes("a\r\n") == b"a\r\n"
    assert parse_bytes("hex:00 ff") == b"\x00\xff"
    assert parse_pattern("a.c").search(b"abc") is None
    assert parse_pattern("regex:a.c").search(b"abc")
    assert parse_pattern("regex:[[]x").search(b"[x"), "a warning of Python's is no line for users"
    assert parse_pattern("hex:2e").search(b"abc") is None
    assert parse_pattern("é").search("né".encode())


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed distribution, as importlib.metadata sees it, that adds types, some of which are broken."""
    info = tmp_path / "l4lb_extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: l4lb-extra\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[l4lb.health_checks]\nextra = tests.unit.control.checks.functions:added\nlost = no.such.module:check\n"
        "exits = tests.unit.control.checks.functions:async_exiting\n"
        "cancels = tests.unit.control.checks.functions:async_cancelled\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    plugins.names.cache_clear()
    plugins.load.cache_clear()
    yield tmp_path
    plugins.names.cache_clear()
    plugins.load.cache_clear()


def test_types_of_other_packages(package: Path) -> None:
    assert problems('type = "extra"\npath = "/x"\noptions = { colour = "red" }') == []
    assert problems('type = "extra"\nsend = "x"') == ['8: pools.p.health.send: has no effect with type "extra"']
    assert problems('type = "lost"') == [
        "7: pools.p.health.type: \"lost\": cannot be imported: ModuleNotFoundError: No module named 'no'"
    ]
    assert problems('type = "extar"')[0].endswith('extra, lost (did you mean "extra"?)')
    assert check("127.0.0.1:1", "extra", path="/x", options={"colour": "red"}).ok
    result = check("127.0.0.1:1", "extra", path="/x", options={"colour": "blue"})
    assert (result.step, result.reason) == ("colour", "{'colour': 'blue'}")
    for type_, step, reason in (("exits", "check", "SystemExit: 3"), ("cancels", "connect", "cancelled itself")):
        result = check("127.0.0.1:1", type_)
        assert (result.ok, result.step, result.reason) == (False, step, reason)
