"""What cannot go together with `engine = "kernel"` is an error that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from l4lb import Config, ConfigError

FILE = """
[listeners.web]
bind = "192.0.2.1:80"
pool = "web"
{engine}
{listener}
[pools.web]
policy = "maglev"
backends = ["10.0.0.1:8080", "10.0.0.2:8080"]
{pool}
{more}
"""
KERNEL = 'engine = "kernel"'


def problems(path: Path, engine: str = KERNEL, **parts: str) -> list[str]:
    text = FILE.format(**{"engine": engine, "listener": "", "pool": "", "more": "", **parts})
    path.write_text(text)
    try:
        Config.load(path)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_what_it_can(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    for listener in (
        "",
        'attach = "tcx"',
        'devices = ["eth0"]',
        'protocol = "udp"',
        'idle_timeout = "9s"',
    ):
        assert problems(file, listener=listener) == []
    for access in ('allow = ["10.0.0.0/8"]', 'deny = ["10.0.0.0/8"]\ndeny_action = "drop"'):
        assert problems(file, listener=access) == []
    assert "answers nothing" in problems(file, listener='deny = ["10.0.0.0/8"]\ndeny_action = "close"')[0]
    for pool in ('hash_key = "session"', "hash_prefix_v4 = 24", 'slow_start = "9s"', 'on_backend_down = "reset"'):
        assert problems(file, pool=pool) == []
    assert problems(file, listener='protocol = "udp"', pool='hash_key = "quic_cid"') == []
    assert problems(file, more='[listeners.other]\nbind = "192.0.2.1:81"\npool = "web"') == []


def test_dsr_leaves_ports_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    found = problems(file, listener='mode = "dsr"')
    assert len(found) == 2
    assert 'with mode = "dsr" ports stay as they are: expected 80' in found[0]
    text = FILE.format(engine=KERNEL, listener='mode = "dsr"', pool="", more="")
    file.write_text(text.replace(":8080", ":80"))
    Config.load(file)


LISTENER = [
    'accept_proxy = "v2"\nproxy_trusted = ["10.0.0.0/8"]',
    "max_sessions = 5",
    "half_close = false",
    'session_rate = "5/s"',
    'bandwidth_up = "1MB/s"',
    'total_bandwidth_down = "1MB/s"',
    "per_source = { sessions = 2 }",
    'keepalive = { idle = "9s" }',
    "transparent = true",
    'splice = "off"',
    'max_session_duration = "9s"',
    "fast_open = 5",
    '[[listeners.web.routes]]\nsource = ["10.0.0.0/8"]\npool = "web"',
]


@pytest.mark.parametrize("listener", LISTENER)
def test_what_only_a_proxy_can(listener: str, tmp_path: Path) -> None:
    (found,) = problems(tmp_path / "lb.toml", listener=listener)
    key = "routes" if listener.startswith("[[") else listener.split(" ")[0]
    assert f"listeners.web.{key}: cannot be had" in found
    assert 'expected engine = "proxy"' in found


POOL = [
    "bounded_load = 1.25", 'send_proxy = "v2"', 'connect_timeout = "1s"', "connect_attempts = 5", "queue_size = 5",
    "passive = { failures = 3 }",
]  # fmt: skip


@pytest.mark.parametrize("pool", POOL)
def test_what_only_a_proxys_pool_can(pool: str, tmp_path: Path) -> None:
    (found,) = problems(tmp_path / "lb.toml", pool=pool)
    assert f"pools.web.{pool.split(' ')[0]}: cannot be had" in found


BINDS = {
    "unix:/run/x": "only forwards packets",
    "fd:web": "only forwards packets",
    "192.0.2.1:80-90": "expects one port",
    "192.0.2.1:0": "expects one port",
    ":80": "expects an address",
    "0.0.0.0:80": "expects an address",
    "localhost:80": "expects an address",
    "[fe80::1%lo]:80": "link-local",
}


@pytest.mark.parametrize("bind", BINDS)
def test_addresses(bind: str, tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text(FILE.format(engine=KERNEL, listener="", pool="", more="").replace("192.0.2.1:80", bind))
    with pytest.raises(ConfigError) as error:
        Config.load(file)
    assert any("bind" in str(one) and BINDS[bind] in str(one) for one in error.value.problems), error.value.problems


BACKENDS = {
    '"[2001:db8::1]:80"': "does not translate",
    '"unix:/run/x"': "only forwards packets",
    '"10.0.0.3:0"': "expects a port",
    '{ address = "10.0.0.3:80", max_sessions = 4 }': "max_sessions cannot be had",
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends(backend: str, tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text(FILE.format(engine=KERNEL, listener="", pool="", more="").replace('"10.0.0.2:8080"', backend))
    with pytest.raises(ConfigError, match=BACKENDS[backend]):
        Config.load(file)


@pytest.mark.parametrize("policy", ["round_robin", "least_sessions", "p2c", "peak_ewma", "first"])
def test_policies(policy: str, tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text(FILE.format(engine=KERNEL, listener="", pool="", more="").replace('"maglev"', f'"{policy}"'))
    with pytest.raises(ConfigError, match="expected maglev, ring, rendezvous, random"):
        Config.load(file)


def test_one_family_a_listener(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    two = 'bind = ["192.0.2.1:80", "[2001:db8::1]:80"]'
    file.write_text(FILE.format(engine=KERNEL, listener="", pool="", more="").replace('bind = "192.0.2.1:80"', two))
    with pytest.raises(ConfigError, match="addresses of one family"):
        Config.load(file)


def test_a_backend_answers_for_one_service(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    other = f'[listeners.other]\nbind = "192.0.2.1:81"\npool = "web"\n{KERNEL}\n'
    (found,) = problems(file, more=other)
    assert '10.0.0.1:8080" answers for 192.0.2.1:80 of listener "web", and for nothing else' in found
    direct = '[listeners.other]\nbind = "192.0.2.2:8080"\npool = "web"\nmode = "dsr"\n' + KERNEL
    assert problems(file, more=direct) == []
    assert problems(file, more=other + 'protocol = "udp"') == []


OURS = 'source_address = "10.0.0.9"'


def test_by_full_nat_a_backend_answers_for_all(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    other = f'[listeners.other]\nbind = "192.0.2.1:81"\npool = "web"\n{KERNEL}\n'
    assert problems(file, pool=OURS, more=other) == []
    plain = '[pools.plain]\npolicy = "maglev"\nbackends = ["10.0.0.1:8080"]\n'
    assert problems(file, pool=OURS, more=other.replace('"web"', '"plain"') + plain) == []


SOURCES = {
    ('source_address = "client"', 'mode = "nat"'): "keeps the client's address as it is",
    (OURS, 'mode = "dsr"'): 'mode = "dsr" keeps the client\'s address; expected "nat"',
    (OURS, 'mode = "tunnel"'): 'mode = "tunnel" keeps the client\'s address; expected "nat"',
    ('source_address = "2001:db8::9"', 'mode = "nat"'): "is of another family",
}


@pytest.mark.parametrize(("pool", "listener"), SOURCES)
def test_what_backends_can_see(pool: str, listener: str, tmp_path: Path) -> None:
    found = problems(tmp_path / "lb.toml", pool=pool, listener=listener)
    assert any("pools.web.source_address" in one and SOURCES[pool, listener] in one for one in found), found


TUNNEL = 'mode = "tunnel"'


def test_a_tunnel_takes_any_family(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    text = FILE.format(engine=KERNEL, listener=TUNNEL, pool="", more="").replace(":8080", ":80")
    two = 'bind = ["192.0.2.1:80", "[2001:db8::1]:80"]'
    file.write_text(text.replace('bind = "192.0.2.1:80"', two).replace("10.0.0.2:80", "[2001:db8::2]:80"))
    Config.load(file)
    assert len(problems(file, listener=TUNNEL)) == 2
    assert 'with mode = "tunnel" ports stay as they are: expected 80' in problems(file, listener=TUNNEL)[0]


@pytest.mark.parametrize("encapsulation", ["ipip", "gue", "gue:1", "gue:65535", "gre", "gue:", "gue:0", "gue:65536"])
def test_encapsulations(encapsulation: str, tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    listener = f'{TUNNEL}\nencapsulation = "{encapsulation}"'
    file.write_text(FILE.format(engine=KERNEL, listener=listener, pool="", more="").replace(":8080", ":80"))
    if encapsulation in ("ipip", "gue", "gue:1", "gue:65535"):
        Config.load(file)
        return
    with pytest.raises(ConfigError, match='expected "ipip", "gue" or "gue:PORT"'):
        Config.load(file)


def test_only_a_tunnel_has_an_encapsulation(tmp_path: Path) -> None:
    (found,) = problems(tmp_path / "lb.toml", listener='encapsulation = "gue"')
    assert 'has no effect without mode = "tunnel"' in found


@pytest.mark.parametrize("key", ['mode = "dsr"', 'attach = "tcx"', 'devices = ["eth0"]'])
def test_keys_that_have_no_effect(key: str, tmp_path: Path) -> None:
    (found,) = problems(tmp_path / "lb.toml", engine="", listener=key)
    assert 'has no effect without engine = "kernel"' in found
