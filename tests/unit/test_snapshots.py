"""What workers go by, as Python objects."""

from __future__ import annotations

import pytest

from l4lb._native import snapshots
from l4lb.model.snapshot import HashKey, Selection
from l4lb.model.stats import PROXY_REFUSALS
from l4lb.proxy_protocol import Accept, Reason


def test_every_enum_is_known_on_both_sides() -> None:
    assert set(snapshots.SELECTIONS) == set(Selection)
    assert set(snapshots.HASH_KEYS) == set(HashKey)
    assert list(snapshots.PROXY_MODES) == list(Accept)
    assert list(snapshots.PROXY_MODES.values()) == [0, 1, 2, 3]
    assert (*Reason, "untrusted", "timeout") == PROXY_REFUSALS
    assert len(PROXY_REFUSALS) == snapshots.PROXY_REFUSALS


def test_a_backend_address_that_is_too_long_is_refused() -> None:
    pool = {
        "live": snapshots.PoolLive(1, 0),
        "selection": 0,
        "backends": [(snapshots.BackendLive(1, 1), bytes(200), 1, 0, True)],
    }
    with pytest.raises(ValueError, match="sockaddr_storage"):
        snapshots.NativePool(pool)
