"""nginx.conf: its syntax, and what its directives become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from l4lb import Config
from l4lb.convert.converting import convert
from l4lb.convert.nginx.blocks import parse
from l4lb.convert.nginx.values import bytes_of, seconds_of
from l4lb.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b c;", ["a", "b", "c"]),
        ("a 'b c' \"d;e\";", ["a", "b c", "d;e"]),
        (r'a "b\"c" d\;e;', ["a", 'b"c', r"d\;e"]),
        ("a b#c; # d\n", ["a", "b#c"]),
        ("a ${b}c;", ["a", "${b}c"]),
        ("a\n b\n;", ["a", "b"]),
        (r"a ~^(.+\.)?b$;", ["a", r"~^(.+\.)?b$"]),
        ('a "";', ["a", ""]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    (directive,) = parse(text, "file")
    assert (directive.words, directive.block) == (words, None)


def test_blocks_and_lines() -> None:
    (outer,) = parse("a {\n b c;\n d { e; }\n}", "file")
    assert [(one.text, one.place.line) for one in outer.block or []] == [("b c", 2), ("d", 3)]


@pytest.mark.parametrize("text", ["a", "a {", "a; }", "{ }", ";", "a { b }", '"a', 'a "b"c;', "a \\"])
def test_no_blocks(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^file:1: "):
        parse(text, "file")


def test_times_and_sizes() -> None:
    assert [seconds_of(text) for text in ("90", "10s", "1h30m", "500ms", "1d", "x", "")] == [
        90, 10, 5400, 0.5, 86400, None, None,
    ]  # fmt: skip
    assert [bytes_of(text) for text in ("512", "4k", "2M", "1g", "1t")] == [512, 4096, 2 << 20, 1 << 30, None]


def converted(text: str, file: str = "nginx.conf") -> tuple[Config, list[str]]:
    """The configuration, and what was lost as line: text."""
    done = convert(text, file, "nginx", {})
    return Config.loads(done.text), [f"{one.line}: {one.path}" for one in done.lost]


def one_of(server: str, more: str = "") -> Config:
    config, lost = converted(f"stream {{ {more} server {{ {server} }} }}")
    assert lost == []
    return config


@pytest.mark.parametrize(
    ("listen", "name", "bind"),
    [
        ("listen 80", "tcp-80", ["0.0.0.0:80"]),
        ("listen *:80", "tcp-80", ["0.0.0.0:80"]),
        ("listen 80; listen [::]:80", "tcp-80", [":80"]),
        ("listen [::1]:80", "tcp-80", ["[::1]:80"]),
        ("listen 10.0.0.1:8000-8010", "tcp-8000", ["10.0.0.1:8000-8010"]),
        ("listen unix:/run/x.sock", "x.sock", ["unix:/run/x.sock"]),
        ("listen 53 udp reuseport", "udp-53", ["0.0.0.0:53"]),
    ],
)
def test_listens(listen: str, name: str, bind: list[str]) -> None:
    config = one_of(f"{listen}; proxy_pass 127.0.0.1:9;")
    assert {key: one.bind for key, one in config.listeners.items()} == {name: bind}


def test_tcp_and_udp_of_one_server() -> None:
    config = one_of("listen 53; listen 53 udp; proxy_pass 127.0.0.1:5353;")
    assert list(config.listeners) == ["tcp-53", "udp-53"]
    assert len(config.pools) == 1


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("", {"idle_timeout": 600, "half_close": False}),
        ("proxy_timeout 1h; proxy_half_close on;", {"idle_timeout": 3600, "half_close": True}),
        ("proxy_download_rate 1m; proxy_upload_rate 4k;", {"bandwidth_down": 1 << 20, "bandwidth_up": 4096}),
        ("tcp_nodelay off;", {"nodelay": False}),
        ("deny 10.0.0.1; allow 10.0.0.0/8; deny all;", {"allow": ["10.0.0.0/8"], "deny": ["10.0.0.1"]}),
        ("allow all; deny 10.0.0.0/8;", {"allow": [], "deny": []}),
        ("deny 10.0.0.0/8;", {"allow": [], "deny": ["10.0.0.0/8"]}),
    ],
)
def test_options_of_listeners(server: str, expected: dict[str, Any]) -> None:
    listener = one_of(f"listen 1; proxy_pass 127.0.0.1:9; {server}").listeners["tcp-1"]
    assert {key: getattr(listener, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("", {"connect_timeout": 60, "connect_attempts": 2, "send_proxy": "off"}),
        ("proxy_connect_timeout 1s; proxy_next_upstream off;", {"connect_timeout": 1, "connect_attempts": 1}),
        ("proxy_protocol on;", {"send_proxy": "v1"}),
        ("proxy_bind 127.0.0.2;", {"source_address": "127.0.0.2"}),
        ("proxy_bind $remote_addr transparent;", {"source_address": "client"}),
        ("proxy_next_upstream_tries 1;", {"connect_attempts": 1}),
    ],
)
def test_options_of_pools(server: str, expected: dict[str, Any]) -> None:
    upstream = "upstream up { server 127.0.0.1:8; server 127.0.0.1:9; }"
    pool = one_of(f"listen 1; proxy_pass up; {server}", upstream).pools["up"]
    assert {key: getattr(pool, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("method", "policy"),
    [
        ("", "round_robin"),
        ("least_conn;", "least_sessions"),
        ("random;", "random"),
        ("random two least_conn;", "p2c"),
        ("hash $remote_addr;", "maglev"),
        ("hash $binary_remote_addr consistent;", "ring"),
        ("least_time connect;", "peak_ewma"),
    ],
)
def test_policies(method: str, policy: str) -> None:
    config = one_of("listen 1; proxy_pass up;", f"upstream up {{ {method} server 127.0.0.1:9; }}")
    assert config.pools["up"].policy == policy


def test_servers_of_an_upstream() -> None:
    servers = "server 127.0.0.1:7 weight=3 max_conns=9 max_fails=2 fail_timeout=5s; "
    servers += (
        "server 127.0.0.1:8 backup max_fails=2 fail_timeout=5s; server 127.0.0.1:9 down max_fails=2 fail_timeout=5s;"
    )
    pool = one_of("listen 1; proxy_pass up;", f"upstream up {{ {servers} }}").pools["up"]
    assert [(one.weight, one.max_sessions, one.priority, str(one.admin_state)) for one in pool.backends] == [
        (3, 9, 0, "ready"),
        (1, 0, 1, "ready"),
        (1, 0, 0, "maint"),
    ]
    assert (pool.passive.failures, pool.passive.eject_for, pool.health.type) == (2, 5, "none")


def test_an_upstream_with_different_settings_becomes_two_pools() -> None:
    servers = "server { listen 1; proxy_pass up; } server { listen 2; proxy_pass up; proxy_protocol on; }"
    config, lost = converted(f"stream {{ upstream up {{ server 127.0.0.1:9; }} {servers} }}")
    assert ({name: pool.send_proxy for name, pool in config.pools.items()}, lost) == ({"up": "off", "up-2": "v1"}, [])


def routes_of(blocks: str) -> tuple[list[tuple[Any, ...]], str]:
    """Conditions and pools in their order, and the pool of all others."""
    upstreams = "".join(f"upstream {name} {{ server 127.0.0.1:9; }} " for name in ("a", "b", "c"))
    server = "server { listen 4433; ssl_preread on; proxy_pass $up; }"
    config, lost = converted(f"stream {{ {upstreams} {blocks} {server} }}")
    assert all(": upstream " in one for one in lost), lost  # that are not used
    listener = config.listeners["tcp-4433"]
    return [(route.conditions, route.pool) for route in listener.routes], listener.pool


@pytest.mark.parametrize(
    ("blocks", "routes", "rest"),
    [
        ("map $ssl_preread_server_name $up { default c; x.example a; hostnames; *.example b; }",
         [({"sni": ["x.example"]}, "a"), ({"sni": ["*.example"]}, "b")], "c"),
        ("map $ssl_preread_protocol $up { default a; TLSv1.2 b; TLSv1.3 b; }",
         [({"starts_with": ["hex:1603"]}, "b")], "a"),
        ('map $ssl_preread_protocol $up { "" a; default b; }', [({"starts_with": ["hex:1603"]}, "b")], "a"),
        (r"map $ssl_preread_alpn_protocols $up { default a; ~\bh2\b b; }", [({"alpn": ["h2"]}, "b")], "a"),
        ("geo $up { default a; 10.0.0.0/8 b; 10.1.0.0/16 c; }",
         [({"source": ["10.1.0.0/16"]}, "c"), ({"source": ["10.0.0.0/8"]}, "b")], "a"),
        ("map $server_port $up { 4433 b; 2 c; }", [], "b"),
        ("map $ssl_preread_server_name $up { x.example a; }", [({"sni": ["x.example"]}, "a")], "refused"),
    ],
)  # fmt: skip
def test_maps_become_routes(blocks: str, routes: list[tuple[Any, ...]], rest: str) -> None:
    assert routes_of(blocks) == (routes, rest)


PORT_MAP = (
    "upstream a { server 127.0.0.1:9; } upstream b { server 127.0.0.1:8; } "
    "map $server_port $up { 1 a; 2 b; 3 b; default a; } "
    "map $ssl_preread_server_name $name { x.example a; default $up; }"
)


@pytest.mark.parametrize("variable", ["$up", "$name", "${up}"])
@pytest.mark.parametrize(
    "listens", ["listen 1; listen 2; listen [::]:2; listen 3; listen 4", "listen 1-4; listen [::]:2"]
)
def test_each_port_has_a_listener_where_it_decides(listens: str, variable: str) -> None:
    config = one_of(f"{listens}; proxy_pass {variable};", PORT_MAP)
    found = {name: (one.bind, one.pool) for name, one in config.listeners.items()}
    assert found == {
        "tcp-1": (["0.0.0.0:1"], "a"),
        "tcp-2": ([":2"], "b"),
        "tcp-3": (["0.0.0.0:3"], "b"),
        "tcp-4": (["0.0.0.0:4"], "a"),
    }


def test_a_range_of_ports_is_one_listener_where_they_do_not_decide() -> None:
    config, _ = converted(f"stream {{ {PORT_MAP} server {{ listen 1-4; listen 6; proxy_pass a; }} }}")
    assert [one.bind for one in config.listeners.values()] == [["0.0.0.0:1-4", "0.0.0.0:6"]]


def test_of_a_range_of_ports_those_that_decide_have_a_listener() -> None:
    config = one_of("listen 2-7; proxy_pass $up;", PORT_MAP)
    found = [(one.bind, one.pool) for one in config.listeners.values()]
    assert found == [(["0.0.0.0:2"], "b"), (["0.0.0.0:3"], "b"), (["0.0.0.0:4-7"], "a")]


def test_a_range_of_too_many_ports_that_decide_is_named() -> None:
    ports = " ".join(f"{port} a;" for port in range(1000, 1300))
    config, lost = converted(
        f"stream {{ upstream a {{ server 127.0.0.1:9; }} map $server_port $up {{ {ports} default a; }}"
        "server { listen 1000-9000; listen 1; proxy_pass $up; } }"
    )
    assert (list(config.listeners), lost) == (["tcp-1"], ["1: listen 1000-9000"])


def test_files_are_read_where_stream_includes_them(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    for name, port in (("b.conf", 2), ("a.conf", 1), (".c.conf", 3)):
        (tmp_path / "conf.d" / name).write_text(f"server {{\n listen {port};\n proxy_pass 127.0.0.1:9;\n}}\n")
    text = "http { include none.conf; }\nstream {\n include conf.d/*.conf;\n include none.conf;\n}\n"
    config, lost = converted(text, str(tmp_path / "nginx.conf"))
    assert list(config.listeners) == ["tcp-1", "tcp-2"]
    assert lost == ["1: http", "4: include none.conf"]


def test_an_included_file_of_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(
        b"\xef\xbb\xbf# caf\xe9\r\nserver {\r\n listen 1;\r\n proxy_pass 127.0.0.1:9;\r\n}\r\n"
    )
    config, lost = converted("stream { include a; }", str(tmp_path / "nginx.conf"))
    assert (list(config.listeners), lost) == (["tcp-1"], [])


def test_an_error_in_an_included_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("server {\n listen 1\n}\n")
    with pytest.raises(ConfigError, match=r"broken:2: "):
        converted("stream { include broken; }", str(tmp_path / "nginx.conf"))


def test_a_condition_of_the_access_log_is_named() -> None:
    config, lost = converted("stream { server { listen 1; proxy_pass 127.0.0.1:9; access_log /tmp/a basic if=$x; } }")
    assert (config.global_.access_log, lost) == ("/tmp/a", ["1: access_log /tmp/a basic if=$x"])


@pytest.mark.parametrize(
    ("directive", "said"),
    [
        (
            "health_check interval=7 jitter=1 persistent;",
            ["1: health_check ... jitter", "1: health_check ... persistent"],
        ),
        ("proxy_bind 127.0.0.2 transparent;", ["1: proxy_bind 127.0.0.2 transparent"]),
    ],
)
def test_parameters_that_are_lost_are_named(directive: str, said: list[str]) -> None:
    config, lost = converted(f"stream {{ server {{ listen 1; proxy_pass 127.0.0.1:9; {directive} }} }}")
    assert (list(config.listeners), lost) == (["tcp-1"], said)


def test_limits_of_connections() -> None:
    zones = "limit_conn_zone $binary_remote_addr zone=a:1m; limit_conn_zone $server_port zone=b:1m;"
    listener = one_of("listen 1; proxy_pass 127.0.0.1:9; limit_conn a 5; limit_conn b 100;", zones).listeners["tcp-1"]
    assert (listener.per_source.sessions, listener.max_sessions) == (5, 100)
