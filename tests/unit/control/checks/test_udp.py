"""Datagrams that are answered, refused or lost."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.checking import address_of, check, loopback_socket


@contextlib.contextmanager
def answering(answer: bytes, count: int = 1) -> Iterator[tuple[str, list[bytes]]]:
    """A socket that answers `count` datagrams; its address and what came."""
    sock = loopback_socket()
    got: list[bytes] = []

    def run() -> None:
        for _ in range(count):
            data, peer = sock.recvfrom(65535)
            got.append(data)
            sock.sendto(answer, peer)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield address_of(sock), got
        thread.join(20)
    finally:
        sock.close()


def refused() -> str:
    with loopback_socket() as sock:
        return address_of(sock)


def test_what_is_expected_is_found() -> None:
    with answering(b"pong\x00") as (address, got):
        assert check(address, "udp", send="ping", expect="hex:00").ok
    assert got == [b"ping"]


def test_steps() -> None:
    with answering(b"yes", 2) as (address, got):
        assert check(address, "udp", send=["one", "hex:02"], expect=["yes", "regex:^y"]).ok
    assert got == [b"one", b"\x02"]


def test_another_answer() -> None:
    with answering(b"\xff" * 5000) as (address, _):
        result = check(address, "udp", send="ping", expect="pong")
    assert (result.step, result.reason) == ("expect[0]", 'not found in "' + r"\xff" * 60 + '..."')


def test_an_empty_answer() -> None:
    with answering(b"") as (address, _):
        result = check(address, "udp", send="ping", expect="pong")
    assert (result.step, result.reason) == ("expect[0]", "not found in nothing")


def test_silence_where_an_answer_is_expected() -> None:
    with loopback_socket() as sock:
        result = check(address_of(sock), "udp", expect="pong", timeout=0.2)
    assert (result.ok, result.step, result.reason) == (False, "expect[0]", "no answer within 0.2 s")


def test_silence_passes_where_none_is_expected() -> None:
    with loopback_socket() as sock:
        assert check(address_of(sock), "udp", timeout=1.0).ok
        assert sock.recv(10) == b""


@pytest.mark.parametrize(("settings", "step"), [({}, "refusal"), ({"send": "x", "expect": "y"}, "expect[0]")])
def test_a_refusal_fails_at_once(settings: dict[str, str], step: str) -> None:
    result = check(refused(), "udp", **settings)
    assert (result.ok, result.step, result.reason) == (False, step, "connection refused")
    assert result.latency_s < 2


def test_an_answer_from_elsewhere_is_none() -> None:
    with loopback_socket() as sock, loopback_socket() as other:

        def lie() -> None:
            _, peer = sock.recvfrom(100)
            other.sendto(b"pong", peer)

        thread = threading.Thread(target=lie, daemon=True)
        thread.start()
        result = check(address_of(sock), "udp", expect="pong", timeout=0.3)
        thread.join(20)
    assert result.reason == "no answer within 0.3 s"


def test_the_source_address() -> None:
    with loopback_socket() as sock:
        assert check(address_of(sock), "udp", source="127.0.0.5", timeout=1).ok
        assert sock.recvfrom(10)[1][0] == "127.0.0.5"


def test_ipv6() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        port = sock.getsockname()[1]
        assert check(f"[::1]:{port}", "udp", source="[::1]", timeout=1).ok
    assert check(f"[::1]:{port}", "udp").reason == "connection refused"
