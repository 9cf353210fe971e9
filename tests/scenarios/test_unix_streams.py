"""Streams of unix sockets, whose reads end where messages with passengers do (unix(7): SCM_RIGHTS)."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from pathlib import Path

import pytest

from l4lb.model.states import CloseReason
from tests.support.balancing import address_of, balancing, wait_closed
from tests.support.peers import Server, connect, echo, read_all, running

MESSAGES = 5
MORE = os.urandom(60_000)


def send_with_passengers(sock: socket.socket) -> bytes:
    """What arrives of it: file descriptors cannot, as over any proxy, and end a read although more is there."""
    sent = b""
    with contextlib.suppress(BrokenPipeError), Path("/dev/null").open() as file:
        for number in range(MESSAGES):
            data = f"message {number} ".encode()
            sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))])
            sent += data
        sock.sendall(MORE)
        sock.shutdown(socket.SHUT_WR)
    return sent + MORE


@pytest.mark.parametrize("splice", ["auto", "always", "off"])
def test_a_client_s_bytes_behind_a_file_descriptor_arrive(tmp_path: Path, splice: str) -> None:
    with running(Server(echo)) as server:
        listener = {"bind": f"unix:{tmp_path}/front", "splice": splice}
        with balancing([server.address], workers=1, listener=listener) as balancer:
            for _ in range(5):
                with connect(address_of(balancer)) as sock:
                    sent = send_with_passengers(sock)
                    assert read_all(sock) == sent
            wait_closed(balancer, CloseReason.NORMAL, 5)


@pytest.mark.parametrize("splice", ["auto", "always", "off"])
def test_a_backend_s_bytes_behind_a_file_descriptor_arrive(tmp_path: Path, splice: str) -> None:
    def speak(sock: socket.socket) -> None:
        send_with_passengers(sock)
        read_all(sock)

    expected = b"".join(f"message {number} ".encode() for number in range(MESSAGES)) + MORE
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{tmp_path}/back")
    listening.listen()
    with running(Server(speak, listening=listening)):
        with balancing([f"unix:{tmp_path}/back"], workers=1, listener={"splice": splice}) as balancer:
            for _ in range(5):
                with connect(address_of(balancer)) as sock:
                    assert read_all(sock) == expected
            wait_closed(balancer, CloseReason.NORMAL, 5)
