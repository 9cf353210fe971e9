"""Handshakes with a real nginx and with peers that speak no TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checking import check
from tests.support.peers import Server, hold, one_answer, reset, running, serving
from tests.support.servers import Program, certificate, nginx_tls
from tests.support.waiting import wait_until

NAME = "tls.example"


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return certificate(tmp_path_factory.mktemp("certs"), NAME)


@pytest.fixture(scope="module")
def site(certs: tuple[str, str]) -> Iterator[Program]:
    with nginx_tls(certs) as server:
        yield server


@pytest.mark.external
def test_a_handshake_passes_and_the_server_logs_nothing(site: Program) -> None:
    for _ in range(3):
        assert check(site.address, "tls").ok
        assert check(site.address, "tls", server_name=NAME).ok
    assert site.error_log == ""


@pytest.mark.external
def test_verify(site: Program, certs: tuple[str, str]) -> None:
    assert check(site.address, "tls", verify=certs[0], server_name=NAME).ok
    address = check(site.address, "tls", verify=certs[0])
    assert (address.step, address.reason[:35]) == ("tls", "certificate refused: IP address mis")
    system = check(site.address, "tls", verify=True, server_name=NAME)
    assert (system.step, system.reason) == ("tls", "certificate refused: self-signed certificate")


@pytest.mark.external
def test_the_server_name_is_asked_for(certs: tuple[str, str]) -> None:
    with nginx_tls(certs, "ssl_reject_handshake on;") as server:
        result = check(server.address, "tls", server_name=NAME)
        assert (result.step, result.reason) == ("tls", "tlsv1 unrecognized name")


@pytest.mark.external
def test_a_stopped_server_times_out_at_tls_and_passes_tcp(certs: tuple[str, str]) -> None:
    with nginx_tls(certs) as server, server.stopped():
        result = check(server.address, "tls", timeout=0.3)
        assert (result.ok, result.step, result.reason) == (False, "tls", "no answer within 0.3 s")
        assert check(server.address, "tcp").ok


@pytest.mark.external
def test_the_end_is_announced(certs: tuple[str, str]) -> None:
    """With close_notify, RFC 8446, 6.1: without it the connection would look cut to the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certs)
    ends: list[bytes | Exception] = []

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as tls:
            try:
                ends.append(tls.recv(10))
            except OSError as error:
                ends.append(error)

    with serving(serve) as server:
        assert check(server.address, "tls").ok
        assert wait_until(lambda: ends)
    assert ends == [b""]


HOSTILE = {
    "plain": (one_answer(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "wrong version number"),
    "closed": (one_answer(b""), "closed during the handshake"),
    "close_notify": (one_answer(b"\x15\x03\x03\x00\x02\x01\x00"), "closed during the handshake"),
    "cut": (one_answer(b"\x16\x03\x03\x00\x7a\x02"), "closed during the handshake"),
    "reset": (lambda sock: (sock.recv(9), reset(sock)), "connection reset by peer"),
    "silent": (hold, "no answer within 0.2 s"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_peers_that_speak_no_tls(case: str) -> None:
    handle, reason = HOSTILE[case]
    with running(Server(handle)) as server:
        result = check(server.address, "tls", timeout=0.2)
    assert (result.ok, result.step, result.reason) == (False, "tls", reason)


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with serving(hold) as server:
        result = check(server.address, "tls", verify=str(file))
    assert result.step == "tls"
    assert result.reason.startswith(f"{file}: ")
