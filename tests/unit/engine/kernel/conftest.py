"""What every test of forwarding in the kernel is held to: it leaves no map, program or link behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.support import bpf


@pytest.fixture(autouse=True)
def nothing_stays_in_the_kernel() -> Iterator[None]:
    before = bpf.held()
    yield
    gc.collect()
    assert bpf.held() == before
