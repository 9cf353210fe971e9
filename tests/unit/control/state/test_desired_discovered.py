"""The layer between the file and runtime changes: what sources discovered, and what wins over what."""

from __future__ import annotations

from typing import Any

import pytest

from l4lb import ChangeError, Config
from l4lb.config import Backend
from l4lb.control.state.desired import (
    Desired,
    restored,
    restored_discovered,
    saved,
    saved_discovered,
)
from tests.support.balancing import make_config

A, B, C, D = (f"127.0.0.1:{port}" for port in range(1, 5))


def file(*backends: Any, **pool: Any) -> Config:
    return make_config(list(backends), discovery={"type": "file", "path": "/x"}, **pool)


def found(*backends: Any) -> tuple[Backend, ...]:
    return tuple(Backend(**({"address": one} if isinstance(one, str) else one)) for one in backends)


def wanted(desired: Desired) -> dict[str, tuple[int, str]]:
    return {one.key: (one.weight, one.admin_state) for one in desired.config.pools["web"].backends}


def test_the_files_backends_come_first_then_those_that_were_discovered() -> None:
    desired = Desired.of(file(A)).with_discovered("web", found(B, {"address": C, "weight": 5}))
    assert list(wanted(desired).items()) == [(A, (1, "ready")), (B, (1, "ready")), (C, (5, "ready"))]
    assert wanted(desired.with_discovered("web", found(C))) == {A: (1, "ready"), C: (1, "ready")}


def test_one_that_both_name_is_the_files_in_every_key_and_stays() -> None:
    desired = Desired.of(file({"address": A, "weight": 3, "id": "one"})).with_discovered(
        "web", found({"address": A, "weight": 9, "admin_state": "drain"}, B)
    )
    assert wanted(desired) == {"one": (3, "ready"), B: (1, "ready")}
    assert wanted(desired.with_discovered("web", found(B))) == {"one": (3, "ready"), B: (1, "ready")}


def test_a_change_of_a_discovered_backend_holds_until_its_source_says_otherwise() -> None:
    desired = Desired.of(file(A)).with_discovered("web", found(B, C))
    desired = desired.with_backend("web", B, {"weight": 7, "admin_state": "drain"})
    desired = desired.with_discovered("web", found(B, C, D))
    assert wanted(desired)[B] == (7, "drain")
    assert wanted(desired.with_discovered("web", found({"address": B, "weight": 2}, C)))[B] == (2, "drain")
    gone = desired.with_discovered("web", found(C))
    assert B not in wanted(gone)
    assert wanted(gone.with_discovered("web", found(B, C)))[B] == (1, "ready"), "what is named anew is new"


def test_one_that_was_removed_stays_removed_while_its_source_names_it() -> None:
    desired = Desired.of(file(A)).with_discovered("web", found(B, C)).without_backend("web", B)
    assert list(wanted(desired)) == [A, C]
    desired = desired.with_discovered("web", found(D, B, C))
    assert list(wanted(desired)) == [A, D, C]
    assert wanted(desired.with_discovered("web", found({"address": B, "weight": 2})))[B] == (2, "ready")
    assert wanted(desired.with_backend("web", B, {}))[B] == (1, "ready")
    back = desired.with_discovered("web", found(C)).with_discovered("web", found(B, C))
    assert list(wanted(back)) == [A, B, C]


def test_one_that_was_added_becomes_the_sources_when_it_names_it() -> None:
    desired = Desired.of(file(A)).with_backend("web", B, {"weight": 4})
    assert wanted(desired.with_discovered("web", found(C)))[B] == (4, "ready")
    named = desired.with_discovered("web", found({"address": B, "weight": 2}))
    assert wanted(named)[B] == (2, "ready")
    assert list(wanted(named.with_discovered("web", found(C)))) == [A, C]


def test_a_reload_keeps_what_was_discovered_while_the_pool_has_discovery() -> None:
    desired = Desired.of(file(A)).with_discovered("web", found(B)).with_backend("web", B, {"weight": 7})
    again = desired.reloaded(file(C))
    assert wanted(again) == {C: (1, "ready"), B: (7, "ready")}
    other = make_config([A], discovery={"type": "file", "path": "/another"})
    assert B in wanted(desired.reloaded(other)), "until the new source has answered"
    without = desired.reloaded(make_config([A]))
    assert (list(wanted(without)), without.overlay, without.discovered) == ([A], {}, {})
    new = desired.reloaded(file(A), {"web": found(D)})
    assert list(wanted(new)) == [A, D]


def test_changes_of_backends_that_nobody_named_yet_wait_for_the_first_answer() -> None:
    """As after a restart, from the state file."""
    desired = Desired.of(file(A)).with_discovered("web", found(B, C))
    desired = desired.with_backend("web", B, {"admin_state": "drain"}).without_backend("web", C)
    later = Desired.of(file(A), restored(saved(desired.overlay)))
    assert list(wanted(later)) == [A]
    assert later.overlay == desired.overlay
    later = later.with_backend("web", A, {"weight": 2})
    assert wanted(later.with_discovered("web", found(B, C))) == {A: (2, "ready"), B: (1, "drain")}
    assert wanted(later.with_discovered("web", found(D))) == {A: (2, "ready"), D: (1, "ready")}
    assert "drain" not in str(later.with_discovered("web", found(D)).overlay)


def test_another_process_starts_with_what_was_discovered() -> None:
    desired = Desired.of(file(A)).with_discovered("web", found(B, {"address": C, "weight": 2, "tags": {"a": "b"}}))
    said = saved_discovered(desired.discovered)
    assert said == {"web": [{"address": B}, {"address": C, "weight": 2, "tags": {"a": "b"}}]}
    assert Desired.of(file(A), discovered=restored_discovered(said)).config == desired.config
    with pytest.raises(ValueError, match=r"discovered.web.0.weigth: "):
        restored_discovered({"web": [{"address": B, "weigth": 2}]})
    assert Desired.of(make_config([A]), discovered=desired.discovered).discovered == {}


def test_what_conflicts_is_refused_as_a_whole() -> None:
    desired = Desired.of(file({"address": A, "id": "one"}))
    with pytest.raises(ChangeError, match=r"the same backend as backends\[0\] \(with what was discovered"):
        desired.with_discovered("web", found(B, {"address": C, "id": "one"}))
    six = Desired.of(file("127.0.0.1:9", source_address="127.0.0.1"))
    with pytest.raises(ChangeError, match="cannot be reached from source_address"):
        six.with_discovered("web", found("[::1]:80"))
    with pytest.raises(ChangeError, match="no discovery any more"):
        Desired.of(make_config([A])).with_discovered("web", found(B))
