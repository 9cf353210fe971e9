"""The admin API and clients that lie, stall, hang up or come in crowds: each gets the answer that HTTP has for it, the
log stays quiet, and the API goes on."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l4lb.control.admin import binding
from l4lb.control.admin.connections import CONNECTIONS_MAX
from l4lb.control.admin.http import HttpService
from tests.support.peers import echo, serving
from tests.support.programs import L4lb, l4lb
from tests.support.waiting import wait_until
from tests.unit.control.admin.test_server import get, with_admin

FILE = """
[admin]
bind = "unix:{directory}/admin.sock"
{token}
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = ["{backend}"]
health = {{ type = "none" }}
"""
ROUTE = "/v1/pools/web/backends/127.0.0.1:9"


class Asked:
    """One connection to the admin API, byte by byte."""

    def __init__(self, directory: Path) -> None:
        self.head_only = False  # what was asked by HEAD has no body
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(f"{directory}/admin.sock")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next: status, headers, body."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.sock.recv(1)
            if not byte:
                raise ConnectionResetError
            head += byte
        first, *lines = head.decode().strip().split("\r\n")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
        body = b""
        length = 0 if self.head_only else int(headers.get("content-length", 0))
        while len(body) < length:
            body += self.sock.recv(length - len(body))  # what is behind it is the next answer's
        return int(first.split()[1]), headers, body


@contextlib.contextmanager
def served(directory: Path, token: str = "") -> Iterator[L4lb]:
    with serving(echo) as server:
        (directory / "lb.toml").write_text(FILE.format(directory=directory, backend=server.address, token=token))
        with l4lb("serve", "-c", str(directory / "lb.toml"), admin=True) as process:
            process.wait_for("admin listening")
            yield process
            assert "Traceback" not in process.log
            assert " error " not in process.log


@contextlib.contextmanager
def asked(directory: Path) -> Iterator[Asked]:
    one = Asked(directory)
    with one.sock:
        yield one


def ask(directory: Path, head: str, body: bytes = b"", read: bool = True) -> tuple[int, dict[str, str], Any]:
    with asked(directory) as one:
        one.head_only = head.startswith("HEAD")
        one.send(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)
        status, headers, text = one.answer()
        return status, headers, json.loads(text) if read and text else text


def alive(directory: Path) -> bool:
    return ask(directory, "GET /healthz HTTP/1.1\nHost: l4lb")[0] == 200


def put(directory: Path, body: bytes, route: str = ROUTE, headers: str = "") -> tuple[int, Any]:
    head = f"PUT {route} HTTP/1.1\nHost: l4lb\nContent-Length: {len(body)}{headers}"
    status, _, said = ask(directory, head, body)
    return status, said


def test_a_client_that_hangs_up_leaves_nothing_in_the_log(tmp_path: Path) -> None:
    with served(tmp_path) as process:
        before = process.log
        head = f"PUT {ROUTE} HTTP/1.1\r\nHost: l4lb\r\n"
        for sent in (
            "",
            "PUT",
            f"{head}Content-Length: 100\r\n\r\n{{",
            f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\n{{}}",
            "GET /v1/events HTTP/1.1\r\nHost: l4lb\r\n\r\n",
            "GET /v1/status HTTP/1.1\r\nHost: l4lb\r\n\r\n",
        ):
            for how in (socket.SHUT_WR, socket.SHUT_RDWR, None):
                with asked(tmp_path) as one:
                    one.send(sent.encode())
                    if how is not None:
                        one.sock.shutdown(how)
        assert alive(tmp_path)
        assert process.log == before


BODIES = {
    "gzip": ("\nContent-Encoding: gzip", b"no gzip at all", 400),
    "half of a gzip": ("\nContent-Encoding: gzip", gzip.compress(b"{}" * 1000)[:20], 400),
    "bomb": ("\nContent-Encoding: gzip", gzip.compress(b" " * 10_000_000), 400),
    "deflate": ("\nContent-Encoding: deflate", b"\xff" * 30, 400),
    "no json": ("", b"{", 400),
    "no utf-8": ("", b'{"id": "\xff"}', 400),
    "surrogate": ("", b'{"id": "\\ud800"}', 400),
    "deep": ("", b'{"tags": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", 400),
    "nan": ("", b'{"weight": NaN}', 422),
    "huge": ("", b'{"weight": ' + b"9" * 5000 + b"}", 400),
    "infinite": ("", b'{"weight": 1e999}', 422),
    "boolean": ("", b'{"weight": true}', 422),
    "nul in the id": ("", b'{"id": "a\\u0000b"}', 422),
    "line in the id": ("", b'{"id": "a\\nINFO all is well"}', 422),
    "nul in the address": ("", b'{"address": "127.0.0.1\\u0000:9"}', 409),
    "too large": ("", b" " * 70_000 + b"{}", 400),
    "list": ("", b"[]", 422),
}


def test_bodies_that_are_none(tmp_path: Path) -> None:
    with served(tmp_path):
        found = {name: put(tmp_path, body, headers=headers) for name, (headers, body, _) in BODIES.items()}
        assert {name: status for name, (status, _) in found.items()} == {name: one[2] for name, one in BODIES.items()}
        assert all(set(said["error"]) == {"code", "message", "path"} for _, said in found.values())
        for address in (
            "127.0.0.1%00:9",
            "%ff:9",
            "tcp:%2F%2F127.0.0.1:9",
            "%20127.0.0.1:9",
            "a%0Ab:9",
            "unix:%2Fa%00b",
        ):
            status, said = put(tmp_path, b"{}", f"/v1/pools/web/backends/{address}")
            assert status == 422, (address, said)
        assert len(ask(tmp_path, "GET /v1/pools/web/backends HTTP/1.1\nHost: l4lb")[2]) == 1, "nothing was added"


def test_broken_chunks(tmp_path: Path) -> None:
    head = f"PUT {ROUTE} HTTP/1.1\nHost: l4lb\nTransfer-Encoding: chunked"
    with served(tmp_path):
        for body in (b"x\r\n", b"-1\r\n{}\r\n0\r\n\r\n", b"2\r\n{}0\r\n\r\n", b"ffffffffffffffffff\r\n{}\r\n"):
            assert ask(tmp_path, head, body, read=False)[0] == 400, body
        status, _, said = ask(tmp_path, head, b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")
        assert (status, said["id"]) == (201, "127.0.0.1:9")


def test_the_token_comes_first(tmp_path: Path) -> None:
    """Before the route, the method, the body, and whether it would come."""
    (tmp_path / "token").write_text("secret")
    with served(tmp_path, f'token_file = "{tmp_path}/token"'):
        for method in ("GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", "OPTIONS"):
            for route in ("/v1/status", "/nowhere", ROUTE, "/v1/pools/none", "/v1/sessions?limit=x", "/v1/%00", "/.."):
                status, headers, _ = ask(tmp_path, f"{method} {route} HTTP/1.1\nHost: l4lb", read=False)
                assert (status, headers["www-authenticate"]) == (401, "Bearer"), (method, route)
        for name, (headers_, body, _) in BODIES.items():
            assert put(tmp_path, body, headers=headers_)[0] == 401, name
        head = f"PUT {ROUTE} HTTP/1.1\nHost: l4lb\nContent-Length: 2\nExpect: 100-continue"
        assert ask(tmp_path, head)[0] == 401, "the body is not asked for"
        assert ask(tmp_path, f"{head}\nAuthorization: Bearer wrong")[0] == 401


def test_a_body_that_waits_to_be_asked_for(tmp_path: Path) -> None:
    with served(tmp_path), asked(tmp_path) as one:
        one.send(f"PUT {ROUTE} HTTP/1.1\r\nHost: l4lb\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n".encode())
        assert one.answer()[0] == 100
        one.send(b"{}")
        assert one.answer()[0] == 201


def test_requests_one_behind_the_other_and_old_ones(tmp_path: Path) -> None:
    with served(tmp_path):
        with asked(tmp_path) as one:
            first = f"PUT {ROUTE} HTTP/1.1\r\nHost: l4lb\r\nContent-Length: 2\r\n\r\n{{}}"
            one.send(
                (
                    first + "GET /nowhere HTTP/1.1\r\nHost: l4lb\r\n\r\nGET /healthz HTTP/1.1\r\nHost: l4lb\r\n\r\n"
                ).encode()
            )
            assert [one.answer()[0] for _ in range(3)] == [201, 404, 200]
        with asked(tmp_path) as one:
            one.send(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert one.answer()[0] == 200
            assert one.sock.recv(1) == b"", "HTTP/1.0 ends with the answer"
        with asked(tmp_path) as one:
            one.send(b"HEAD /v1/status HTTP/1.1\r\nHost: l4lb\r\nConnection: close\r\n\r\n")
            text = b"".join(iter(lambda: one.sock.recv(65536), b""))
            assert text.startswith(b"HTTP/1.1 200 ")
            assert text.endswith(b"\r\n\r\n")
        for method in ("PATCH", "OPTIONS", "POST"):
            assert ask(tmp_path, f"{method} /v1/status HTTP/1.1\nHost: l4lb")[0] == 405
        for sent in ("GET", "GET  /healthz HTTP/9.9", "\x16\x03\x01", f"GET /{'x' * 20_000} HTTP/1.1"):
            assert ask(tmp_path, sent, read=False)[0] == 400, sent


# ---- slow ones, and crowds: in the test's own process, where time can be made short ----


def connection_to(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def ends(sock: socket.socket) -> bytes:
    """What comes until the server ends it."""
    try:
        return b"".join(iter(lambda: sock.recv(65536), b""))
    except ConnectionResetError:
        return b"reset"


def service_of(balancer: Any) -> HttpService:
    service: HttpService = balancer.plane.admin.service
    return service


@pytest.mark.parametrize("sent", [b"", b"GET /v1/status HTTP/1.1\r\nHost: x"])
def test_a_request_that_does_not_come_is_not_waited_for(sent: bytes) -> None:
    with serving(echo) as server, with_admin(server.address, bind="127.0.0.1:0") as balancer:
        service_of(balancer).connections.request_within_s = 0.2
        with connection_to(balancer.admin_address) as sock:
            sock.sendall(sent)
            assert ends(sock) in (b"", b"reset")
        with connection_to(balancer.admin_address) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b" 200 " in sock.recv(4096)
            time.sleep(0.4)  # longer than a first request may take: the connection is kept
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b" 200 " in sock.recv(4096)


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "BODY_WITHIN_S", 0.2)
    with serving(echo) as server, with_admin(server.address, bind="127.0.0.1:0") as balancer:
        with connection_to(balancer.admin_address) as sock:
            sock.sendall(f"PUT {ROUTE} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{{".encode())
            said = sock.recv(4096)
        assert b" 408 " in said
        assert b"request_timeout" in said


def test_an_answer_that_is_not_taken_is_not_waited_for() -> None:
    with serving(echo) as server, with_admin(server.address, bind="127.0.0.1:0") as balancer:
        service_of(balancer).connections.taken_within_s = 0.2
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            host, _, port = balancer.admin_address.rpartition(":")
            sock.connect((host, int(port)))
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 2000)
            assert wait_until(lambda: not service_of(balancer).connections.open, 20)


def test_so_many_clients_and_no_more() -> None:
    with serving(echo) as server, with_admin(server.address, bind="127.0.0.1:0") as balancer:
        with contextlib.ExitStack() as stack:
            for _ in range(CONNECTIONS_MAX):
                stack.enter_context(connection_to(balancer.admin_address))
            assert wait_until(lambda: len(service_of(balancer).connections.open) == CONNECTIONS_MAX)
            with connection_to(balancer.admin_address) as sock:
                assert ends(sock).startswith(b"HTTP/1.1 503 ")
        assert wait_until(lambda: not service_of(balancer).connections.open)
        assert get(balancer.admin_address, "/healthz")[0] == 200


# ---- anything ----

TEXTS = st.one_of(
    st.text(), st.sampled_from(["", "a\0b", "\n", "\u202e", "127.0.0.1:9", "unix:/a\0", "x" * 70_000, "é" * 300])
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)
KEYS = st.sampled_from(["address", "weight", "max_sessions", "admin_state", "priority", "id", "zone", "tags", "none"])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(body=st.dictionaries(KEYS, VALUES, max_size=4), address=TEXTS, raw=st.binary(max_size=3))
def test_any_body_is_taken_or_refused(hostile: Path, body: dict[str, Any], address: str, raw: bytes) -> None:
    text = json.dumps(body).encode()
    quoted = "".join(f"%{byte:02X}" for byte in address.encode("utf-8", "surrogatepass")[:200]) or "x"
    for sent in (text, text[: len(text) // 2] + raw + text[len(text) // 2 :]):
        status, said = put(hostile, sent, f"/v1/pools/web/backends/{quoted}")
        assert status in (200, 201, 400, 404, 409, 422), (status, said)
        if status in (200, 201):
            assert not re.search(r"[\x00-\x1f]", said["id"] + said["address"])
            ask(hostile, f"DELETE /v1/pools/web/backends/{quoted} HTTP/1.1\nHost: l4lb")
    assert alive(hostile)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("hostile")
    with served(directory):
        yield directory
