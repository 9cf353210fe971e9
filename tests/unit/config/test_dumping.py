"""What `Config.dumps` writes loads to an equal configuration, and has only what was given."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4lb import Backend, Config, ConfigError, Listener, Pool
from l4lb.config import GlobalConfig, HealthConfig, KeepaliveConfig, PerSourceConfig, Route
from l4lb.config.dumping import toml_of
from l4lb.config.options.models import Options
from l4lb.config.options.units import bandwidth_text, duration_text, parse_bandwidth, parse_duration

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted([ROOT / "lb.toml.example", *(ROOT / "examples").rglob("lb*.toml")])
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12)
DURATION = st.floats(1e-6, 24 * 86400.0) | st.sampled_from(["250ms", "5s", "10m", "1h", "1d", 1])
DURATION_OR_OFF = DURATION | st.just("off")
BANDWIDTH = st.integers(1, 2**40).map(lambda number: f"{number}B/s") | st.sampled_from(["off", "1.5MiB/s", "10MB/s"])
RATE = st.integers(1, 10**9).map(lambda number: f"{number}/s") | st.sampled_from(["off", "2.5/s"])
PORTS = st.integers(1, 65535)


def some(kind: type[Any], needed: dict[str, Any] | None = None, **fields: Any) -> st.SearchStrategy[Any]:
    """A model with any of these fields given."""
    return st.fixed_dictionaries(needed or {}, optional=fields).map(lambda options: kind(**options))


BACKENDS = st.lists(
    some(
        Backend,
        {"address": st.builds("10.0.0.{}:{}".format, st.integers(1, 250), PORTS)},
        weight=st.integers(0, 65535),
        max_sessions=st.integers(0, 1000),
        admin_state=st.sampled_from(["ready", "drain", "maint"]),
        id=TEXT,
        tags=st.dictionaries(TEXT, TEXT, max_size=3),
    ),
    min_size=1,
    max_size=4,
)
ANYTHING = st.recursive(
    TEXT | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
HEALTH = some(
    HealthConfig,
    interval=DURATION,
    fall=st.integers(1, 9),
    initial=st.sampled_from(["unknown", "up", "down"]),
    expect_status=st.sampled_from([200, "200-399", [200, "301-302"]]),
    verify=st.booleans(),
    headers=st.just({"Authorization": "Bearer x"}),
    options=st.dictionaries(TEXT, ANYTHING, max_size=3),
)
POOL = some(
    Pool,
    {"backends": BACKENDS},
    policy=st.sampled_from(["maglev", "round_robin"]),
    bounded_load=st.sampled_from(["off", 0, 1.25, 2]),
    slow_start=DURATION_OR_OFF,
    send_proxy_tlvs=st.just(["crc32c", {"type": 0xE4, "value": "hex:00ff"}]),
    queue_timeout=DURATION,
    health=HEALTH,
)
LISTENER = some(
    Listener,
    {"bind": st.builds("127.0.0.1:{}".format, PORTS), "pool": st.sampled_from(["a", "b"])},
    protocol=st.sampled_from(["tcp", "udp"]),
    allow=st.just(["10.0.0.0/8", "2001:db8::/32"]),
    idle_timeout=DURATION_OR_OFF,
    keepalive=some(KeepaliveConfig, idle=DURATION) | st.none() | st.just("off"),
    session_rate=RATE,
    bandwidth_up=BANDWIDTH,
    per_source=some(PerSourceConfig, sessions=st.integers(0, 9), session_rate=RATE, dry_run=st.booleans()),
    routes=st.lists(some(Route, {"split": st.just({"a": 95, "b": 5})}, source=st.just("10.0.0.0/8")), max_size=2),
    udp_responses=st.sampled_from([0, 3, "none"]),
)
OPTIONS = some(
    Options,
    {"pools": st.fixed_dictionaries({"a": POOL, "b": POOL})},
    listeners=st.dictionaries(TEXT, LISTENER, max_size=3),
    global_=some(GlobalConfig, workers=st.sampled_from(["auto", 3]), busy_poll=DURATION_OR_OFF, drain_timeout=DURATION),
)


@given(OPTIONS)
@settings(max_examples=200)
def test_what_is_dumped_loads_to_the_same(options: Options) -> None:
    loaded = Options.model_validate(tomllib.loads(toml_of(options)))
    for name in Options.model_fields:
        assert getattr(loaded, name) == getattr(options, name)
    assert toml_of(loaded) == toml_of(options)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples(path: Path, tmp_path: Path) -> None:
    """With something for the places that an example's own script fills in."""
    text = path.read_text().replace("@directory@", str(tmp_path))
    config = Config.loads(re.sub("@port([0-9]?)@", r"808\1", text))
    assert Config.loads(config.dumps()) == config


@given(DURATION.filter(lambda one: isinstance(one, float)))
def test_durations_keep_their_value(seconds: float) -> None:
    assert parse_duration(duration_text(seconds)) == seconds


@given(st.floats(1, 2**50))
def test_bandwidths_keep_their_value(rate: float) -> None:
    assert parse_bandwidth(bandwidth_text(rate)) == rate


def test_only_what_was_given_with_its_unit() -> None:
    web = Listener("127.0.0.1:80", pool="web", idle_timeout=300, bandwidth_up="10MiB/s", session_rate="100/s")
    dns = Listener("127.0.0.1:53", pool="dns", protocol="udp")
    pools = {"web": Pool(["10.0.0.1:80"], health={"interval": 0.25}), "dns": Pool(["10.0.0.2:53"])}
    text = Config(listeners={"web": web, "dns": dns}, pools=pools).dumps()
    assert tomllib.loads(text) == {
        "listeners": {
            "web": {
                "bind": ["127.0.0.1:80"],
                "pool": "web",
                "idle_timeout": "5m",
                "session_rate": "100/s",
                "bandwidth_up": "10MiB/s",
            },
            "dns": {"bind": ["127.0.0.1:53"], "protocol": "udp", "pool": "dns"},
        },
        "pools": {
            "web": {"backends": [{"address": "10.0.0.1:80"}], "health": {"interval": "250ms"}},
            "dns": {"backends": [{"address": "10.0.0.2:53"}]},
        },
    }


def config(**pool: Any) -> Config:
    pools = {"web": Pool(["10.0.0.1:80"], **pool)}
    return Config(listeners={"web": Listener("127.0.0.1:80", pool="web")}, pools=pools)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file, link = tmp_path / "lb.toml", tmp_path / "link.toml"
    file.write_text("old")
    file.chmod(0o600)
    link.symlink_to(file)
    config().dump(link)
    assert Config.load(file) == config()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["lb.toml", "link.toml"]
    with pytest.raises(OSError, match="No such file or directory"):
        config().dump(tmp_path / "missing" / "lb.toml")


def test_what_toml_does_not_have_is_an_error() -> None:
    health = {"type": "python", "callable": "tests.unit.control.checks.functions:up", "options": {"a": {1, 2}}}
    with pytest.raises(ConfigError, match="cannot be written as TOML"):
        config(health=health).dumps()


def test_equal_whatever_they_came_from(tmp_path: Path) -> None:
    config().dump(tmp_path / "lb.toml")
    assert Config.load(tmp_path / "lb.toml") == config() != config(policy="maglev")
    assert config() != "a text"
