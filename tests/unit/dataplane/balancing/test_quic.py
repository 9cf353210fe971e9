"""QUIC headers and the memory of connection ids, held to a twin in Python and to aioquic."""

from __future__ import annotations

import random

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import pull_quic_header
from hypothesis import given
from hypothesis import strategies as st

from tests.support import quic_twin
from tests.support.quic_twin import long_header, short_header

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")

IDS = st.binary(min_size=1, max_size=20)
ANY_IDS = st.binary(max_size=255)
VERSIONS = st.sampled_from([0, 1, 0x6B3343CF, 0xFF00001D, 0x0A0A0A0A])
LONG = st.builds(long_header, ANY_IDS, ANY_IDS, VERSIONS, st.binary(max_size=30))
SHORT = st.builds(short_header, st.binary(max_size=40))
CUT = st.builds(lambda data, length: data[:length], LONG, st.integers(0, 300))
DATAGRAMS = st.one_of(LONG, SHORT, CUT, st.binary(max_size=80))


@given(DATAGRAMS)
def test_headers_are_read_as_the_twin_reads_them(datagram: bytes) -> None:
    expected = quic_twin.read(datagram)
    found = probe.QuicIds().header(datagram)
    assert found == (expected and (expected.long, expected.version, expected.destination, expected.source))


@given(IDS, st.binary(max_size=20), st.binary(max_size=20), st.booleans())
def test_headers_are_read_as_aioquic_reads_them(destination: bytes, source: bytes, rest: bytes, long: bool) -> None:
    """Of version 1, an Initial without a token."""
    packet = b"\xc0" + long_header(destination, source)[1:] + b"\0" + bytes([len(rest)]) + rest
    datagram = packet if long else short_header(destination, bytes(40))
    theirs = pull_quic_header(Buffer(data=datagram), host_cid_length=len(destination))
    is_long, version, found, from_ = probe.QuicIds().header(datagram)
    assert (version or None) == theirs.version
    assert (found if is_long else found[: len(destination)]) == theirs.destination_cid
    assert from_ == theirs.source_cid


@given(st.dictionaries(IDS, st.integers(1, 2**32 - 1), max_size=20), st.data(), st.integers(0, 2**64 - 1))
def test_ids_are_found_as_the_twin_finds_them(ids: dict[bytes, int], data: st.DataObject, seed: int) -> None:
    memory = probe.QuicIds(seed)
    for id_, backend in ids.items():
        memory.put(id_, 1)
        memory.put(id_, backend)  # the last one holds
    known = st.sampled_from(sorted(ids)) if ids else IDS
    calls = st.one_of(
        st.builds(long_header, known, ANY_IDS), st.builds(short_header, known, st.binary(max_size=30)), DATAGRAMS
    )
    for datagram in data.draw(st.lists(calls, max_size=10)):
        assert memory.find(datagram) == quic_twin.find(ids, datagram)


def test_an_empty_memory_finds_nobody() -> None:
    memory = probe.QuicIds()
    assert memory.find(b"") == memory.find(b"\x40") == memory.find(long_header(b"", b"")) == 0
    assert memory.find(short_header(bytes(20))) == 0


def test_a_full_memory_forgets_one_for_each_new_one_and_finds_the_rest() -> None:
    """Half as many again as there is room for: each bucket keeps eight of about twelve."""
    draw = random.Random(7)
    memory, count = probe.QuicIds(3), probe.QUIC_IDS * 3 // 2
    ids = [draw.randbytes(8) for _ in range(count)]
    for number, id_ in enumerate(ids):
        memory.put(id_, number + 1)
    found = [memory.find(short_header(id_)) for id_ in ids[::16]]
    assert all(who in (0, 16 * number + 1) for number, who in enumerate(found))
    kept = sum(who != 0 for who in found) / len(found)
    assert 0.55 < kept < 0.67  # two thirds, but for buckets that are not full
    assert sum(who != 0 for who in found[-1000:]) > sum(who != 0 for who in found[:1000])


def test_one_bucket_keeps_eight_and_the_newest_is_one_of_them() -> None:
    memory, bucket, draw = probe.QuicIds(), [], random.Random(1)
    while len(bucket) < 12:
        id_ = draw.randbytes(12)
        if memory.hash(id_) % probe.QUIC_BUCKET_COUNT == 5:
            bucket.append(id_)
    for number, id_ in enumerate(bucket, 1):
        memory.put(id_, number)
        assert memory.find(short_header(id_)) == number
        assert sum(memory.find(short_header(one)) != 0 for one in bucket) == min(number, 8)
