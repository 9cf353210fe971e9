"""Chunks keep what they are given, and their free lists stay bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")


@given(st.integers(1, 65536))
def test_round_trip(length: int) -> None:
    chunks = probe.Chunks()
    data = bytes(index % 251 for index in range(length))
    assert chunks.round_trip(data) == data
    assert chunks.out == 0


@pytest.mark.parametrize(("length", "size_class"), [(1, 0), (4096, 0), (4097, 1), (16384, 1), (16385, 2), (65536, 2)])
def test_the_smallest_class_that_fits(length: int, size_class: int) -> None:
    chunks = probe.Chunks()
    chunks.round_trip(bytes(length))
    assert chunks.idle == [int(index == size_class) for index in range(3)]
