"""Texts that nobody means: a conversion ends soon, with a configuration that l4lb takes or an error with a line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from l4lb import Config
from l4lb.convert.converting import Conversion, Format, convert
from l4lb.convert.haproxy import keywords, parameters
from l4lb.convert.nginx import keywords as nginx
from l4lb.errors import ConfigError, Problem
from tests.convert.samples import HAPROXY, NGINX
from tests.support import forking

SOON_S = 60.0  # however busy the machine is
VALUES = ["", "0", "1", "5s", "-1", "99999999999999999999", "on", "off", "\u00e9", "\x7f", '"', "a" * 300, "*:80", ":1"]
VALUES += [
    "127.0.0.1:80",
    "[::1]:443",
    "::",
    "unix:/x",
    "/x",
    "10.0.0.0/8",
    "$x",
    "${x}",
    "{",
    "}",
    "if",
    "src",
    "%[x]",
]
NAMES = ["web", "default", "one", "TRUE"]


def converted(text: str, kind: Format) -> Conversion | None:
    """None for an error, which names the file, or one that it includes, and a line."""
    began = time.monotonic()
    done, problems = _outcome(text, kind)
    assert time.monotonic() - began < SOON_S
    assert all(problem.file.startswith(("file", "/")) and problem.line > 0 for problem in problems), problems
    if done is None:
        return None
    if done.text:
        Config.loads(done.text)
    assert all(problem.line > 0 and str(problem).isprintable() for problem in done.lost)
    return done


def _outcome(text: str, kind: Format) -> tuple[Conversion | None, tuple[Problem, ...]]:
    try:
        return convert(text, "file", kind, {}), ()
    except ConfigError as error:
        return None, error.problems


words = st.one_of(st.sampled_from([*VALUES, *NAMES]), st.text(max_size=8))


@st.composite
def haproxy_texts(draw: st.DrawFn) -> str:
    keys = [*keywords.PROXY, *(f"server one 127.0.0.1:1 {name}" for name in parameters.SERVER)]
    keys += [f"bind 127.0.0.1:0 {name}" for name in parameters.BIND]
    keys += [f"acl one {name}" for name in parameters.FETCHES]
    lines = []
    for _ in range(draw(st.integers(1, 4))):
        section = draw(st.sampled_from([*keywords.SECTIONS, "listen", "frontend", "backend"]))
        lines.append(f"{section} {draw(st.sampled_from(NAMES))}")
        table = [*keywords.GLOBAL] if section == "global" else keys
        for _ in range(draw(st.integers(0, 6))):
            rest = draw(st.lists(words, max_size=3))
            lines.append(f" {draw(st.sampled_from(table))} {' '.join(rest)}")
    return "\n".join(lines)


@st.composite
def nginx_texts(draw: st.DrawFn) -> str:
    def block(name: str, table: list[str]) -> str:
        inner = [
            f"{draw(st.sampled_from(table))} {' '.join(draw(st.lists(words, max_size=3)))};"
            for _ in range(draw(st.integers(0, 5)))
        ]
        return f"{name} {{ {' '.join(inner)} }}"

    stream = [
        *nginx.STREAM,
        *(f"listen 127.0.0.1:0 {name}" for name in nginx.LISTEN),
        "proxy_pass web",
        "proxy_pass $x",
    ]
    stream += ["listen 127.0.0.1:0", "proxy_pass 127.0.0.1:1"]
    upstream = [*nginx.UPSTREAM, *(f"server 127.0.0.1:1 {name}=" for name in nginx.SERVER), "server 127.0.0.1:2"]
    kinds = {
        "server": stream,
        "upstream web": upstream,
        "map $ssl_preread_server_name $x": ["default", "hostnames", "a.b"],
    }
    kinds |= {"geo $x": ["default", "10.0.0.0/8"], "split_clients $remote_addr $x": ["10%", "*"], "events": ["x"]}
    blocks = [block(name, kinds[name]) for name in draw(st.lists(st.sampled_from(sorted(kinds)), max_size=5))]
    return f"stream {{ {' '.join(blocks)} }}"


@given(haproxy_texts())
@settings(max_examples=300)
def test_any_directives_of_haproxy(text: str) -> None:
    converted(text, "haproxy")


@given(nginx_texts())
@settings(max_examples=300)
def test_any_directives_of_nginx(text: str) -> None:
    converted(text, "nginx")


@given(st.text(max_size=200), st.sampled_from(["haproxy", "nginx"]))
@example("listen a\n bind :80 \\", "haproxy")
@example("stream { server { listen \\", "nginx")
def test_any_text(text: str, kind: Format) -> None:
    converted(text, kind)


@given(st.sampled_from([*HAPROXY, *NGINX]), st.data())
@settings(max_examples=300)
def test_samples_that_are_damaged(path: Path, data: st.DataObject) -> None:
    text = path.read_text()
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(text)))
        end = min(len(text), begin + data.draw(st.integers(0, 40)))
        text = text[:begin] + data.draw(st.sampled_from(["", *VALUES, "\n", ";", " { ", " } "])) + text[end:]
    converted(text, "haproxy" if path in HAPROXY else "nginx")


MANY = 20_000


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("haproxy", "listen a\n bind :80\n" + " acl x src 10.0.0.1\n" * MANY + " server s 127.0.0.1:1\n"),
        ("haproxy", "listen a\n bind :80\n default_backend a\n server s 127.0.0.1:1 " + "check " * 4000),
        ("haproxy", "listen a\n bind :80\n use_backend a if " + "{ src 10.0.0.1 } " * 900),
        ("haproxy", "frontend a\n bind :80\n acl x src ::1\n acl x req.ssl_sni a\n use_backend a if " + "x " * 200),
        ("haproxy", "".join(f"defaults d{n} from d{n - 1}\n mode tcp\n" for n in range(999)) + "listen a from d9\n"),
        ("haproxy", ".if " + "!" * 100_000 + "1\n.endif\nlisten a\n"),
        ("haproxy", ".if " + "(" * 100_000 + "\n.endif\n"),
        ("haproxy", ".if 1\n" * MANY),
        ("haproxy", "\\" * 1_000_000),
        ("haproxy", "listen " + "a" * 1_000_000),
        ("haproxy", "\n" * 1_000_000),
        ("nginx", "stream { " * 100_000),
        ("nginx", "stream { upstream u { " + "server 127.0.0.1:1; " * 2000 + "} server { listen 1; proxy_pass u; } }"),
        ("nginx", "stream { map $remote_addr $a { default $a; } server { listen 1; proxy_pass $a; } }"),
        ("nginx", "stream { map $remote_addr $a {" + "::1 $a;" * 300 + "} server { listen 1; proxy_pass $a; } }"),
        ("nginx", "include /proc/self/fd/*; include /*/*; include /dev/zero; include /; stream { include /dev/tty; }"),
        ("nginx", "a" * 1_000_000 + ";"),
        ("nginx", "a " * 500_000 + ";"),
        ("nginx", '"' + "\\" * 1_000_001),
        ("nginx", "#" * 1_000_000),
    ],
)  # fmt: skip
def test_much_of_one_thing_ends_soon(kind: Format, text: str) -> None:
    converted(text, kind)


def test_a_file_that_includes_itself(tmp_path: Path) -> None:
    file = tmp_path / "nginx.conf"
    servers = "stream { server { listen 127.0.0.1:1; proxy_pass 127.0.0.1:2; } }"
    file.write_text(f"include nginx.conf; include nginx.conf; {servers}")
    done = convert(file.read_text(), str(file), "nginx", {})
    assert any("files within each other" in problem.message for problem in done.lost)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "neither a haproxy.cfg nor an nginx.conf"),
        (b"hello", "neither a haproxy.cfg nor an nginx.conf"),
        (b"listen a\n bind \x00\n", ":2: a NUL"),
        (b"global\n maxconn 1\nlisten a\n bind 'x\n", ":4: a single quote that is not closed"),
        (b"global\n maxconn 1\n.if 1\n", ":3: .if without .endif"),
        (b"frontend\n bind :80\n", ":1: frontend: expected a name"),
        (b"stream {\n server {\n  listen 1;\n }\n", ":1: the block of"),
        (b"stream {\n server {\n  listen 1\n }\n}\n", ":3: "),
        (b"events {}\nstream {\n}}\n", ":3: a closing brace"),
    ],
)
def test_what_is_no_configuration_is_an_error_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    done = forking.run("convert", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{file}{said}" in done.stderr or (said in done.stderr and not said.startswith(":"))


@pytest.mark.parametrize("name", ["none", "", "/dev/zero", "."])
def test_what_cannot_be_read(tmp_path: Path, name: str) -> None:
    done = forking.run("convert", str(tmp_path / name) if name != "/dev/zero" else name)
    assert done.returncode == 2
    assert "cannot be read: " in done.stderr


def test_a_file_of_four_megabytes_is_refused_above(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"#" * ((4 << 20) + 1))
    done = forking.run("convert", str(tmp_path / "large"))
    assert done.returncode == 2
    assert "larger than 4 MiB" in done.stderr


def test_names_are_written_so_that_toml_takes_them() -> None:
    for name in ('a"b', "a.b", "a\\b", "\u00e9", "a]b"):
        word = json.dumps(name, ensure_ascii=False)
        done = converted(f"listen {word}\n bind 127.0.0.1:0\n server s 127.0.0.1:1\n", "haproxy")
        assert done is not None
        assert list(Config.loads(done.text).listeners) == [name]
