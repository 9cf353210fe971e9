"""Pools with hash_key quic_cid: clients that begin are hashed as the proxy does, and those that come from another
address are found by the connection id that they use."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import xxhash

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from array import array

from l4lb.model.snapshot import HashKey
from l4lb.routing.hashing import client_hash
from tests.support.frames import UDP, Frame
from tests.support.kernel import DROPPED, LINKS, PROGRAMS, SLOTS, Kernel, kernel, on_a_host, request
from tests.support.quic_twin import long_header, short_header

EACH = pytest.mark.parametrize("program", PROGRAMS)
EACH_MODE = pytest.mark.parametrize("mode", ["nat", "dsr", "tunnel"])
SEED = 5
REST = bytes(30)


def packet(payload: bytes, family: int = 4, number: int = 7) -> Frame:
    return request(family, UDP, number, payload)


def expected(asked: Frame, connection_id: bytes) -> str:
    found = client_hash(
        HashKey.QUIC_CID, (asked.source, 0), (asked.destination, 0), seed=SEED, connection_id=connection_id
    )
    return list(LINKS)[SLOTS[found % len(SLOTS)]]


def other_slots() -> array[int]:
    """By which everybody that is new goes elsewhere."""
    return array("I", [(slot + 1) % 3 for slot in SLOTS])


def learns(made: Kernel, given: bytes, family: int = 4, number: int = 7) -> str:
    """A handshake: the client begins, and calls its server by the id `given` after that. Where it is."""
    backend = made.goes_to(packet(long_header(b"drawn by it", b"its own", rest=REST), family, number))
    assert made.goes_to(packet(long_header(given, b"its own", rest=REST), family, number)) == backend
    return backend


@EACH
def test_a_client_that_begins_is_hashed_by_the_id_it_drew(program: str) -> None:
    def check() -> None:
        draw = random.Random(1)
        with kernel(program, "dsr", hash_key=HashKey.QUIC_CID, hash_seed=SEED) as made:
            for family in (4, 6):
                for length in range(21):
                    for number in range(1, 5):
                        id_ = draw.randbytes(length)
                        asked = packet(long_header(id_, draw.randbytes(length), rest=REST), family, number)
                        asked = replace(asked, source_port=draw.randrange(1, 65536))
                        assert made.goes_to(asked) == expected(asked, id_), length

    on_a_host(check)


NONE = {
    "empty": b"",
    "one byte": b"\xc3",
    "no id": b"\xc3\0\0\0\1",
    "id cut off": long_header(b"12345678", b"")[:10],
    "no other id": long_header(b"12345678", b"")[:-1],
    "other id cut off": long_header(b"12345678", b"12345678")[:-1],
    "long id": long_header(bytes(21), b"", rest=REST),
    "short header": short_header(b"12345678", REST),
}


@EACH
@pytest.mark.parametrize("payload", NONE.values(), ids=list(NONE))
def test_what_names_no_connection_is_hashed_by_its_address(program: str, payload: bytes) -> None:
    def check() -> None:
        with kernel(program, "dsr", hash_key=HashKey.QUIC_CID, hash_seed=SEED) as made:
            for family in (4, 6):
                for number in range(1, 20):
                    asked = packet(payload, family, number)
                    assert made.goes_to(asked) == expected(asked, b"")

    on_a_host(check)


@EACH
@EACH_MODE
def test_a_client_that_moves_stays_with_its_backend(program: str, mode: str) -> None:
    def check() -> None:
        draw = random.Random(2)
        clients = {(family, length): draw.randbytes(length) for family in (4, 6) for length in (4, 8, 17, 20)}
        with kernel(program, mode, hash_key=HashKey.QUIC_CID, hash_seed=SEED) as made:
            backends = {client: learns(made, given, *client) for client, given in clients.items()}
            made.publish(other_slots())
            for (family, length), given in clients.items():
                backend = backends[family, length]
                moved = packet(short_header(given, REST), family, 100 + length)
                assert made.goes_to(moved) == backend
                later = packet(short_header(b"another id of the client", REST), family, 100 + length)
                assert made.goes_to(later) == backend  # it is a flow now
                again = packet(long_header(given, b"", rest=REST), family, 150 + length)
                assert made.goes_to(again) == backend

    on_a_host(check)


@EACH
def test_an_id_is_nobody_elses(program: str) -> None:
    """While its backend is there: forged packets cannot take it away. After that it may be learned anew."""

    def check() -> None:
        with kernel(program, "dsr", hash_key=HashKey.QUIC_CID, hash_seed=SEED) as made:
            backend = learns(made, b"the id in question")
            forged = next(
                packet(long_header(bytes([drawn]) * 8, b"", rest=REST), number=100 + drawn)
                for drawn in range(100)
                if list(LINKS)[SLOTS[xxhash.xxh64_intdigest(bytes([drawn]) * 8, seed=SEED) % len(SLOTS)]] != backend
            )
            other = made.goes_to(forged)
            assert other != backend
            claim = replace(forged, payload=long_header(b"the id in question", b"", rest=REST))
            assert made.goes_to(claim) == other
            assert made.goes_to(packet(short_header(b"the id in question", REST), number=90)) == backend
            made.forwarder.leave("udp4", [backend])
            assert made.goes_to(claim) == other
            assert made.goes_to(packet(short_header(b"the id in question", REST), number=91)) == other

    on_a_host(check)


@EACH
def test_what_is_not_learned(program: str) -> None:
    """Short ids, of which one could have all; what Version Negotiation calls by; the id of a client that begins."""

    def check() -> None:
        with kernel(program, "dsr", hash_key=HashKey.QUIC_CID, hash_seed=SEED) as made:
            learns(made, b"a known one")
            learns(made, b"abc", number=8)
            backend = made.goes_to(packet(long_header(b"drawn", b""), number=9))
            assert made.goes_to(packet(long_header(b"negotiated", b"", version=0), number=9)) == backend
            for number in range(20, 60):
                for id_ in (b"abc", b"negotiated", b"drawn"):
                    asked = replace(packet(short_header(id_, REST), number=number), source_port=len(id_))
                    assert made.goes_to(asked) == expected(asked, b"")

    on_a_host(check)


@EACH
def test_services_do_not_share_ids(program: str) -> None:
    def check() -> None:
        with kernel(program, "dsr", hash_key=HashKey.QUIC_CID, hash_seed=SEED) as made:
            learns(made, b"an id of one")
            for prefix in ("other-", "third-"):
                made.publish(other_slots(), prefix=prefix)
                asked = packet(short_header(b"an id of one", REST), number=77)
                asked = replace(asked, source_port=len(prefix) + sum(prefix.encode()))
                found = client_hash(HashKey.QUIC_CID, (asked.source, 0), (asked.destination, 0), seed=SEED)
                assert made.goes_to(asked) == list(LINKS)[other_slots()[found % len(SLOTS)]]
            assert made.sees(replace(packet(b""), hops=1))[0] == DROPPED[program]

    on_a_host(check)
