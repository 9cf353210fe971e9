"""What workers go by, as Python objects."""

from __future__ import annotations

import dataclasses

import pytest

from l4lb._native import snapshots, specs
from l4lb.engine.fields import pool_fields
from l4lb.model.snapshot import HashKey, PoolSpec, Selection
from l4lb.model.stats import PROXY_REFUSALS
from l4lb.proxy_protocol import Accept, Reason


def test_every_enum_is_known_on_both_sides() -> None:
    assert set(snapshots.SELECTIONS) == set(Selection)
    assert set(snapshots.HASH_KEYS) == set(HashKey)
    assert list(snapshots.PROXY_MODES) == list(Accept)
    assert list(snapshots.PROXY_MODES.values()) == [0, 1, 2, 3]
    assert (*Reason, "untrusted", "timeout") == PROXY_REFUSALS
    assert len(PROXY_REFUSALS) == snapshots.PROXY_REFUSALS


@pytest.mark.parametrize(
    "wrong", [{"queue_size": "many"}, {"hash_seed": -1}, {"source": "127.0.0.1"}, {"proxy_send": None}, {"first": None}]
)
def test_a_field_of_another_kind_is_refused(wrong: dict[str, object]) -> None:
    pool = pool_fields(PoolSpec("p", Selection.CURSOR, (), (), ()), snapshots.PoolLive(1, 0), [])
    snapshots.NativePool(pool)
    with pytest.raises((AttributeError, OverflowError, TypeError)):
        snapshots.NativePool(dataclasses.replace(pool, **wrong))  # type: ignore[arg-type]


def test_a_backend_address_that_is_too_long_is_refused() -> None:
    live = snapshots.PoolLive(1, 0)
    backend = specs.Backend(snapshots.BackendLive(1, 1), bytes(200), 1, 0, True)
    spec = PoolSpec("p", Selection.CURSOR, (), (), ())
    with pytest.raises(ValueError, match="sockaddr_storage"):
        snapshots.NativePool(pool_fields(spec, live, [backend]))
