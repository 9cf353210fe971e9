from __future__ import annotations

import pytest

from l4lb import Config, ConfigError, Pool
from l4lb.config.options.discovery import OPTIONS, DiscoveryConfig

TEXT = '[listeners.web]\nbind = ":9"\npool = "web"\n[pools.web]\n{}\n'


def problems(text: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as raised:
        Config.loads(TEXT.format(text))
    return {one.path.removeprefix("pools.web."): one.message for one in raised.value.problems}


def test_backends_may_be_missing_with_discovery_only() -> None:
    pool = Config.loads(TEXT.format('discovery = { type = "file", path = "x" }')).pools["web"]
    assert (pool.backends, pool.discovery) == ([], DiscoveryConfig(type="file", path="x"))
    assert Pool(discovery={"type": "file", "path": "x"}) == pool.model_copy(update={"health": Pool(["h:1"]).health})
    assert problems("") == {"backends": "missing: expected a value"}
    assert problems("backends = []") == {"backends": "empty: expected at least one"}


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ("", "type", "missing: expected one of file, exec, dns, srv, etcd, consul, kubernetes"),
        ('type = "fiel", path = "x"', "type", '"fiel": expected one of file, exec, dns, srv, etcd, consul, kubernetes'),
        ('type = "file"', "path", 'missing: type "file" needs it'),
        ('type = "file", path = "x", format = "xml"', "format", "\"xml\": expected 'auto', 'lines', 'json' or 'toml'"),
        ('type = "file", path = "x", options = { a = 1 }', "options", 'has no effect with type "file"'),
        ('type = "file", path = "x", hold_down = "soon"', "hold_down", '"soon": expected a duration'),
        ('type = "file", paht = "x", path = "x"', "paht", 'unknown key (did you mean "path"?)'),
        ('type = "dns", name = "web.example"', "port", 'missing: type "dns" needs it'),
        ('type = "dns", name = "web..example", port = 80', "name", '"web..example": not a name of DNS'),
        ('type = "srv", name = "web.example", port = 80', "port", 'has no effect with type "srv"'),
        ('type = "srv", name = "x", servers = ["ns.example"]', "servers[0]", '"ns.example": expected the IP address'),
        ('type = "exec", command = "ls -l"', "command", '"ls -l": expected a list such as'),
        ('type = "etcd", endpoints = ["ftp://a"], prefix = "/"', "endpoints[0]", '"ftp://a": expected a URL such as'),
        ('type = "etcd", endpoints = "http://a", prefix = "/", user = "u"', "user", "user and password_file belong"),
        (
            'type = "etcd", endpoints = "http://a", prefix = "/", key_file = "k"',
            "key_file",
            "has no effect with",
        ),
        ('type = "consul"', "service", 'missing: type "consul" needs it'),
        (
            'type = "consul", service = "w", endpoints = ["consul:8500"]',
            "endpoints[0]",
            '"consul:8500": expected a URL',
        ),
        ('type = "consul", service = "w", wait = "11m"', "wait", '"11m": expected "1s" to "10m"'),
        ('type = "consul", service = "w", prefix = "/"', "prefix", 'has no effect with type "consul"'),
        ('type = "consul", service = "w", key_file = "k"', "key_file", "has no effect without cert_file"),
        ('type = "kubernetes"', "service", 'missing: type "kubernetes" needs it'),
        ('type = "kubernetes", service = "a.b"', "service", '"a.b": expected letters, digits and hyphens'),
        ('type = "kubernetes", service = "a", namespace = "A"', "namespace", '"A": expected letters'),
        ('type = "kubernetes", service = "a", port = "HTTP"', "port", '"HTTP": expected letters, digits and'),
        ('type = "kubernetes", service = "a", port = 65536', "port", "65536: expected 1 to 65535"),
        ('type = "kubernetes", service = "a", port = true', "port", "true: expected a number from 1 to 65535, or"),
        ('type = "kubernetes", service = "a", wait = "5s"', "wait", 'has no effect with type "kubernetes"'),
        ('type = "dns", name = "web.example", port = "http"', "port", '"http": expected a number from 1 to 65535'),
    ],
)
def test_each_of_these_is_the_only_error(options: str, key: str, message: str) -> None:
    found = problems(f"discovery = {{ {options} }}")
    assert list(found) == [f"discovery.{key}"]
    assert found[f"discovery.{key}"].startswith(message)


def test_what_it_is_is_one_table() -> None:
    assert problems("discovery = 5")["discovery"] == "5: expected a table"
    assert problems("[pools.web.discovery]\nmore = 1").keys() == {"discovery.more", "discovery.type"}


@pytest.mark.parametrize("type_", sorted(OPTIONS))
def test_every_type_has_a_source(type_: str) -> None:
    from l4lb.control.discovery.registry import SOURCES, source_of

    assert SOURCES.keys() == OPTIONS.keys()
    assert callable(source_of(type_))


def test_the_hold_down_of_dns_is_not_given_and_follows_the_type() -> None:
    config = Config.loads(TEXT.format('discovery = { type = "srv", name = "_http._tcp.example" }'))
    assert config.pools["web"].discovery == DiscoveryConfig(type="srv", name="_http._tcp.example", hold_down=30)
    assert "hold_down" not in config.dumps()
    assert Config.loads(config.dumps()) == config
    assert DiscoveryConfig(type="dns", name="x", port=1, hold_down=0).hold_down == 0


def test_it_dumps_as_it_was_given() -> None:
    text = TEXT.format('[pools.web.discovery]\ntype = "file"\npath = "x"\nhold_down = "5s"')
    config = Config.loads(text)
    assert 'hold_down = "5s"' in config.dumps()
    assert Config.loads(config.dumps()) == config
