"""CRC32C, with the CPU's instruction and without, against published vectors and a bit-by-bit twin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb._native import algorithms
from tests.support import proxy_twin

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")

# RFC 3720, appendix B.4 (as numbers; the RFC prints the bytes as they are sent), and the usual check value.
VECTORS = [
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (b"123456789", 0xE3069283),
    (b"", 0),
]


@pytest.mark.parametrize(("data", "expected"), VECTORS)
def test_published_vectors(data: bytes, expected: int) -> None:
    assert algorithms.crc32c(data) == expected
    assert probe.crc32c_without_instruction(data) == expected
    assert proxy_twin.crc32c(data) == expected


@given(st.binary(max_size=300))
def test_with_the_instruction_and_without(data: bytes) -> None:
    expected = proxy_twin.crc32c(data)
    assert algorithms.crc32c(data) == expected
    assert probe.crc32c_without_instruction(data) == expected
