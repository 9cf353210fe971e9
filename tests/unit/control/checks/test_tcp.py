"""The handshake, and what all checks over streams share: source address, PROXY header, closing."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb.control.checks.checks import NotChecked
from l4lb.control.checks.stream import PROXY_V2_LOCAL
from l4lb.control.checks.tcp import check_tcp
from tests.support.checking import check, check_target, target_of
from tests.support.peers import TIMEOUT_S, read_until_end, reset, serving
from tests.support.waiting import wait_until


class Recorder:
    """Accepts one connection after another and keeps what each sent, how it ended and where it came from."""

    def __init__(self, listening: socket.socket) -> None:
        self.listening = listening
        self.connections: list[tuple[bytes, bool, str]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                sock, peer = self.listening.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(TIMEOUT_S)
                data, was_reset = read_until_end(sock)
                self.connections.append((data, was_reset, peer[0] if peer else ""))

    def stop(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(TIMEOUT_S)
        self.listening.close()

    @property
    def only(self) -> tuple[bytes, bool, str]:
        assert wait_until(lambda: self.connections)
        self.stop()
        assert len(self.connections) == 1
        return self.connections[0]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    # At an address of its own: on 127.0.0.1 the port may be one that another test, side by side, still asks.
    recorder = Recorder(socket.create_server(("127.0.7.1", 0)))
    yield recorder
    if recorder.listening.fileno() >= 0:
        recorder.stop()


def address(recorder: Recorder) -> str:
    return f"127.0.7.1:{recorder.listening.getsockname()[1]}"


def test_an_open_port_passes_and_the_backend_sees_an_orderly_close(recorder: Recorder) -> None:
    assert check(address(recorder), "tcp").ok
    assert recorder.only == (b"", False, "127.0.0.1")


def test_the_proxy_header_is_the_local_one_of_version_2(recorder: Recorder) -> None:
    assert check(address(recorder), "tcp", send_proxy=True).ok
    assert bytes.fromhex("0d0a0d0a000d0a515549540a20000000") == PROXY_V2_LOCAL
    assert recorder.only == (PROXY_V2_LOCAL, False, "127.0.0.1")


def test_checks_come_from_the_source_address(recorder: Recorder) -> None:
    assert check(address(recorder), "tcp", source="127.0.0.77").ok
    assert recorder.only == (b"", False, "127.0.0.77")


def test_a_source_address_that_is_not_of_this_host_says_nothing_of_the_target() -> None:
    target = target_of("127.0.0.1:1", "tcp", source="192.0.2.1")
    with pytest.raises(NotChecked, match=r"cannot assign requested address: source_address is not an address of this"):
        asyncio.run(check_tcp(target))


def test_unread_bytes_of_a_greeting_make_no_reset() -> None:
    ended: list[tuple[bytes, bool]] = []
    checked = threading.Event()

    def greet(sock: socket.socket) -> None:
        sock.sendall(b"220 ready\r\n" + b"x" * 20000)
        assert checked.wait(20)  # whatever the check's close sent is here by now
        ended.append(read_until_end(sock))

    with serving(greet) as server:
        assert check(server.address, "send_expect", expect="220").ok
        checked.set()
        assert wait_until(lambda: ended)
    assert ended == [(b"", False)]


@pytest.mark.parametrize("name", ["{dir}/socket", "@l4lb-test-{dir}"])
def test_unix_sockets(name: str, tmp_path: Path) -> None:
    name = name.format(dir=tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("\0" + name[1:] if name.startswith("@") else name)
        listening.listen(0)
        assert check(f"unix:{name}", "tcp").ok
        result = check(f"unix:{name}", "tcp")  # nobody has accepted the one before
        assert (result.step, result.reason) == ("connect", "accept queue full")
    gone = check(f"unix:{name}", "tcp")
    assert (gone.step, gone.reason) == ("connect", "connection refused")


def test_a_peer_that_resets_at_once() -> None:
    """It has accepted; but the reset may be here before this side has looked."""
    with serving(reset) as server:
        result = check(server.address, "tcp")
    assert (result.ok, result.reason) in [(True, ""), (False, "connection reset by peer")]


def test_a_target_with_another_source_or_pool_is_another_target() -> None:
    one, other = target_of("127.0.0.1:1", "tcp"), target_of("127.0.0.1:1", "tcp")
    assert one == other
    assert hash(one) == hash(other)
    assert one != target_of("127.0.0.1:1", "tcp", source="127.0.0.2")
    assert one != target_of("127.0.0.1:1", "tcp", pool="web")
    with_headers = target_of("127.0.0.1:1", "http", headers={"a": "b"})
    assert with_headers == target_of("127.0.0.1:1", "http", headers={"a": "b"})
    assert hash(with_headers) == hash(target_of("127.0.0.1:1", "http", headers={"a": "b"}))
    assert with_headers != target_of("127.0.0.1:1", "http", headers={"a": "c"})


def test_no_answer_to_the_handshake_is_a_timeout_of_the_connect() -> None:
    with socket.socket() as listening, socket.socket() as filler:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)  # room for one: the next handshake is not answered
        filler.connect(listening.getsockname())
        host, port = listening.getsockname()
        result = check_target(target_of(f"{host}:{port}", "tcp", timeout=0.3))
    assert (result.ok, result.step, result.reason) == (False, "connect", "no answer within 0.3 s")
