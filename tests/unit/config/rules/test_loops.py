"""Backends that lead back to the pool that they are in."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from l4lb import Listener, Pool
from l4lb.config import AdminConfig
from l4lb.config.options.models import Options
from l4lb.config.rules.loops import loop_conflicts
from tests.support.balancing import NO_CHECKS


def config_of(listeners: dict[str, tuple[str, str]], pools: dict[str, list[str]], **listener: Any) -> Options:
    """Listeners are (bind, pool)."""
    return Options(
        admin=AdminConfig(bind="off"),
        listeners={name: Listener(bind=bind, pool=pool, **listener) for name, (bind, pool) in listeners.items()},
        pools={name: Pool(backends=backends, health=NO_CHECKS) for name, backends in pools.items()},
    )


def found(config: Options, **more: Any) -> list[str]:
    return [f"{path[1]}.{path[3]} {message.split()[3]}" for path, message in loop_conflicts(config, **more)]


@pytest.mark.parametrize(
    ("bind", "backend", "loops"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        (":80", "127.0.0.2:80", True),
        (":80", "[::1]:80", True),
        ("[::]:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "[::1]:80", False),
        ("0.0.0.0:80", "192.0.2.1:80", False),
        (":80", "0.0.0.0:80", True),
        ("[::1]:80", "[0:0::1]:80", True),
        ("127.0.0.1:80-90", "127.0.0.1:85", True),
        ("127.0.0.1:80-90", "127.0.0.1:0", True),
        ("127.0.0.1:80-90", "127.0.0.2:0", False),
        ("127.0.0.1:0", "127.0.0.1:80", False),
        ("unix:/run/a", "unix:/run/a", True),
        ("unix:/run/a", "unix:/run/b", False),
    ],
)
def test_a_backend_that_is_its_own_listener(bind: str, backend: str, loops: bool) -> None:
    assert found(config_of({"web": (bind, "web")}, {"web": ["10.0.0.1:1", backend]})) == ['web.1 "web"'] * loops


def test_an_address_of_this_host_and_a_wildcard() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has loopback alone")
        own = sock.getsockname()[0]
    assert found(config_of({"web": (":80", "web")}, {"web": [f"{own}:80"]})) == ['web.0 "web"']


def test_one_tier_behind_another_is_none_and_a_circle_is() -> None:
    listeners = {"front": ("127.0.0.1:80", "front"), "back": ("127.0.0.1:81", "back")}
    assert found(config_of(listeners, {"front": ["127.0.0.1:81"], "back": ["10.0.0.1:1"]})) == []
    circle = config_of(listeners, {"front": ["127.0.0.1:81"], "back": ["127.0.0.1:80"]})
    assert found(circle) == ['front.0 "back"', 'back.0 "front"']
    assert found(circle, pools=["back"]) == ['back.0 "front"']


def test_the_most_specific_listener_is_the_one_that_is_met() -> None:
    listeners = {"wide": (":80", "wide"), "narrow": ("127.0.0.1:80", "narrow")}
    assert found(config_of(listeners, {"wide": ["127.0.0.1:80"], "narrow": ["10.0.0.1:1"]})) == []


def test_names_count_when_they_are_looked_up() -> None:
    config = config_of({"web": ("127.0.0.1:80", "web")}, {"web": ["db.example:80"]})
    assert found(config) == []
    assert found(config, resolve=lambda name: [(socket.AF_INET, "127.0.0.1")]) == ['web.0 "web"']


def with_pool(config: Options, name: str, backends: list[str]) -> Options:
    """As a change at runtime makes it: the same listeners."""
    pool = config.pools[name].model_copy(update={"backends": Pool(backends=backends).backends})
    return config.model_copy(update={"pools": {**config.pools, name: pool}})


def test_of_a_change_only_new_backends_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("l4lb.config.rules.loops.is_own_address", lambda host: asked.append(host) or False)
    before = config_of({"web": ("0.0.0.0:80", "web")}, {"web": [f"10.0.0.{number}:80" for number in range(100)]})
    after = with_pool(before, "web", [f"10.0.0.{number}:80" for number in range(1, 101)])
    assert found(after, before=before) == []
    assert asked == ["10.0.0.100"]
    asked.clear()
    again = after.model_copy(update={"listeners": {"web": Listener(bind="0.0.0.0:80", pool="web")}})
    assert found(again, before=before) == []
    assert len(asked) == 100, "other listeners: all of them"


def test_a_new_backend_that_closes_a_loop_through_known_ones() -> None:
    listeners = {"a": ("127.0.0.1:80", "one"), "b": ("127.0.0.1:81", "two")}
    before = config_of(listeners, {"one": ["127.0.0.1:81"], "two": ["10.0.0.1:1"]})
    assert found(before) == []
    after = with_pool(before, "two", ["10.0.0.1:1", "127.0.0.1:80"])
    assert found(after, pools=["two"], before=before) == ['two.1 "a"']
