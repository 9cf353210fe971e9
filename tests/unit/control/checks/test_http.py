"""Against a real nginx, with and without TLS, and against servers that nginx is not."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.checking import check
from tests.support.peers import hold, one_answer, serving
from tests.support.servers import Program, certificate, nginx_site, nginx_tls

NAME = "health.example"


@pytest.fixture(scope="module")
def site() -> Iterator[Program]:
    with nginx_site() as running:
        yield running


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return certificate(tmp_path_factory.mktemp("certs"), NAME)


@pytest.fixture(scope="module")
def tls_site(certs: tuple[str, str]) -> Iterator[Program]:
    with nginx_tls(certs) as running:
        yield running


@pytest.mark.external
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "HEAD"},
        {"expect_status": 200},
        {"expect_status": [404, "200-204"]},
        {"expect_body": "all is well"},
        {"expect_body": "regex:^all is \\w+\n$"},
        {"path": "/moved"},
        {"path": "/moved", "expect_status": 302},
        {"path": "/broken", "expect_status": "500-503", "expect_body": "repair"},
        {"path": "/none", "expect_status": 404},
        {"path": "/host", "host": "www.example:81", "expect_body": "host=www.example:81 agent=l4lb/"},
        {"path": "/host", "headers": {"X-Check": "yes", "user-agent": "mine"}, "expect_body": "agent=mine x=yes"},
        {"path": "/host", "source": "127.0.0.9", "expect_body": "from=127.0.0.9"},
    ],
)
def test_passes(site: Program, settings: dict[str, object]) -> None:
    result = check(site.address, "http", **settings)
    assert (result.ok, result.reason) == (True, "")
    assert site.error_log == ""


@pytest.mark.external
@pytest.mark.parametrize(
    ("settings", "step", "reason"),
    [
        ({"path": "/broken"}, "status", "503 Service Temporarily Unavailable"),
        ({"path": "/none"}, "status", "404 Not Found"),
        ({"path": "/moved", "expect_status": "200-299"}, "status", "302 Moved Temporarily"),
        ({"expect_body": "all is lost"}, "body", 'not found in "all is well\\n"'),
        ({"send_proxy": True}, "status", "400 Bad Request"),
    ],
)
def test_fails(site: Program, settings: dict[str, object], step: str, reason: str) -> None:
    result = check(site.address, "http", **settings)
    assert (result.ok, result.step, result.reason) == (False, step, reason)


@pytest.mark.external
def test_the_host_is_the_address_when_there_is_no_other(site: Program) -> None:
    assert check(site.address, "http", path="/host", expect_body=f"host={site.address} ").ok


@pytest.mark.external
def test_a_stopped_server_times_out_at_the_status_and_passes_tcp() -> None:
    with nginx_site() as server, server.stopped():
        result = check(server.address, "http", timeout=0.3)
        assert (result.ok, result.step, result.reason) == (False, "status", "no answer within 0.3 s")
        assert check(server.address, "tcp").ok


@pytest.mark.external
def test_a_server_that_demands_a_proxy_header_gets_one() -> None:
    with nginx_site("proxy_protocol") as server:
        assert check(server.address, "http", send_proxy=True).ok
        assert not check(server.address, "http").ok


@pytest.mark.external
def test_https(tls_site: Program, certs: tuple[str, str]) -> None:
    assert check(tls_site.address, "https", expect_body="well").ok
    assert check(tls_site.address, "https", verify=certs[0], server_name=NAME).ok
    assert check(tls_site.address, "https", verify=certs[0], host=f"{NAME}:443").ok
    assert tls_site.error_log == ""
    plain = check(tls_site.address, "http")
    assert (plain.step, plain.reason) == ("status", "400 Bad Request")
    refused = check(tls_site.address, "https", verify=True, server_name=NAME)
    assert (refused.step, refused.reason) == ("tls", "certificate refused: self-signed certificate")
    other = check(tls_site.address, "https", verify=certs[0], server_name="other.example")
    assert other.step == "tls"
    assert other.reason.startswith("certificate refused: Hostname mismatch")


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"4\r\nwe a\r\n8;x=y\r\nre well!\r\n0\r\n\r\n",
        OK + b"Content-Length: 11\r\n\r\nwe are well",
        OK + b"\r\nwe are well",
        b"HTTP/1.0 200\n\nwe are well",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + b"\r\nwe are well",
    ],
)
def test_every_way_to_send_a_body(answer: bytes) -> None:
    with serving(one_answer(answer)) as server:
        result = check(server.address, "http", expect_body="regex:we are well", expect_status=200)
    assert (result.ok, result.reason) == (True, "")


def endless_body(sock: socket.socket) -> None:
    sock.recv(4096)
    sock.sendall(OK + b"\r\n")
    while True:
        sock.sendall(b"x" * 65536)


def endless_head(sock: socket.socket) -> None:
    sock.recv(4096)
    sock.sendall(OK)
    while True:
        sock.sendall(b"X: " + b"x" * 65536)


def half_a_head(sock: socket.socket) -> None:
    sock.sendall(OK)
    hold(sock)


HOSTILE = {
    "endless body": (endless_body, "body", 'not found in "xxx'),
    "endless head": (endless_head, "status", 'not an HTTP answer: "HTTP/1.1 200 OK\\r\\nX: x'),
    "half a head": (half_a_head, "status", "no answer within 0.3 s"),
    "silent": (hold, "status", "no answer within 0.3 s"),
    "closed": (one_answer(b""), "status", "closed after nothing"),
    "garbage": (one_answer(b"\x16\x03\x01\x02\x00"), "status", "not an HTTP answer: "),
    "http/2": (one_answer(b"HTTP/2 200\r\n\r\n"), "status", "not an HTTP answer: "),
    "no status": (one_answer(b"HTTP/1.1 20\r\n\r\n"), "status", "not an HTTP answer: "),
    "cut body": (one_answer(OK + b"Content-Length: 9\r\n\r\nwell"), "body", 'not found in "well"'),
    "after the body": (one_answer(OK + b"Content-Length: 1\r\n\r\nx well!"), "body", 'not found in "x"'),
    "bad length": (one_answer(OK + b"Content-Length: -1\r\n\r\nx"), "body", 'not found in "x"'),
    "bad chunk": (one_answer(CHUNKED + b"zz\r\nwell!"), "body", "not found in nothing"),
    "huge chunk": (one_answer(CHUNKED + b"ffffffff\r\nwell"), "body", 'not found in "well"'),
    "no content": (one_answer(b"HTTP/1.1 204 No Content\r\n\r\nwell!"), "body", "not found in nothing"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_answers_fail_with_step_and_reason(case: str) -> None:
    handle, step, reason = HOSTILE[case]
    with serving(handle) as server:
        result = check(server.address, "http", timeout=0.3, expect_body="well!")
    assert not result.ok
    assert result.step == step
    assert result.reason.startswith(reason)
    assert len(result.reason) < 200


def test_an_endless_body_does_not_matter_to_a_check_that_expects_none() -> None:
    with serving(endless_body) as server:
        assert check(server.address, "http").ok
