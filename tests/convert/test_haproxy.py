"""haproxy.cfg: its syntax, and what its directives become."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from l4lb import Config
from l4lb.convert.converting import convert, format_of
from l4lb.convert.drafting.draft import Place
from l4lb.convert.drafting.report import Report
from l4lb.convert.haproxy.conditions import holds
from l4lb.convert.haproxy.words import Splitter
from l4lb.errors import ConfigError
from tests.support.programs import require, without_preload

HERE = Place("file", 7)
ENVIRONMENT = {"A": "one two", "EMPTY": ""}
SERVER = " server s 127.0.0.1:9001\n"


def split(text: str) -> tuple[str, ...]:
    return Splitter(ENVIRONMENT, Report()).split(text, HERE, "web")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b\tc", ("a", "b", "c")),
        ("a # b", ("a",)),
        (r"a\ b \# \\ \' \"", ("a b", "#", "\\", "'", '"')),
        (r"\n\r\t\x41", ("\n\r\tA",)),
        ('"a b" \'c "d\' "e\'f"', ("a b", 'c "d', "e'f")),
        ('a"b"c\'d\'', ("abcd",)),
        ('"" \'\'', ("", "")),
        ('"$A" "${A}" ${A}', ("one two", "one two", "${A}")),
        ('"${A[*]}" "${NONE-x y}" "${EMPTY-x}"', ("one", "two", "x y", "")),
        ('"\\$A" "a#b"', ("$A", "a#b")),
        ('"${.FILE}:${.LINE}:${.SECTION}"', ("file:7:web",)),
        ("'%{+Q}o %t'", ("%{+Q}o %t",)),
        (r"^(www\.)?a\$b\{2\}", (r"^(www\.)?a\$b\{2\}",)),
        (r'"a\.b\qc"', (r"a\.b\qc",)),
        (r"a\\.b", (r"a\.b",)),
        ("a\\\tb", ("a\\", "b")),
        ("a \\", ("a", "\\")),
    ],
)  # fmt: skip
def test_words(text: str, words: tuple[str, ...]) -> None:
    assert split(text) == words


@pytest.mark.external
@pytest.mark.parametrize("char", [*"\\\"'# \t$.nrtqZ{}[]()*+?|^/-x"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_escapes_are_those_of_haproxy(char: str, quote: str, tmp_path: Path) -> None:
    """It names the first word that it does not know."""
    word = f"a{quote}\\{'x41' if char == 'x' else char}z{quote}b"
    file = tmp_path / "haproxy.cfg"
    file.write_text(f"defaults\n mode tcp\nbackend b\n server s 127.0.0.1:1 {word}\n")
    command = [require("haproxy"), "-c", "-f", str(file)]
    done = subprocess.run(command, env=without_preload(), capture_output=True, timeout=60)
    assert f"unknown keyword '{split(word)[0]}'.".encode() in done.stderr


def test_a_backslash_of_an_expression_stays() -> None:
    config, lost = converted(
        "frontend f\n bind :2\n use_backend b if { req.ssl_sni -m reg -i ^(.*\\.)?a\\.example$ }\n"
        f"backend b\n{SERVER}"
    )
    assert ([route.sni for route in config.listeners["f"].routes], lost) == ([["a.example", "*.a.example"]], [])


@pytest.mark.parametrize("text", ['"a', "'a", r"\x4", '"$"', '"${A"'])
def test_no_words(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^file:7: "):
        split(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", False),
        ("0", False),
        ("1", True),
        ("!0", True),
        ("defined(A)", True),
        ("defined(NONE)", False),
        ("streq(a,a)", True),
        ("strneq(a,a)", False),
        ("0 && 0 || 1", True),
        ("1 && (0 || 0)", False),
        ("!(1 && 0) && streq(a,a)", True),
        ("version_atleast(2.4)", True),
        ("version_before(2.4)", False),
        ("feature(OPENSSL)", True),
    ],
)
def test_conditions(text: str, value: bool) -> None:
    assert holds(text, ENVIRONMENT, HERE, Report()) is value


@pytest.mark.parametrize("text", ["a", "1 &&", "(1", "1)", "streq(a", "1 1", "nosuch(a)"])
def test_no_conditions(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^file:7: "):
        holds(text, ENVIRONMENT, HERE, Report())


def converted(text: str) -> tuple[Config, list[str]]:
    """The configuration, and what was lost as line: text."""
    done = convert(text, "haproxy.cfg", "haproxy", {})
    return Config.loads(done.text), [f"{one.line}: {one.path}" for one in done.lost]


def listener_of(lines: str) -> Any:
    config, lost = converted(f"listen web\n bind 127.0.0.1:1\n{lines}{SERVER}")
    assert lost == []
    return config.listeners["web"]


def pool_of(lines: str, server: str = "") -> Any:
    config, lost = converted(f"listen web\n bind 127.0.0.1:1\n{lines} server s 127.0.0.1:9001 {server}\n")
    assert lost == []
    return config.pools["web"]


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ("*:80", ["0.0.0.0:80"]),
        (":80", ["0.0.0.0:80"]),
        (":::80", [":80"]),
        ("[::]:80 v4v6", [":80"]),
        ("*:80,:::80", [":80"]),
        ("ipv6@:80", [":80"]),
        ("tcp6@:80", [":80"]),
        ("stream+ipv4@:80", ["0.0.0.0:80"]),
        ("uxst@/run/x.sock", ["unix:/run/x.sock"]),
        ("2001:db8::1:80", ["[2001:db8::1]:80"]),
        ("10.0.0.1:8000-8010", ["10.0.0.1:8000-8010"]),
        ("/run/x.sock", ["unix:/run/x.sock"]),
        ("abns@x", ["unix:@x"]),
        ("10.0.0.1:80,10.0.0.2:80", ["10.0.0.1:80", "10.0.0.2:80"]),
    ],
)
def test_addresses_of_binds(bind: str, expected: list[str]) -> None:
    config, lost = converted(f"listen web\n bind {bind}\n{SERVER}")
    assert (config.listeners["web"].bind, lost) == (expected, [])


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("10.0.0.1", "10.0.0.1:0"),
        ("[::1]:80", "[::1]:80"),
        ("::1:80", "[::1]:80"),
        ("db.example:80", "db.example:80"),
        ("unix@/x", "unix:/x"),
        ("/x", "unix:/x"),
        ("ipv4@10.0.0.1:80", "10.0.0.1:80"),
        ("tcp4@10.0.0.1:80", "10.0.0.1:80"),
        ("stream+tcp6@[::1]:80", "[::1]:80"),
        ("10.0.0.1:", "10.0.0.1:0"),
    ],
)
def test_addresses_of_servers(server: str, expected: str) -> None:
    config, lost = converted(f"listen web\n bind :1\n server s {server}\n")
    assert (config.pools["web"].backends[0].address, lost) == (expected, [])


@pytest.mark.parametrize(
    ("lines", "idle", "half"),
    [
        ("", 0, 0),
        (" timeout client 5000\n", 5, 5),
        (" timeout client 10s\n timeout server 1m\n", 10, 10),
        (" timeout client 1m\n timeout tunnel 1h\n timeout client-fin 500ms\n timeout server-fin 1s\n", 3600, 0.5),
        (" timeout client 30d\n", 0, 0),
        (" timeout client 0\n timeout server 7s\n", 7, 7),
    ],
)
def test_timeouts(lines: str, idle: float, half: float) -> None:
    listener = listener_of(lines)
    assert (listener.idle_timeout, listener.half_close_timeout) == (idle, half)


TIMES = " timeout client 50s\n timeout server 50s\n"


@pytest.mark.parametrize(
    ("frontend", "backends", "idle", "half"),
    [
        (" timeout client 8h\n", (" timeout server 7h\n",), 25200, 25200),
        (" timeout client 8h\n", ("",), 50, 50),
        (" timeout client 8h\n timeout server 1s\n", (" timeout server 7h\n timeout client 1s\n",), 25200, 25200),
        ("", (" timeout tunnel 1h\n",), 3600, 3600),
        (" timeout client 1h\n", (" timeout tunnel 2h\n", " timeout server 30m\n"), 1800, 1800),
        (" timeout client-fin 9s\n timeout server-fin 1s\n", (" timeout server-fin 8s\n",), 50, 8),
    ],
)
def test_timeouts_of_each_side_are_those_of_the_section_that_has_it(
    frontend: str, backends: tuple[str, ...], idle: float, half: float
) -> None:
    text = f"defaults\n{TIMES}frontend b0\n bind :1\n{frontend} default_backend b0\n use_backend b1 if {{ src ::1 }}\n"
    for number in range(2):
        text += f"backend b{number}\n{backends[min(number, len(backends) - 1)]}{SERVER}"
    listener = converted(text)[0].listeners["b0"]
    assert (listener.idle_timeout, listener.half_close_timeout) == (idle, half)


def test_keepalive_of_each_side_is_that_of_the_section_that_has_it() -> None:
    frontend = "frontend f\n bind :1\n option srvtcpka\n default_backend b\n"
    for option, expected in (("srvtcpka", True), ("clitcpka", False), ("tcpka", True)):
        config, _ = converted(f"{frontend}backend b\n option {option}\n srvtcpka-cnt 4\n{SERVER}")
        keepalive = config.listeners["f"].keepalive
        assert (keepalive is not None and keepalive.count == 4) is expected, option


@pytest.mark.parametrize(
    ("rules", "allow", "deny"),
    [
        ("reject if { src 10.0.0.0/8 }", [], ["10.0.0.0/8"]),
        ("reject if !{ src 10.0.0.0/8 }", ["10.0.0.0/8"], []),
        ("reject unless { src 10.0.0.0/8 ::1 }", ["10.0.0.0/8", "::1"], []),
        (
            "accept if { src 10.1.0.0/16 }|reject if { src 10.0.0.0/8 }",
            ["10.1.0.0/16", "0.0.0.0/0", "::/0"],
            ["10.0.0.0/8"],
        ),
        ("accept if { src 10.0.0.0/8 }|reject", ["10.0.0.0/8"], []),
        ("reject if { src 10.0.0.0/8 }|accept if { src 10.1.0.0/16 }", [], ["10.0.0.0/8"]),
        ("reject", [], ["0.0.0.0/0", "::/0"]),
        ("accept", [], []),
    ],
)
def test_who_is_refused(rules: str, allow: list[str], deny: list[str]) -> None:
    listener = listener_of("".join(f" tcp-request connection {rule}\n" for rule in rules.split("|")))
    assert (listener.allow, listener.deny) == (allow, deny)


@pytest.mark.parametrize(
    ("lines", "server", "expected"),
    [
        ("", "check", {"type": "tcp", "interval": 2, "timeout": 2}),
        (" timeout check 500\n", "check inter 3s fastinter 1s downinter 9s rise 4 fall 5",
         {"interval": 3, "fast_interval": 1, "down_interval": 9, "timeout": 0.5, "rise": 4, "fall": 5}),
        ("", "", {"type": "none"}),
        ("", "check port 81", {"address": ":81"}),
        ("", "check addr 10.0.0.9", {"address": "10.0.0.9:9001"}),
        ("", "check addr [::9] port 81", {"address": "[::9]:81"}),
        ("", "check addr 127.0.0.1", {"address": ""}),
        (" server a 127.0.0.2:2 check addr 127.0.0.2 port 81\n", "check addr 127.0.0.1 port 81", {"address": ":81"}),
        ("", "check check-ssl check-sni a.example", {"type": "tls", "server_name": "a.example"}),
        ("", "check check-ssl check-sni a.example verify none ca-file /none", {"verify": False}),
        ("", "check check-ssl check-sni a.example verify required ca-file @system-ca", {"verify": True}),
        ("", "check check-ssl check-sni a.example ca-file @system-ca verifyhost b.example",
         {"verify": True, "server_name": "b.example"}),
        ("", "check send-proxy", {"send_proxy": True}),
        ("", "check send-proxy port 81", {"send_proxy": False}),
        (" option httpchk GET /x HTTP/1.1\\r\\nHost:\\ a.example\n", "check",
         {"type": "http", "path": "/x", "host": "a.example"}),
        (" option httpchk\n http-check send meth HEAD uri /y hdr X-A b\n http-check expect status 200,204\n", "check",
         {"method": "HEAD", "path": "/y", "headers": {"X-A": "b"}, "expect_status": ("200", "204")}),
        (" option httpchk\n http-check connect ssl sni a.example\n http-check expect rstring o.k\n", "check",
         {"type": "https", "server_name": "a.example", "expect_body": "regex:o.k"}),
        (" option tcp-check\n tcp-check expect string hi\n tcp-check send a\n tcp-check send-binary 0a\n", "check",
         {"type": "send_expect", "send": ("", "a\n"), "expect": ("hi",)}),
        (" option tcp-check\n tcp-check connect addr 10.0.0.9 port 81 send-proxy linger\n", "check port 82",
         {"type": "tcp", "address": "10.0.0.9:81", "send_proxy": True}),
        (" option tcp-check\n http-check connect ssl port 81\n", "check", {"type": "tcp", "address": ""}),
        (" option pgsql-check user bob\n", "check", {"type": "postgres", "user": "bob"}),
        (" option redis-check\n", "check", {"type": "redis"}),
        (" option mysql-check\n", "check", {"type": "send_expect"}),
        (" option ldap-check\n", "check", {"type": "send_expect"}),
        (" option ssl-hello-chk\n", "check", {"type": "tls"}),
    ],
)  # fmt: skip
def test_checks(lines: str, server: str, expected: dict[str, object]) -> None:
    health = pool_of(lines, server).health
    assert {key: getattr(health, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("lines", "policy"),
    [
        ("balance roundrobin", "round_robin"),
        ("balance leastconn", "least_sessions"),
        ("balance source", "maglev"),
        ("balance source\n hash-type consistent", "ring"),
        ("balance hash src", "maglev"),
        ("balance random", "p2c"),
        ("balance random(1)", "random"),
        ("balance first", "first"),
        ("stick on src", "maglev"),
    ],
)
def test_policies(lines: str, policy: str) -> None:
    assert pool_of(f" {lines}\n").policy == policy


def test_what_differs_by_server_is_named() -> None:
    text = "listen web\n bind :1\n server a 127.0.0.1:2 check inter 1s\n server b 127.0.0.1:3 check inter 2s\n"
    text += (
        " server c 127.0.0.1:4 check inter 1s send-proxy\n server d 127.0.0.1:5 inter 1s\n server e 127.0.0.1:6 ssl\n"
    )
    config, lost = converted(text)
    assert [one.id for one in config.pools["web"].backends] == ["a", "b", "d"]
    assert lost == [
        "4: server b ... inter 2s",
        "5: server c 127.0.0.1:4 check inter 1s send-proxy",
        "6: server d without check",
        "7: server ... ssl",
    ]


def test_a_certificate_that_no_check_can_verify_is_named(tmp_path: Path) -> None:
    for parameters in ("ca-file @system-ca", f"check-sni a.example ca-file {tmp_path}/none"):
        config, lost = converted(f"listen web\n bind :1\n server s 127.0.0.1:2 check check-ssl {parameters}\n")
        assert (config.pools["web"].health.verify, len(lost)) == (False, 1)


@pytest.mark.parametrize("check", ["httpchk", "tcp-check"])
def test_a_check_has_one_connection(check: str) -> None:
    rules = ["connect port 81", "send uri /", "expect string a", "connect port 82 ssl", "send b", "expect string c"]
    command = "http-check" if check == "httpchk" else check
    lines = f" option {check}\n" + "".join(f" {command} {rule}\n" for rule in rules)
    config, lost = converted(f"listen web\n bind :1\n{lines} server s 127.0.0.1:2 check\n")
    assert config.pools["web"].health.address == ":81"
    assert lost == [f"{line}: {command} {rules[line - 4]}" for line in (7, 8, 9)]


def test_rules_of_a_check_replace_those_of_the_defaults() -> None:
    defaults = "defaults\n option httpchk\n http-check send uri /old\n http-check expect status 204\n"
    config, _ = converted(f"{defaults}listen web\n bind :1\n http-check send meth HEAD\n{SERVER.rstrip()} check\n")
    health = config.pools["web"].health
    assert (health.path, health.method, health.expect_status) == ("/", "HEAD", ("200-399",))


def test_what_a_connection_of_a_check_has_not_is_named() -> None:
    lines = " option httpchk\n http-check connect ssl alpn h2 sni a.example\n"
    config, lost = converted(f"listen web\n bind :1\n{lines} server s 127.0.0.1:2 check\n")
    health = config.pools["web"].health
    assert (health.type, health.server_name, lost) == ("https", "a.example", ["4: http-check ... alpn"])


def test_checks_at_several_addresses() -> None:
    """One address for all would take all down together."""
    servers = " server a 127.0.0.1:2 check addr 10.0.0.8\n server b 127.0.0.1:3 check addr 10.0.0.9\n"
    config, lost = converted(f"listen web\n bind :1\n{servers}")
    assert (config.pools["web"].health.address, lost) == ("", ["4: server b ... addr 10.0.0.9"])


def test_sessions_of_a_server_that_goes_down() -> None:
    assert pool_of("", "check on-marked-down shutdown-sessions").on_backend_down == "reset"
    assert pool_of("", "check").on_backend_down == "keep"


def test_the_interface_of_a_source_is_named() -> None:
    config, lost = converted(f"listen web\n bind :1\n source 10.0.0.9 interface eth0\n{SERVER}")
    assert (config.pools["web"].source_address, lost) == ("10.0.0.9", ["3: source ... interface"])


def test_a_template_has_what_a_server_has() -> None:
    lines = " default-server inter 7s maxconn 5\n server-template a 1-9 a.example:80 check send-proxy fall 5 backup\n"
    config, lost = converted(f"listen web\n bind :1\n option redis-check\n{lines}")
    pool = config.pools["web"]
    assert pool.discovery is not None
    assert (pool.discovery.type, pool.discovery.name, pool.discovery.port) == ("dns", "a.example", 80)
    assert (pool.health.type, pool.health.interval, pool.health.fall, pool.health.send_proxy) == ("redis", 7, 5, True)
    assert (pool.send_proxy, pool.passive.failures) == ("v1", 0)
    assert lost == ["5: server-template ... maxconn 5", "5: server-template ... backup"]


def test_a_template_of_services_and_another_one() -> None:
    lines = " server-template a 3 _x._tcp.a.example\n server-template b 3 b.example:80\n server s 127.0.0.1:2\n"
    config, lost = converted(f"listen web\n bind :1\n{lines}")
    pool = config.pools["web"]
    assert pool.discovery is not None
    assert (pool.discovery.type, pool.discovery.name, pool.health.type) == ("srv", "_x._tcp.a.example", "none")
    assert ([one.id for one in pool.backends], lost) == (["s"], ["4: server-template b 3 b.example:80"])


def test_backups_in_their_order_or_together() -> None:
    servers = " server a 127.0.0.1:2\n server b 127.0.0.1:3 backup\n server c 127.0.0.1:4 backup\n"
    for option, expected in (("", [0, 1, 2]), (" option allbackups\n", [0, 1, 1])):
        config, _ = converted(f"listen web\n bind :1\n{option}{servers}")
        assert [one.priority for one in config.pools["web"].backends] == expected


def test_limits_of_sources() -> None:
    rules = " stick-table type ip size 1m expire 1m store conn_rate(10s)\n tcp-request connection track-sc0 src\n"
    rules += " tcp-request connection reject if { sc0_conn_rate ge 101 }\n acl many src_conn_cur gt 20\n"
    limits = listener_of(f"{rules} tcp-request connection reject if many\n").per_source
    assert (limits.session_rate, limits.sessions) == (10, 20)


def test_whoever_is_accepted_before_a_limit_is_named() -> None:
    rules = " tcp-request connection accept if { src 10.0.0.1 }\n tcp-request connection reject if { src 10.0.0.0/8 }\n"
    rules += " tcp-request connection silent-drop if { src_conn_cur gt 5 }\n"
    config, lost = converted(f"listen web\n bind :2\n{rules}{SERVER}")
    listener = config.listeners["web"]
    assert (listener.per_source.sessions, listener.deny, listener.deny_action) == (5, ["10.0.0.0/8"], "reset")
    assert lost == ["3: tcp-request connection accept if { src 10.0.0.1 }"]


@pytest.mark.parametrize("action", ["reject", "silent-drop"])
@pytest.mark.parametrize("when", ["if", "unless"])
def test_what_refused_clients_see(action: str, when: str) -> None:
    listener = listener_of(f" tcp-request connection {action} {when} {{ src 10.0.0.0/8 }}\n")
    assert listener.deny_action == ("drop" if action == "silent-drop" else "reset")


def test_of_alternatives_those_that_can_be_matched_are_routes() -> None:
    acls = " acl sub req.ssl_sni -m sub x\n acl name req.ssl_sni a.example\n"
    rule = " use_backend b if sub or name || { src 10.0.0.1 }\n"
    config, lost = converted(f"frontend f\n bind :2\n{acls}{rule} default_backend b\nbackend b\n{SERVER}")
    conditions = [{"sni": ["a.example"]}, {"source": ["10.0.0.1/32"]}]
    assert [route.conditions for route in config.listeners["f"].routes] == conditions
    assert lost == ["3: acl sub req.ssl_sni -m sub x", "5: use_backend b if sub or name || { src 10.0.0.1 }"]


def test_a_map_of_names(tmp_path: Path) -> None:
    (tmp_path / "names.map").write_text("# name pool\na.example one\n\nb.example two\n")
    text = f"frontend f\n bind :1\n use_backend %[req.ssl_sni,lower,map({tmp_path}/names.map,one)]\n"
    config, lost = converted(f"{text}backend one\n{SERVER}backend two\n server s 127.0.0.1:2\n")
    routes = [(route.sni, route.pool) for route in config.listeners["f"].routes]
    assert (routes, config.listeners["f"].pool) == ([(["a.example"], "one"), (["b.example"], "two")], "one")
    assert lost == []


def test_rules_of_content_that_cannot_be_kept_are_named() -> None:
    text = (
        "listen web\n bind :1\n tcp-request content accept if { req.ssl_hello_type 1 }\n tcp-request content reject\n"
    )
    config, lost = converted(text + SERVER)
    assert (config.listeners["web"].deny, lost) == ([], ["4: tcp-request content reject"])


def test_defaults_by_name_and_no() -> None:
    text = "defaults a\n mode http\n option tcpka\n retries 9\ndefaults b from a\n mode tcp\n"
    config, _ = converted(
        f"{text}listen x from b\n bind :1\n no option tcpka\n{SERVER}listen y from b\n bind :2\n{SERVER}"
    )
    assert (config.listeners["x"].keepalive, config.listeners["y"].keepalive is None) == (None, False)
    assert config.pools["x"].connect_attempts == 10


def test_one_address_of_several_that_is_taken() -> None:
    text = f"listen a\n bind :2\n{SERVER}listen b\n bind :2\n bind :3\n{SERVER}listen c\n bind :3,:2\n{SERVER}"
    config, lost = converted(text)
    assert {name: one.bind for name, one in config.listeners.items()} == {"a": ["0.0.0.0:2"], "b": ["0.0.0.0:3"]}
    assert lost == ["5: bind", "8: pool c", "9: bind", "9: bind", "9: listener c"]


def test_the_last_server_that_is_not_taken() -> None:
    text = f"listen a\n bind :2\n{SERVER}listen b\n bind :3\n source 10.0.0.9\n server s /run/x.sock\n"
    done = convert(text, "haproxy.cfg", "haproxy", {})
    assert [one.message for one in done.lost if one.path == "pool b"] == ["it has no servers that were converted"]


def test_each_part_of_the_ports_has_a_listener_where_they_decide() -> None:
    rules = " use_backend one if { dst_port 2000 }\n use_backend two if { dst_port 2004:2006 2009 }\n"
    binds = " bind :2000-2010\n bind :::2000 v4v6\n bind 10.0.0.1:2005\n bind /run/x\n"
    backends = "".join(f"backend {name}\n{SERVER}" for name in ("one", "two", "rest"))
    config, lost = converted(f"frontend f\n{binds}{rules} default_backend rest\n{backends}")
    assert lost == []
    assert [(one.bind, one.pool) for one in config.listeners.values()] == [
        ([":2000"], "one"),
        (["0.0.0.0:2001-2003"], "rest"),
        (["0.0.0.0:2004-2006"], "two"),
        (["0.0.0.0:2007-2008"], "rest"),
        (["0.0.0.0:2009"], "two"),
        (["0.0.0.0:2010"], "rest"),
        (["10.0.0.1:2005"], "two"),
        (["unix:/run/x"], "rest"),
    ]


@pytest.mark.parametrize("ports", ["80:90:100", "80:", "ge 80", "x", ""])
def test_ports_that_are_none_are_named(ports: str) -> None:
    text = f"frontend f\n bind :2\n use_backend b if {{ dst_port {ports} }}\n default_backend b\nbackend b\n{SERVER}"
    assert [one.partition("{")[0] for one in converted(text)[1]] == ["3: use_backend b if "]


def test_many_addresses_whose_ports_decide() -> None:
    """Each keeps the pool of its port."""
    binds = "".join(f" bind 127.0.0.1:{port}\n" for port in range(2000, 2400))
    config, _ = converted(f"frontend f\n{binds} use_backend b if {{ dst_port 2399 }}\nbackend b\n{SERVER}")
    assert [one.bind for one in config.listeners.values() if one.pool == "b"] == [["127.0.0.1:2399"]]


def test_which_format_it_is() -> None:
    assert format_of("global\n maxconn 1\nlisten a\n bind :1\n", "f") == "haproxy"
    assert format_of("events {}\nstream {\n server { listen 1; }\n}\n", "f") == "nginx"
    assert format_of("upstream a {\n server 10.0.0.1:1;\n}\n", "f") == "nginx"
