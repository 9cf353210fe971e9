"""The Python face of the data plane."""

from __future__ import annotations

import pytest

from l4lb import _fastpath
from l4lb.model.snapshot import HashKey, Selection
from l4lb.model.states import CloseReason


def test_close_reasons_are_the_native_enum_in_its_order() -> None:
    with open("l4lb/_dataplane/enums.pxd", encoding="utf-8") as file:
        lines = [line.split("=")[0].strip() for line in file if line.strip().startswith("CLOSE_")]
    native = [line.removeprefix("CLOSE_").lower() for line in lines]
    assert native == [*CloseReason, "reason_count"]
    assert len(CloseReason) == _fastpath.CLOSE_REASONS


def test_every_enum_is_known_on_both_sides() -> None:
    assert set(_fastpath.SELECTIONS) == set(Selection)
    assert set(_fastpath.HASH_KEYS) == set(HashKey)


def test_a_backend_address_that_is_too_long_is_refused() -> None:
    plane = _fastpath.DataPlane(1, 0)
    pool = {
        "live": _fastpath.PoolLive(plane, 0),
        "selection": 0,
        "backends": [(_fastpath.BackendLive(plane, 1), bytes(200), 1, 0)],
    }
    with pytest.raises(ValueError, match="sockaddr_storage"):
        _fastpath.NativePool(pool)
    plane.finish()
