"""The native PROXY parser against its twin in Python: any bytes, in any pieces. Sections: proxy-protocol.txt."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support import proxy_twin
from tests.support.proxy_headers import MODES, V4, damaged, headers, lines, native, tlv, v2, v2_headers
from tests.support.proxy_twin import SIGNATURE, Seen


def agree(data: bytes, accept: str) -> Seen | str:
    found = native(data, accept)
    assert found == proxy_twin.judge(data, accept), data
    return found


@given(headers, st.binary(max_size=20), st.sampled_from(MODES))
def test_native_equals_python_on_headers(header: bytes, payload: bytes, accept: str) -> None:
    agree(header + payload, accept)


@settings(max_examples=1000)
@given(damaged(), st.sampled_from(MODES))
@example(b"PROXY TCP6 1:2:3:4:5:6:7:: ::1.2.3.4 0 1\r\n", "any")
@example(b"PROXY TCP6 1:2:3:4::5:6:7:8 :: 0 1\r\n", "any")
@example(b"PROXY TCP6 ::0123.1.1.1 :: 0 1\r\n", "any")
def test_native_equals_python_on_damaged_headers(data: bytes, accept: str) -> None:
    agree(data, accept)


@given(st.sampled_from([b"", b"PROXY ", b"PROXY TCP6 ", b"PROXY UNKNOWN", SIGNATURE, v2(0x11, V4)[:16]]), st.binary())
def test_native_equals_python_on_any_bytes(beginning: bytes, data: bytes) -> None:
    for accept in MODES:
        agree(beginning + data, accept)


@settings(max_examples=150, deadline=None)
@given(st.one_of(damaged(), headers), st.sampled_from(MODES))
def test_every_piece_of_a_stream_is_in_need_of_more_or_judged_like_the_whole(data: bytes, accept: str) -> None:
    """2: the receiver may be tolerant to partial headers; a refusal comes at the first byte that cannot be."""
    whole = native(data, accept)
    judged = False
    for length in range(len(data) + 1):
        piece = agree(data[:length], accept)
        judged = judged or piece != "need_more"
        assert piece == (whole if judged else "need_more"), length


@given(st.one_of(v2_headers, lines), st.binary(max_size=20))
def test_a_header_is_complete_with_its_last_byte_and_not_before(header: bytes, payload: bytes) -> None:
    """2: MUST NOT start processing before the header is complete."""
    found = native(header + payload)
    if isinstance(found, Seen):
        assert found.length == len(header)
        assert native(header) == found
        assert native(header[:-1]) == "need_more"
    else:
        assert found in ("bad_line_end", "line_too_long")  # the noise of an UNKNOWN line


def test_which_version_is_told_by_the_first_byte() -> None:
    """2.2, the end: signature and version 2, or "PROXY", or the connection is dropped."""
    line = b"PROXY UNKNOWN\r\n"
    for accept, data, expected in [
        ("any", line, 1), ("v1", line, 1), ("any", v2(0), 2), ("v2", v2(0), 2),
    ]:  # fmt: skip
        found = native(data, accept)
        assert isinstance(found, Seen)
        assert found.version == expected
    assert native(line, "v2") == native(line[:1], "v2") == "bad_signature"
    assert native(v2(0), "v1") == native(v2(0)[:1], "v1") == "bad_signature"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"SSH-2.0-",
        b"EHLO",
        b"\0",
        b"proxy TCP4",
        b"PUT /",
        b"\r\n\r\nQ",
        b"PROXY\t",
    ],
)
def test_other_protocols_are_refused_at_their_first_foreign_byte(data: bytes) -> None:
    """2, 5: no guessing; any deviation ends the connection as early as possible."""
    for length in range(1, len(data) + 1):
        piece = data[:length]
        begins_a_header = b"PROXY ".startswith(piece) or SIGNATURE.startswith(piece)
        assert native(piece) == ("need_more" if begins_a_header else "bad_signature")


def test_nothing_is_expected_when_it_is_off() -> None:
    found = native(b"PROXY TCP4 gibberish", "off")
    assert isinstance(found, Seen)
    assert (found.length, found.family) == (0, 0)


def test_a_datagram_has_its_whole_header_in_itself() -> None:
    """UDP: header and payload in one datagram; each is parsed by itself, and none is to be waited for."""
    header = v2(0x12, V4 + tlv(0x05, b"id"))
    found = native(header + b"payload", datagram=True)
    assert isinstance(found, Seen)
    assert (found.length, found.transport) == (len(header), 2)
    for length in range(len(header)):
        assert native(header[:length], datagram=True) == "truncated"
    assert native(b"PROXY UNKNOWN\r\n", datagram=True) == "bad_signature"
    assert native(header, "v1", datagram=True) == "bad_signature"
    off = native(header, "off", datagram=True)
    assert isinstance(off, Seen)
    assert off.length == 0
