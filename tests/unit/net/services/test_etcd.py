from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb.net.services.etcd import prefix_range


def bounds(prefix: str) -> tuple[bytes, bytes]:
    found = prefix_range(prefix)
    return base64.b64decode(found["key"]), base64.b64decode(found["range_end"])


@given(st.text(min_size=1, max_size=5), st.text(max_size=8))
def test_the_range_of_a_prefix_has_the_keys_that_begin_with_it_and_no_others(prefix: str, other: str) -> None:
    first, end = bounds(prefix)
    for key in (prefix, prefix + other, other):
        assert (first <= key.encode() < end) == key.startswith(prefix)


@pytest.mark.parametrize(("prefix", "end"), [("/a/", b"/a0"), ("z", b"{"), ("", b"\0")])
def test_the_end_of_a_range(prefix: str, end: bytes) -> None:
    assert bounds(prefix) == (prefix.encode(), end)
