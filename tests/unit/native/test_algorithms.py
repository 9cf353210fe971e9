"""The data plane's pure functions against their twins (tables: `tests/unit/dataplane/tables/test_tables.py`)."""

from __future__ import annotations

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from l4lb._native import algorithms
from l4lb.model.snapshot import TableKind


@given(st.binary(max_size=200), st.integers(0, 2**64 - 1))
def test_xxh64_is_xxhash(data: bytes, seed: int) -> None:
    assert algorithms.xxh64(data, seed) == xxhash.xxh64_intdigest(data, seed=seed)


def test_every_table_kind_is_known_on_both_sides() -> None:
    assert set(algorithms.TABLE_KINDS) == set(TableKind)
