from __future__ import annotations

from pathlib import Path

import pytest

from l4lb.config import Backend, Config, Flags, Listener, Pool, from_flags, load
from l4lb.config.options.policies import policy_names
from l4lb.errors import ConfigError

GOOD = """
[listeners.web]
bind = ["127.0.0.1:8080", "[::1]:8080"]
pool = "web"
keepalive = { idle = "30s" }
[pools.web]
policy = "maglev"
backends = ["10.0.0.1:80", { address = "10.0.0.2:80", weight = 3, id = "two" }]
"""
ROUTE = """
[pools.p]
backends = ["h:1"]
[listeners.a]
bind = ":1"
pool = "p"
[[listeners.a.routes]]
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.loads(text, file="lb.toml")
    return str(caught.value).splitlines()


def test_a_good_file() -> None:
    config = Config.loads(GOOD)
    assert config.listeners["web"].bind == ["127.0.0.1:8080", "[::1]:8080"]
    assert config.listeners["web"].keepalive is not None
    assert config.listeners["web"].keepalive.idle == 30
    assert [backend.key for backend in config.pools["web"].backends] == ["10.0.0.1:80", "two"]
    assert config.line_of("pools", "web", "backends", 1, "weight") == 8


def test_programs_build_the_same() -> None:
    config = Config(
        listeners={"web": Listener(bind=["127.0.0.1:0"], pool="web")},
        pools={"web": Pool(backends=[Backend(address="127.0.0.1:1"), Backend(address="127.0.0.1:2", weight=2)])},
    )
    assert config.pools["web"].backends[1].weight == 2
    assert config.global_.drain_timeout == 30


def test_everything_wrong_is_said_at_once_in_the_order_of_the_file() -> None:
    lines = problems(
        '[global]\nworker = 2\n[listeners.web]\nbind = "127.0.0.1:99999"\npool = "wbe"\nidle_timout = "5s"\n'
        '[pools.web]\npolicy = "magle"\nbackends = ["127.0.0.1:1", "127.0.0.1:1", "nonsense"]\n'
    )
    *others, last = (f"'{policy}'" for policy in policy_names())
    known = f"{', '.join(others)} or {last}"
    assert lines == [
        'lb.toml:2: global.worker: unknown key (did you mean "workers"?)',
        'lb.toml:4: listeners.web.bind: "127.0.0.1:99999": ports go from 0 to 65535',
        'lb.toml:5: listeners.web.pool: "wbe": no such pool (did you mean "web"?)',
        'lb.toml:6: listeners.web.idle_timout: unknown key (did you mean "idle_timeout"?)',
        f'lb.toml:8: pools.web.policy: "magle": expected {known} (did you mean "maglev"?)',
        'lb.toml:9: pools.web.backends[2]: "nonsense": expected "host:port", "[v6]:port", ":port", "unix:/path" or'
        ' "unix:@name"',
        'lb.toml:9: pools.web.backends[1]: "127.0.0.1:1": the same backend as backends[0]',
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[listeners]\n[pools]", "listeners: no listener"),
        ('[pools.web]\nbackends = []', "pools.web.backends: empty: expected at least one"),
        ('[pools.web]\nbackends = [{ weight = 1 }]', "pools.web.backends[0].address: missing"),
        ('[global]\nworkers = 0', "global.workers: 0: expected"),
        ('[global]\nworkers = true', "global.workers: true: expected a number"),
        ('[global]\nlog_level = 3', "global.log_level: 3: expected 'debug'"),
        ('[admin]\nbind = "0.0.0.0:9900"', 'admin.bind: "0.0.0.0:9900": beyond loopback requires token_file'),
        ('[listeners.a]\nbind = ":80"\npool = "p"\n[listeners.b]\nbind = "0.0.0.0:80"\npool = "p"', "already bound by"),
        ('[listeners.a]\nbind = "h:8-10"\npool = "p"\n[listeners.b]\nbind = "h:10"\npool = "p"', "already bound by"),
        ('[listeners.a]\nbind = "fe80::1:80"\npool = "p"', "an IPv6 address goes in brackets"),
        ('[listeners.a]\nbind = ":1"\npool = "p"\nsession_burst = 5', "has no effect without session_rate"),
        ('[listeners.a]\nbind = ":1"\npool = "p"\nper_source = { sesions = 5 }', "did you mean"),
        ('[listeners.a]\nbind = ":1"\npool = "p"\nper_source = { prefix_v4 = 24 }', "has no effect without a limit"),
        ('[listeners.a]\nbind = ":1"\npool = "p"\nper_source = { dry_run = true }', "dry_run: has no effect"),
        ('[listeners.a]\nbind = ":1"\npool = "p"\nper_source = { sessions = 1, action = "drop" }', "or 'close'"),
        ('[listeners.a]\nbind = ":1"\npool = "p"\nper_source = { sessions = 1, prefix_v6 = 0 }', "prefix_v6: 0"),
        ('[listeners.a]\nbind = ":1"\npool = "p"\nper_source = { session_rate = "0.1/s" }', "per_source.session_rate"),
        ('[listeners.a]\nbind = ":1"\npool = "p"\nprotocol = "udp"\nper_source = { sessions = 1, action = "close" }',
         "has no effect with udp"),
        (ROUTE + 'pool = "nosuch"', 'listeners.a.routes[0].pool: "nosuch": no such pool'),
        (ROUTE + 'split = { p = 1, q = 2 }', 'listeners.a.routes[0].split: "q": no such pool'),
        (ROUTE + 'pool = "p"\nsplit = { p = 1 }', "expected pool or split, not both"),
        (ROUTE + 'sni = "a.test"', "expected pool or split"),
        (ROUTE + "split = { p = 0 }", "at least one pool with a weight above 0"),
        (ROUTE + 'pool = "p"\nsni = "a.*.test"', "expected a server name such as"),
        (ROUTE + 'pool = "p"\nsni = "*"', "expected a server name such as"),
        (ROUTE + 'pool = "p"\nsni = "b\u00fccher.test"', 'beginning with "xn--"'),
        (ROUTE + 'pool = "p"\nsin = "a.test"', "did you mean"),
        (ROUTE + 'pool = "p"\nalpn = ""', "of 1 to 255 bytes"),
        (ROUTE + 'pool = "p"\nstarts_with = "hex:1"', "pairs of hexadecimal digits"),
        (ROUTE + 'pool = "p"\nsource = "10.0.0.0/33"', "routes[0].source"),
        (ROUTE + 'pool = "p"\n[[listeners.a.routes]]\npool = "p"', "routes[1].pool: no client comes here"),
        (ROUTE.replace("[[", 'protocol = "udp"\n[[') + 'pool = "p"\nstarts_with = "SSH-"', "has no effect with udp"),
        ('[pools.p]\nbackends = ["h:1"]\nhash_prefix_v4 = 24', 'has no effect with policy "round_robin"'),
        ('[pools.p]\nbackends = ["h:1"]\nqueue_timeout = "1s"', "has no effect without queue_size"),
        ('[pools.p]\nbackends = ["h:1"]\nretry_pause = "1s"\nconnect_attempts = 1', "has no effect with connect_att"),
        ('[pools.p]\nbackends = ["h:1"]\nsource_address = "here"', '"here" is not an IP address, nor "client"'),
        ('[pools.p]\nbackends = ["[::1]:1"]\nsource_address = "127.0.0.1"', "cannot be reached from source_address"),
        ('[pools.p]\nbackends = ["h:1-5"]', "a range of ports is for listeners"),
        ('[pools.p]\nbackends = ["fd:x"]', '"fd:" addresses cannot be used here'),
        ('[pools.p]\nbackends = ["h:1"]\nzone = "here"', '"here": no backend of the pool is in this zone'),
        ('[pools.p]\nbackends = ["h:1"]\npanic_threshold = 101', "pools.p.panic_threshold: 101: expected"),
        ('[pools.p]\nbackends = ["h:1"]\n[pools.p.health]\nrise = 0', "pools.p.health.rise: 0: expected"),
        ('[listeners.a]\nbind = ":1"\npool = "p"\naccept_proxy = "any"', "a.proxy_trusted: missing: accept_proxy"),
        ('[listeners.a]\nbind = ":1"\npool = "p"\naccept_proxy = true', "a.accept_proxy: true: expected 'off'"),
        ('[listeners.a]\nbind = ":1"\npool = "p"\nproxy_trusted = "10.0.0.0/8"', "has no effect without accept_proxy"),
        ('[listeners.a]\nbind = ":1"\npool = "p"\nproxy_timeout = "6s"', "has no effect without accept_proxy"),
        (
            '[listeners.a]\nbind = ":1"\npool = "p"\naccept_proxy = "v2"\nproxy_trusted = ["::1", "10.1.0.0/8"]',
            '[1]: "10.1.0.0/8": has bits set beyond its prefix (did you mean "10.0.0.0/8"?)',
        ),
        (
            '[listeners.a]\nbind = ":1"\npool = "p"\naccept_proxy = "v2"\nproxy_trusted = ["lan"]',
            'a.proxy_trusted[0]: "lan": expected an address or a network such as',
        ),
        ('[pools.p]\nbackends = ["h:1"]\nsend_proxy = "v3"', "p.send_proxy: \"v3\": expected 'off', 'v1' or 'v2'"),
        ('[pools.p]\nbackends = ["h:1"]\nsend_proxy_tlvs = ["crc32c"]', 'has no effect without send_proxy = "v2"'),
        (
            '[pools.p]\nbackends = ["h:1"]\nsend_proxy = "v1"\nsend_proxy_tlvs = ["crc32c"]',
            'p.send_proxy_tlvs: has no effect without send_proxy = "v2": version 1 has no TLVs',
        ),
        (
            '[pools.p]\nbackends = ["h:1"]\nsend_proxy = "v2"\nsend_proxy_tlvs = ["alpn", "sni"]',
            'p.send_proxy_tlvs[1]: "sni": expected one of crc32c, unique_id, authority, alpn, netns, received',
        ),
        (
            '[pools.p]\nbackends = ["h:1"]\nsend_proxy = "v2"\nsend_proxy_tlvs = ["alpn", "alpn"]',
            "p.send_proxy_tlvs[1]: the same as send_proxy_tlvs[0]",
        ),
        (
            '[pools.p]\nbackends = ["h:1"]\nsend_proxy = "v2"\nsend_proxy_tlvs = [{ type = 5, value = "x" }]',
            "p.send_proxy_tlvs[0].type: 5: expected a type from 0xE0 to 0xEF",
        ),
        (
            '[pools.p]\nbackends = ["h:1"]\nsend_proxy = "v2"\nsend_proxy_tlvs = [{ type = 0xE4, value = "hex:0" }]',
            "p.send_proxy_tlvs[0].value: \"hex:0\": expected pairs of hexadecimal digits",
        ),
        (
            '[pools.p]\nbackends = ["h:1"]\nsend_proxy = "v2"\nsend_proxy_tlvs = [{ typ = 0xE4, value = "x" }]',
            'p.send_proxy_tlvs[0].typ: unknown key (did you mean "type"?)',
        ),
        ('[pools.p]\nbackends = ["unix:/s"]\nsource_address = "client"', "cannot be reached from the client's address"),
    ],
)  # fmt: skip
def test_each_of_these_is_an_error(text: str, message: str) -> None:
    assert any(message in line for line in problems(text)), problems(text)


UDP = '[listeners.l]\nbind = ":9"\npool = "p"\nprotocol = "udp"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (UDP + "nodelay = false", 'listeners.l.nodelay: has no effect with protocol "udp"'),
        (UDP + 'splice = "off"', 'listeners.l.splice: has no effect with protocol "udp"'),
        ('[listeners.l]\nbind = ":1"\npool = "p"\nudp_responses = 1', "udp_responses: has no effect with protocol"),
        (
            '[listeners.l]\nbind = ":9"\npool = "p"\nudp_responses = "none"',
            "udp_responses: has no effect with protocol",
        ),
        ('[listeners.l]\nbind = ":9"\nprotocol = "udp"\npool = "p"\nudp_responses = "non"', "udp_responses"),
        (UDP.replace(":9", "unix:/x"), 'listeners.l.bind[0]: "unix:/x": udp needs a host and a port'),
        (UDP + '[pools.p]\nbackends = ["unix:/x"]', 'backends[0]: "unix:/x": a udp listener uses the pool'),
        (
            UDP + '[listeners.t]\nbind = ":2"\npool = "p"\n'
            '[pools.p]\nbackends = ["h:1"]\npolicy = "maglev"\nhash_key = "quic_cid"',
            'pools.p.hash_key: "quic_cid": a tcp listener uses the pool',
        ),
        (UDP + '[pools.p]\nbackends = ["h:1"]\nhash_key = "quic_cid"', 'hash_key: has no effect with policy "round_r'),
        (UDP + '[pools.p]\nbackends = ["h:1"]\nqueue_size = 1', "queue_size: has no effect: only udp listeners use"),
        (
            UDP + '[pools.p]\nbackends = ["h:1"]\nretry_pause = "1s"',
            "retry_pause: has no effect: only udp listeners use",
        ),
        (UDP + 'half_close = false\n[pools.p]\nbackends = ["h:1"]', 'half_close: has no effect with protocol "udp"'),
        (UDP + '[pools.p]\nbackends = ["h:1"]\n[pools.p.health]\nrise = 5', "rise: has no effect without a type"),
    ],
)
def test_what_udp_does_not_have_is_an_error(text: str, message: str) -> None:
    assert any(message in line for line in problems(text)), problems(text)


def test_defaults_of_udp() -> None:
    both = UDP + '[listeners.t]\nbind = ":9"\npool = "q"\n[pools.p]\nbackends = ["127.0.0.1:1"]\n'
    config = Config.loads(both + '[pools.q]\nbackends = ["127.0.0.1:2"]')
    assert (config.listeners["l"].idle_timeout, config.listeners["t"].idle_timeout) == (30.0, 600.0)
    assert (config.pools["p"].health.type, config.pools["q"].health.type) == ("none", "tcp")
    assert (
        Config.loads(both + '[pools.p.health]\ntype = "udp"\n[pools.q]\nbackends = ["h:2"]').pools["p"].health.type
        == "udp"
    )
    shared = UDP + '[listeners.t]\nbind = ":9"\npool = "p"\n[pools.p]\nbackends = ["127.0.0.1:1"]\n'
    assert Config.loads(shared).pools["p"].health.type == "tcp"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path, message in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory"), (binary, "not UTF-8")):
        with pytest.raises(ConfigError, match=f"{path}: .*{message}"):
            Config.load(path)


def test_not_toml_names_the_line() -> None:
    assert problems("a = 1\nb = [\nc")[0].startswith("lb.toml:3: not TOML")


def test_flags_alone() -> None:
    config = from_flags(Flags(listen=("127.0.0.1:80",), backends=("h:1", "h:2,weight=3"), policy="least_sessions"))
    assert [backend.weight for backend in config.pools["default"].backends] == [1, 3]
    assert config.listeners["default"].pool == "default"


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text(GOOD + "[global]\nworkers = 1\n")
    config = load(file, Flags(workers="3", log_level="debug", admin="off"))
    assert (config.global_.workers, config.global_.log_level, config.admin.bind) == (3, "debug", "off")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (Flags(listen=("nowhere",), backends=("h:1",)), '--listen: [0]: "nowhere": expected'),
        (Flags(listen=(":1",), backends=("h:1,wait=3",)), '--backend: [0].wait: unknown key (did you mean "weight"?)'),
        (Flags(listen=(":1",), backends=("h:1,x",)), '--backend: "h:1,x": expected ADDR[,weight=N]'),
        (
            Flags(listen=(":1",), backends=("h:1",), policy="peak"),
            "--policy: \"peak\": expected 'round_robin', 'random',",
        ),
        (Flags(listen=(":1",), backends=("h:1",), workers="many"), '--workers: "many": expected'),
        (Flags(listen=(":1",)), "--backend: missing"),
        (Flags(policy="maglev"), "--listen: missing"),
    ],
)
def test_errors_name_the_flag(flags: Flags, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_flags(flags)
    assert message in str(caught.value)
