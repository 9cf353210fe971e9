"""The ClientHello in QUIC Initials: RFC 9001's own example, aioquic's packets, packets made of parts in any order."""

from __future__ import annotations

import itertools

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicProtocolVersion
from hypothesis import given
from hypothesis import strategies as st

from tests.support import hello_twin
from tests.support.hellos import alpn, extension, message, server_name

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")
VERSIONS = [QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2]
HELLO = message(server_name(b"quic.example") + alpn(b"h3"))
INITIAL = {QuicProtocolVersion.VERSION_1: 0xC0, QuicProtocolVersion.VERSION_2: 0xD0}


def varint(value: int) -> bytes:
    buffer = Buffer(capacity=8)
    buffer.push_uint_var(value)
    return buffer.data


def crypto(offset: int, data: bytes) -> bytes:
    return b"\x06" + varint(offset) + varint(len(data)) + data


def initial(
    frames: bytes, id_: bytes = b"8394c8f0", version: int = 1, number: int = 0, size: int = 4, token: bytes = b""
) -> bytes:
    """A client's Initial, as RFC 9001 protects it, by aioquic's ciphers."""
    keys = CryptoPair()
    keys.setup_initial(cid=id_, is_client=True, version=version)
    first = INITIAL[QuicProtocolVersion(version)] | (size - 1)
    frames = frames.ljust(20, b"\0")
    header = bytes([first]) + version.to_bytes(4, "big") + bytes([len(id_)]) + id_ + b"\0" + varint(len(token)) + token
    header += (0x4000 | (size + len(frames) + 16)).to_bytes(2, "big") + number.to_bytes(size, "big")
    return bytes(keys.encrypt_packet(header, frames, number))


def read(*datagrams: bytes) -> tuple[list[bool], object]:
    hello = probe.QuicHello()
    return [hello.read(one) for one in datagrams], probe.client_hello(hello.whole(), False)


def test_the_first_packet_of_rfc_9001s_appendix() -> None:
    """A.2: its ClientHello, and the protected packet's beginning and end."""
    hello = bytes.fromhex(
        "010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000c000000010000e00"
        "000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e000500050100000000003300260024"
        "001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e04030503060302"
        "03080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ffff0801100104800075300901"
        "100f088394c8f03e51570806048000ffff"
    )
    packet = initial(crypto(0, hello).ljust(1162, b"\0"), bytes.fromhex("8394c8f03e515708"), number=2)
    assert packet.hex().startswith("c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11")
    assert packet.hex().endswith("e221af44860018ab0856972e194cd934")
    assert len(packet) == 1200
    assert read(packet) == ([True], (b"example.com", [b"alpn"]))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("protocols", [["h3"], [f"protocol-{number}" for number in range(150)]])
def test_what_aioquic_sends(version: int, protocols: list[str]) -> None:
    """The second has no room in one datagram."""
    configuration = QuicConfiguration(server_name="a.quic.example", alpn_protocols=protocols, original_version=version)
    client = QuicConnection(configuration=configuration)
    client.connect(("127.0.0.1", 1), now=0.0)
    datagrams = [data for data, _ in client.datagrams_to_send(now=0.0)]
    assert (len(datagrams) > 1) == (len(protocols) > 1)
    for order in (datagrams, datagrams[::-1]):
        readable, found = read(*order)
        assert all(readable)
        assert isinstance(found, tuple)
        assert found[0] == b"a.quic.example"
        assert [one.decode() for one in found[1]] == protocols[: len(found[1])]
    if len(datagrams) > 1:
        assert read(datagrams[0])[1] == read(datagrams[1])[1] == "need_more"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_packet_numbers_tokens_and_ids_of_any_length(version: int, size: int) -> None:
    for id_bytes, token in ((8, b""), (20, b"token" * 20), (1, b"t")):
        packet = initial(crypto(0, HELLO), bytes(range(id_bytes)), version, number=200, size=size, token=token)
        assert read(packet) == ([True], (b"quic.example", [b"h3"]))
        assert read(packet + b"\xc0 what is coalesced behind it") == ([True], (b"quic.example", [b"h3"]))


@given(
    cuts=st.lists(st.integers(1, len(HELLO) - 1), max_size=8, unique=True),
    order=st.randoms(use_true_random=False),
    packets=st.integers(1, 3),
)
def test_parts_in_any_order_over_several_packets(cuts: list[int], order: object, packets: int) -> None:
    edges = [0, *sorted(cuts), len(HELLO)]
    parts = [crypto(low, HELLO[low:high]) for low, high in itertools.pairwise(edges)]
    order.shuffle(parts)  # type: ignore[attr-defined]
    ack = b"\x02\x05\x00\x01\x00\x01\x01" + b"\x03\x05\x00\x00\x00\x01\x02\x03"
    datagrams = [
        initial(ack + b"\x01\0\0".join(parts[number::packets]) + b"\0\1", number=number) for number in range(packets)
    ]
    assert read(*datagrams) == ([True] * packets, (b"quic.example", [b"h3"]))
    assert read(*datagrams, *datagrams) == ([True] * 2 * packets, (b"quic.example", [b"h3"]))


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7), length=st.integers(0, 10_000))
def test_a_packet_that_was_changed_or_cut_says_nothing(at: int, bit: int, length: int) -> None:
    packet = initial(crypto(0, HELLO))
    changed = bytearray(packet)
    changed[at % len(packet)] ^= 1 << bit
    assert read(bytes(changed)) == ([False], "need_more")
    assert read(packet[: length % len(packet)]) == ([False], "need_more")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\x40" + bytes(1200),
        b"\xc0\0\0\0\0" + bytes(1200),
        b"\xe0\0\0\0\x01" + bytes(1200),
        b"\xc0\xff\0\0\x1d" + bytes(1200),
        b"\xc0\0\0\0\x01\x15" + bytes(1200),
        b"\xc0\0\0\0\x01\x08" + bytes(8) + b"\x00\xff" + b"\xff" * 7,
    ],
)
def test_what_is_no_initial_that_can_be_read(data: bytes) -> None:
    assert read(data) == ([False], "need_more")


@pytest.mark.parametrize(
    "frames", [b"\x08", b"\x06\x00\x41\x00", b"\x06\xff", b"\x02\x00\x00\x7f\xff\x00", b"\x06\0\x05abc"]
)
def test_frames_that_no_client_sends(frames: bytes) -> None:
    assert not probe.QuicHello().frames(frames)


def test_a_hello_beyond_sixteen_kilobytes_is_never_whole() -> None:
    hello = probe.QuicHello()
    assert hello.frames(crypto(0, message(extension(51, bytes(17_000)))))
    assert len(hello.whole()) == 16384
    assert hello.frames(crypto(2**40, b"far"))
    assert probe.client_hello(hello.whole(), False) == "not_tls"


@given(data=st.binary(max_size=60), noise=st.binary(max_size=60))
def test_any_frames_are_read_within_their_bounds(data: bytes, noise: bytes) -> None:
    hello = probe.QuicHello()
    hello.frames(crypto(0, data) + noise)
    assert hello.whole()[: len(data)] == data
    assert probe.client_hello(hello.whole(), False) == hello_twin.judge(hello.whole(), records=False)
