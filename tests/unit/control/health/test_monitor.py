"""Which targets there are: shared by pools, apart where they differ, an error where they cannot be checked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from l4lb import Listener, Pool
from l4lb.config.options.models import Options
from l4lb.control.checks.checks import Target
from l4lb.control.health.monitor import Monitor
from l4lb.control.state.events import Events
from l4lb.control.state.state import initial_state
from l4lb.errors import ConfigError

EXEC = {"type": "exec", "command": ["/bin/true"]}


def targets(*pools: dict[str, Any]) -> list[Target]:
    named = {f"pool{index}": Pool(**pool) for index, pool in enumerate(pools)}
    config = Options(listeners={"web": Listener(bind="127.0.0.1:0", pool="pool0")}, pools=named)
    monitor = Monitor(initial_state(config), Events(), lambda *_: None, lambda *_: None)
    return [checker.target for checker in monitor.checkers]


def pool(address: str = "127.0.0.1:80", **options: Any) -> dict[str, Any]:
    return {"backends": [address], **options}


def test_pools_share_the_checks_of_an_address() -> None:
    assert len(targets(pool(), pool())) == 1
    http = {"type": "http", "headers": {"a": "b"}}
    assert len(targets(pool(health=http), pool(health=http), pool())) == 2


def test_checks_from_elsewhere_are_others() -> None:
    found = targets(pool(), pool(source_address="127.0.0.9"))
    assert [target.source and target.source.host for target in found] == [None, "127.0.0.9"]


def test_checks_that_tell_the_pool_are_each_pools_own() -> None:
    assert [target.pool for target in targets(pool(health=EXEC), pool(health=EXEC), pool())] == ["pool0", "pool1", ""]


def test_what_needs_no_port() -> None:
    assert len(targets(pool("127.0.0.1:0", health=EXEC))) == 1
    with pytest.raises(ConfigError, match="cannot be checked without a port"):
        targets(pool("127.0.0.1:0"))


def test_a_unix_socket_gets_no_datagrams() -> None:
    with pytest.raises(ConfigError, match='unix:/run/x cannot be checked with type "dns": expected a host and port'):
        targets(pool("unix:/run/x", health={"type": "dns", "name": "a.example"}))
    dns = {"type": "dns", "name": "a.example", "address": "127.0.0.1:53"}
    assert len(targets(pool("unix:/run/x", health=dns))) == 1


def test_a_change_of_one_backend_leaves_the_checks_of_others_alone() -> None:
    config = Options(
        listeners={"web": Listener(bind="127.0.0.1:0", pool="web")},
        pools={"web": Pool(backends=[f"127.0.0.1:{port}" for port in (1, 2, 3)])},
    )
    state = initial_state(config)
    monitor = Monitor(state, Events(), lambda *_: None, lambda *_: None)
    one, two, three = monitor.checkers
    web = state.pools["web"]
    moved = replace(two.target, address=replace(two.target.address, port=9))
    del web.backends["127.0.0.1:3"]
    monitor.update_backends(web, ["127.0.0.1:2"], {"127.0.0.1:2": moved})
    assert monitor.checkers[0] is one
    assert [checker.target for checker in monitor.checkers] == [one.target, moved]
    assert (len(one.listeners), two.listeners, three.listeners) == (1, [], [])
    monitor.update_backends(web, ["127.0.0.1:2"], {})
    assert monitor.checkers == [one], "no target: no check"


def test_a_backend_takes_over_the_checks_of_one_that_leaves_the_same_address() -> None:
    config = Options(
        listeners={"web": Listener(bind="127.0.0.1:0", pool="web")},
        pools={"web": Pool(backends=["127.0.0.1:1", "127.0.0.1:2"])},
    )
    state = initial_state(config)
    monitor = Monitor(state, Events(), lambda *_: None, lambda *_: None)
    first, second = monitor.checkers
    web = state.pools["web"]
    monitor.update_pool(web, {"127.0.0.1:2": first.target})
    assert monitor.checkers == [first]
    assert second.listeners == []
