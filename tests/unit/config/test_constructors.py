"""Configurations that are built in code: what is meant works, everything else says what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from l4lb import Backend, Config, ConfigError, L4lbError, Listener, LoadBalancer, Pool, Route, UsageError
from l4lb.config import HealthConfig

WEB = {"bind": "127.0.0.1:80", "pool": "web"}


def test_the_obvious_argument_needs_no_name() -> None:
    assert Backend("10.0.0.1:80", weight=2) == Backend(address="10.0.0.1:80", weight=2)
    assert Pool(["10.0.0.1:80"]) == Pool(backends=[Backend(address="10.0.0.1:80")])
    assert Listener("127.0.0.1:80", pool="web") == Listener(bind=["127.0.0.1:80"], pool="web")


def test_plain_dicts_are_taken_as_in_a_file() -> None:
    config = Config(listeners={"web": WEB}, pools={"web": {"backends": ["10.0.0.1:80"], "slow_start": "30s"}})
    assert config.pools["web"].slow_start == 30


WRONG: list[tuple[Callable[[], Any], type[L4lbError], str]] = [
    (lambda: Backend("10.0.0.1:80", wieght=2), ConfigError, 'Backend.wieght: unknown key (did you mean "weight"?)'),
    (lambda: Backend("10.0.0.1:80", "10.0.0.2:80"), UsageError, "only address may be given without its name"),
    (lambda: Backend("10.0.0.1:80", address="10.0.0.1:80"), UsageError, "only address may be given"),
    (lambda: Backend("10.0.0.1"), ConfigError, 'Backend.address: "10.0.0.1"'),
    (lambda: Backend(), ConfigError, "Backend.address: missing"),
    (lambda: Pool([]), ConfigError, "Pool.backends: empty: expected at least one"),
    (lambda: Pool([{"address": "a:1", "wieght": 2}]), ConfigError, "Pool.backends[0].wieght: unknown key"),
    (lambda: Pool(["a:1"], policy="magleff"), ConfigError, 'did you mean "maglev"?'),
    (lambda: Listener(":80", pool="web", idle_timeout="5 parsecs"), ConfigError, "Listener.idle_timeout"),
    (lambda: Listener(":80", pool="web", keepalive={"idel": 3}), ConfigError, 'did you mean "idle"?'),
    (lambda: Route(sni="a.example"), ConfigError, "Route: expected pool or split"),
    (lambda: HealthConfig(type="htp"), ConfigError, 'did you mean "http"?'),
    (lambda: Config("lb.toml"), UsageError, 'Config.load("lb.toml") reads a file'),
    (lambda: Config(), ConfigError, "no listener: expected at least one"),
    (lambda: Config(listners={}), ConfigError, 'listners: unknown key (did you mean "listeners"?)'),
    (lambda: Config(listeners={"web": WEB}, pools={"wbe": Pool(["a:1"])}), ConfigError, 'did you mean "wbe"?'),
    (lambda: LoadBalancer("lb.toml"), UsageError, 'LoadBalancer(Config.load("lb.toml"))'),
    (lambda: LoadBalancer({"listeners": {}}), UsageError, "LoadBalancer(Config(**settings))"),
    (lambda: LoadBalancer(None), UsageError, "expected a Config, not NoneType"),
    (lambda: LoadBalancer(object), UsageError, "expected a Config, not type"),
]


@pytest.mark.parametrize(("call", "kind", "message"), WRONG)
def test_a_wrong_call_says_what_to_write(call: Callable[[], Any], kind: type[L4lbError], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, "no traceback of pydantic's"


def test_every_problem_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Config(listeners={"web": {**WEB, "bnd": 1}}, pools={"web": {"backends": ["a"], "polcy": "x"}})
    paths = {problem.path for problem in caught.value.problems}
    assert paths == {"listeners.web.bnd", "pools.web.backends[0]", "pools.web.polcy"}


def test_reprs_fit_a_line() -> None:
    assert repr(Backend("10.0.0.1:80", weight=2)) == "Backend(address='10.0.0.1:80', weight=2)"
    assert repr(Pool([f"a:{port}" for port in range(1, 100)])).endswith("Backend(address='a:3'), ... 96 more])")
    config = Config(listeners={"web": WEB}, pools={"web": Pool(["a:1"])})
    assert repr(config) == "<Config listeners web; pools web>"
    assert repr(Config.loads(config.dumps(), file="lb.toml")) == "<Config lb.toml: listeners web; pools web>"
