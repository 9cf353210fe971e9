from __future__ import annotations

from dataclasses import replace

import pytest

from l4lb.cli.fleet.judging import behind, differing, not_drained, not_yet, problems
from l4lb.control.fleet.store import FleetError, Overview
from l4lb.control.state.fleet import BackendCounts, NodeRecord

NODE = NodeRecord(
    "a", 1, "1.0", "running", 3, 3, "", 7, {"web": "x", "api": "y"}, 0, {"web": BackendCounts(1, 1)}, 1.0, False
)


def fleet(**changes: object) -> Overview:
    """Of nodes a and b, which are equal but for these changes of b."""
    return Overview(3, {"a": NODE, "b": replace(NODE, node="b", **changes)})  # type: ignore[arg-type]


def test_nothing_is_wrong_with_equal_nodes() -> None:
    assert list(problems(fleet())) == []
    assert differing(fleet()) == {}


def test_a_node_is_behind_with_its_reason() -> None:
    assert list(problems(fleet(generation=2))) == ["node b is behind: it goes by generation 2"]
    assert list(problems(fleet(generation=2, error="generation 3: no"))) == ["node b is behind: generation 3: no"]
    assert behind(fleet(), replace(NODE, generation=2, state="draining")) == "", "it is about to end"
    assert behind(Overview(0), NODE) == ""


def test_tables_are_compared_between_nodes_with_the_same_configuration() -> None:
    assert differing(fleet(digests={"web": "z", "api": "y"})) == {"web": {"x": ["a"], "z": ["b"]}}
    assert list(problems(fleet(digests={"web": "z"}))) == ["pool web: the tables of a and b differ"]
    assert differing(fleet(digests={"web": "z"}, generation=2)) == {}


def test_what_cannot_be_read_and_what_is_not_there() -> None:
    assert list(problems(Overview(0, broken={"nodes/x": "no JSON"}))) == [
        "there is no configuration: `l4lb fleet config put FILE` makes it",
        "key nodes/x: no JSON",
    ]


def test_who_is_waited_for() -> None:
    assert not_yet(fleet(), 3) == ""
    assert not_yet(fleet(), 4) == "not yet on generation 4: a, b"
    assert not_yet(fleet(generation=4), 4) == "not yet on generation 4: a"
    assert not_yet(fleet(), 2) == "", "somebody has put another one"
    assert not_yet(Overview(1, {"a": NODE}), 1) == "not yet on generation 1: a", "etcd counts from 1 again"
    assert not_yet(fleet(generation=2, state="draining"), 3) == ""
    assert not_yet(fleet(generation=2, newest=2, error="generation 2: old"), 3) == "not yet on generation 3: b"
    with pytest.raises(FleetError, match="node b does not go by generation 3: generation 3: no"):
        not_yet(fleet(generation=2, error="generation 3: no"), 3)


def test_what_a_drain_waits_for() -> None:
    assert not_drained(fleet(), "b") == "node b has not noticed yet"
    assert not_drained(fleet(draining=True, sessions_active=1), "b") == "node b: 1 session left"
    assert not_drained(fleet(draining=True, sessions_active=2), "b") == "node b: 2 sessions left"
    assert not_drained(fleet(draining=True), "b") == ""
    with pytest.raises(FleetError, match="node c is no longer alive"):
        not_drained(fleet(), "c")
