"""The rule: what was changed at runtime survives a reload where the file does not contradict it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb import ChangeError, Config, ConfigError
from l4lb.control.state.desired import Desired, Override
from tests.support.balancing import make_config

A, B, C = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"


def entry(address: str = A, **settings: Any) -> dict[str, Any]:
    return {"address": address, **settings}


def file(*backends: Any, **pool: Any) -> Config:
    return make_config(list(backends), **pool)


def wanted(desired: Desired) -> dict[str, tuple[int, str]]:
    return {one.key: (one.weight, one.admin_state) for one in desired.config.pools["web"].backends}


def test_nothing_changed_is_the_file_itself() -> None:
    config = file(A)
    assert Desired.of(config).config is config


def test_a_key_holds_until_the_files_own_value_for_it_changes() -> None:
    desired = Desired.of(file(entry(weight=2), B)).with_backend("web", A, {"weight": 7, "admin_state": "drain"})
    assert wanted(desired) == {A: (7, "drain"), B: (1, "ready")}
    same = desired.reloaded(file(entry(weight=2, max_sessions=5), B, C))
    assert wanted(same) == {A: (7, "drain"), B: (1, "ready"), C: (1, "ready")}
    assert same.config.pools["web"].backends[0].max_sessions == 5
    other = same.reloaded(file(entry(weight=3), B))
    assert wanted(other) == {A: (3, "drain"), B: (1, "ready")}
    back = other.reloaded(file(entry(weight=2), B))
    assert wanted(back)[A] == (2, "drain"), "what was contradicted once does not come back"


def test_an_added_backend_stays_unless_the_file_names_it_or_its_pool_is_gone() -> None:
    desired = Desired.of(file(A)).with_backend("web", B, {"weight": 4})
    assert wanted(desired.reloaded(file(A, C))) == {A: (1, "ready"), C: (1, "ready"), B: (4, "ready")}
    assert wanted(desired.reloaded(file(A, entry(B, weight=9)))) == {A: (1, "ready"), B: (9, "ready")}
    assert desired.reloaded(file(A, B)).reloaded(file(A)).overlay == {}
    elsewhere = file(A).model_copy(update={"pools": {"api": file(A).pools["web"]}})
    assert desired.reloaded(elsewhere).overlay == {}


def test_a_removed_backend_stays_removed_until_its_entry_changes() -> None:
    desired = Desired.of(file(A, B)).without_backend("web", A)
    assert list(wanted(desired)) == [B]
    assert list(wanted(desired.reloaded(file(C, A, B)))) == [C, B]
    assert wanted(desired.reloaded(file(entry(weight=2), B))) == {A: (2, "ready"), B: (1, "ready")}
    assert desired.reloaded(file(B)).overlay == {}


def test_what_comes_back_is_as_the_file_has_it() -> None:
    desired = Desired.of(file(entry(weight=5, id="a"), B)).with_backend("web", "a", {"weight": 9})
    gone = desired.without_backend("web", A)
    assert list(wanted(gone)) == [B]
    for name in ("a", A):
        assert wanted(gone.with_backend("web", name, {}))["a"] == (5, "ready")
        assert wanted(gone.with_backend("web", name, {"admin_state": "maint"}))["a"] == (5, "maint")
    with pytest.raises(ChangeError, match="another backend of the file"):
        gone.with_backend("web", C, {"id": "a"})


def test_an_added_one_that_is_removed_leaves_nothing() -> None:
    desired = Desired.of(file(A)).with_backend("web", B, {}).without_backend("web", B)
    assert desired.overlay == {}
    assert wanted(desired) == {A: (1, "ready")}


def test_what_is_set_to_the_files_value_is_no_change() -> None:
    desired = Desired.of(file(A)).with_backend("web", A, {"weight": 3}).with_backend("web", A, {"weight": 1})
    assert desired.overlay == {}


def test_the_last_backend_may_go() -> None:
    assert wanted(Desired.of(file(A)).without_backend("web", A)) == {}


WRONG: dict[str, tuple[str, str, dict[str, Any], str, str]] = {
    "no pool": ("api", A, {}, "not_found", 'no pool "api"'),
    "value": ("web", A, {"weight": -1}, "invalid", r"pools\.web\.backends\[127\.0\.0\.1:1\]\.weight: -1: expected"),
    "key": ("web", A, {"wieght": 1}, "invalid", r'wieght: unknown key \(did you mean "weight"'),
    "address": ("web", "here", {}, "invalid", r'backends\[here\]\.address: "here": expected "host:port"'),
    "identity": ("web", A, {"id": "x"}, "conflict", "cannot change: it is what the backend is known by"),
    "moved": ("web", A, {"address": C}, "conflict", "cannot change"),
    "other address": ("web", C, {"address": A}, "conflict", "is added by its address"),
    "taken id": ("web", C, {"id": B}, "conflict", "is the backend at"),
    "family": ("web", "[::1]:1", {}, "conflict", "cannot be reached from source_address"),
    "null": ("web", A, {"weight": None}, "invalid", "weight"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_an_error_with_its_place(case: str) -> None:
    pool, backend, settings, code, message = WRONG[case]
    desired = Desired.of(file(A, B, source_address="127.0.0.1"))
    with pytest.raises(ChangeError, match=message) as caught:
        desired.with_backend(pool, backend, settings)
    assert caught.value.code == code


def test_an_address_of_several_is_not_one() -> None:
    desired = Desired.of(file(entry(id="a"), entry(id="b")))
    with pytest.raises(ChangeError, match=r"several backends .* one of a, b"):
        desired.without_backend("web", A)
    with pytest.raises(ChangeError, match="no backend"):
        desired.without_backend("web", C)


def test_a_sound_file_that_does_not_go_with_a_runtime_change_is_an_error() -> None:
    desired = Desired.of(file(A)).with_backend("web", "[::1]:1", {})
    with pytest.raises(ConfigError, match=r"::1.*cannot be reached from source_address .*changed at runtime"):
        desired.reloaded(file(A, source_address="127.0.0.1"))


KEYS = st.sampled_from([A, B, C])
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.fixed_dictionaries({}, optional={"weight": st.integers(0, 3)})),
        st.tuples(st.just("remove"), KEYS, st.just({})),
    ),
    max_size=8,
)
FILES = st.lists(st.tuples(KEYS, st.integers(0, 2)), min_size=1, max_size=3, unique_by=lambda one: one[0])


@given(FILES, CHANGES)
def test_a_reload_of_the_same_file_changes_nothing(named: list[tuple[str, int]], changes: list[Any]) -> None:
    config = file(*(entry(address, weight=weight) for address, weight in named))
    desired = Desired.of(config)
    for verb, backend, settings in changes:
        if verb == "put":
            desired = desired.with_backend("web", backend, settings)
        elif desired.find("web", backend) is not None:
            desired = desired.without_backend("web", backend)
    again = desired.reloaded(config.model_copy(deep=True))
    assert (again.overlay, again.config.pools) == (desired.overlay, desired.config.pools)
    assert all(isinstance(one, Override) for pool in again.overlay.values() for one in pool.values())
