"""The admin API over a real socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from l4lb import AdminError, Client, ConfigError, LoadBalancer
from l4lb.config import AdminConfig, HealthConfig
from l4lb.control.admin.stream import READERS_MAX
from l4lb.control.state.events import RECENT
from tests.support.balancing import address_of, make_config, wait_idle
from tests.support.peers import connect, echo, serving
from tests.support.waiting import wait_until


def with_admin(backend: str, **admin: object) -> LoadBalancer:
    config = make_config([backend])
    return LoadBalancer(config.model_copy(update={"admin": AdminConfig(**admin)}))


def get(address: str, path: str, token: str = "") -> tuple[int, object]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    is_json = "json" in response.headers["Content-Type"]
    return response.status, json.loads(body) if is_json else body.decode()


def test_routes() -> None:
    with serving(echo) as server, with_admin(server.address, bind="127.0.0.1:0") as balancer:
        address = balancer.admin_address
        status, body = get(address, "/v1/status")
        assert status == 200
        assert {"pid", "version", "state", "snapshot_version", "uptime_s"} <= set(body)  # type: ignore[call-overload]
        for path in ("/v1/listeners", "/v1/pools", "/v1/pools/web", "/v1/pools/web/backends", "/v1/config", "/healthz"):
            assert get(address, path)[0] == 200, path
        assert get(address, "/readyz") == (200, {"ready": True, "draining": False, "reasons": []})
        assert "l4lb" in str(get(address, "/")[1])
        pool = get(address, "/v1/pools/web")[1]
        assert len(pool["table_digest"]) == 64  # type: ignore[call-overload,index]
        status, body = get(address, "/v1/pools/none")
        assert (status, body["error"]["code"]) == (404, "not_found")  # type: ignore[call-overload,index]
        status, body = get(address, "/nowhere")
        assert (status, body["error"]["code"]) == (404, "not_found")  # type: ignore[call-overload,index]


def test_readiness_says_why_not() -> None:
    config = make_config(["127.0.0.1:1"]).model_copy(update={"admin": AdminConfig(bind="127.0.0.1:0")})
    pool = config.pools["web"].backends[0].model_copy(update={"weight": 0})
    config.pools["web"] = config.pools["web"].model_copy(update={"backends": [pool]})
    with LoadBalancer(config) as balancer:
        expected = {"ready": False, "draining": False, "reasons": ['pool "web" has no usable backend']}
        assert get(balancer.admin_address, "/readyz") == (503, expected)
        balancer.drain(0)
        expected = {"ready": False, "draining": True, "reasons": ["the process is draining"]}
        assert get(balancer.admin_address, "/readyz") == (503, expected)


def test_readiness_may_be_asked_of_some_parts() -> None:
    with serving(echo) as server, with_admin(server.address, bind="127.0.0.1:0") as balancer:

        def asked(query: str) -> tuple[int, list[str]]:
            status, body = get(balancer.admin_address, f"/readyz?{query}")
            return status, body["reasons"]  # type: ignore[index,call-overload]

        assert asked("listener=web&pool=web&min_backends=1") == (200, [])
        assert asked("min_backends=2") == (503, ['pool "web" has 1 usable backend, 2 are wanted'])
        assert asked("listener=web&min_backends=2")[0] == 503
        assert asked("listener=web&listener=no,ne") == (503, ['there is no listener "no,ne"'])
        assert asked("pool=none&pool=web&pool=nowhere") == (
            503,
            ['there is no pool "none"', 'there is no pool "nowhere"'],
        )
        for wrong in ("min_backends=0", "min_backends=1&min_backends=2", "min_backends=x", "pools=web"):
            status, body = get(balancer.admin_address, f"/readyz?{wrong}")
            assert status == 400, wrong
            assert body["error"]["path"] in ("min_backends", "pools")  # type: ignore[index,call-overload]
        assert get(balancer.admin_address, "/readyz?" + "&".join(["pool=web"] * 101))[0] == 400


def test_the_dashboard_can_be_off() -> None:
    with serving(echo) as server, with_admin(server.address, bind="127.0.0.1:0", dashboard=False) as balancer:
        assert get(balancer.admin_address, "/")[0] == 404


def test_a_token_is_asked_for(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("secret\n")
    with serving(echo) as server:
        with with_admin(server.address, bind="127.0.0.1:0", token_file=str(token_file)) as balancer:
            address = balancer.admin_address
            assert get(address, "/v1/status")[0] == 401
            assert get(address, "/v1/status", "wrong")[0] == 401
            assert get(address, "/v1/status", "secret")[0] == 200
            assert get(address, "/healthz")[0] == 200
            with Client(address, token="secret") as client:
                assert client.status()["state"] == "running"
            with Client(address) as client, pytest.raises(AdminError, match="Bearer"):
                client.status()


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_token_file_that_is_missing_or_empty_is_an_error(content: str | None, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    if content is not None:
        token_file.write_text(content)
    with pytest.raises(ConfigError, match=r"admin\.token_file"):
        with_admin("127.0.0.1:1", bind="127.0.0.1:0", token_file=str(token_file)).start()


def test_a_unix_socket_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "run" / "admin.sock"
    with serving(echo) as server, with_admin(server.address, bind=f"unix:{path}") as balancer:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        with Client(f"unix:{path}") as client:
            assert client.pool("web")["name"] == "web"
            with pytest.raises(AdminError, match='no pool "none"'):
                client.pool("none")
        with pytest.raises(ConfigError, match="held by a live instance"):
            with_admin(server.address, bind=f"unix:{path}").start()
        assert balancer.status()["state"] == "running"
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with serving(echo) as server, with_admin(server.address, bind=f"unix:{path}"), Client(f"unix:{path}") as client:
        assert client.status()["state"] == "running"


def test_a_taken_port_is_an_error_that_starts_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=r"admin\.bind: .*Address already in use"):
            with_admin("127.0.0.1:1", bind=bind).start()


def test_nobody_there() -> None:
    with Client("unix:/nonexistent/admin.sock") as client, pytest.raises(AdminError, match="no instance answers at"):
        client.status()


def read_event(stream: Any) -> dict[str, Any]:
    """The next one, past comments."""
    while not (line := stream.readline()).startswith(b"data: "):
        assert line, "the stream ended"
    return json.loads(line.removeprefix(b"data: "))


def test_events_are_a_stream_that_never_waits_for_its_reader() -> None:
    """30,000 events in one turn of the loop: the queue keeps its first 1,000 and tells how many were lost."""
    with serving(echo) as server, with_admin(server.address, bind="127.0.0.1:0") as balancer:
        host, _, port = balancer.admin_address.rpartition(":")
        events = balancer.plane.events
        with socket.create_connection((host, int(port)), timeout=20) as sock:
            sock.sendall(b"GET /v1/events HTTP/1.0\r\n\r\n")
            stream = sock.makefile("rb")
            assert b"200" in stream.readline()
            assert any(b"text/event-stream" in stream.readline() for _ in range(8))
            assert wait_until(lambda: len(events._subscribers) == 2)

            async def emit(count: int) -> None:
                for number in range(count):
                    events.emit("backend_down", {"number": number}, logging.DEBUG)

            balancer.run(emit(1))
            first = read_event(stream)
            assert (first["kind"], first["number"]) == ("backend_down", 0)
            assert first["time"] > 1e9
            balancer.run(emit(30_000))
            got = [read_event(stream) for _ in range(1001)]
            assert [event["number"] for event in got[:1000]] == list(range(1000))
            assert (got[1000]["kind"], got[1000]["count"]) == ("events_lost", 29_000)
            sock.shutdown(socket.SHUT_RDWR)
            balancer.run(emit(1))
            assert wait_until(lambda: balancer.run(emit(1)) or len(events._subscribers) == 1)


def test_an_open_stream_does_not_hold_up_the_end() -> None:
    with serving(echo) as server, with_admin(server.address, bind="127.0.0.1:0") as balancer:
        host, _, port = balancer.admin_address.rpartition(":")
        sock = socket.create_connection((host, int(port)), timeout=20)
        sock.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
    assert time.monotonic() - began < 10
    with sock:
        while sock.recv(1000):
            pass


def test_a_pool_shows_its_latest_checks() -> None:
    with serving(echo) as server:
        config = make_config([server.address], health=HealthConfig(interval="20ms", fast_interval="20ms"))
        with LoadBalancer(config.model_copy(update={"admin": AdminConfig(bind="127.0.0.1:0")})) as balancer:

            def checks() -> list[dict[str, Any]]:
                body: Any = get(balancer.admin_address, "/v1/pools/web")[1]
                return body["backends"][0]["checks"]

            assert wait_until(lambda: len(checks()) >= 3)
            assert all(check["ok"] and check["latency_ms"] >= 0 and check["step"] == "passed" for check in checks())


def test_wrong_parameters_say_which() -> None:
    with serving(echo) as server, with_admin(server.address, bind="127.0.0.1:0") as balancer:
        for query, name in {
            "": "source",
            "?source=192.0.2.1&form=x": "form",
            "?source=192.0.2.1&source=192.0.2.2": "source",
            "?source=nowhere": "source",
        }.items():
            status, body = get(balancer.admin_address, f"/v1/pools/web/explain{query}")
            assert (status, body["error"]["path"]) == (400, name), body  # type: ignore[call-overload,index]
        host, _, port = balancer.admin_address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request("POST", "/v1/pools")
        response = connection.getresponse()
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
        assert json.loads(response.read())["error"]["code"] == "method_not_allowed"
        connection.close()


def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    """Its queue fills, what the kernel keeps for it fills, and after the stream's patience its connection is gone."""
    with serving(echo) as server, with_admin(server.address, bind="127.0.0.1:0") as balancer:
        balancer.plane.admin.service._stream._patience_s = 0.2
        events = balancer.plane.events
        host, _, port = balancer.admin_address.rpartition(":")
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((host, int(port)))
            sock.sendall(b"GET /v1/events HTTP/1.0\r\n\r\n")
            assert wait_until(lambda: len(events._subscribers) == 2)

            async def emit() -> None:
                for _ in range(100):
                    events.emit("backend_down", {"reason": "x" * 10_000}, logging.DEBUG)

            assert wait_until(lambda: balancer.run(emit()) or len(events._subscribers) == 1)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(65536):
                    pass  # what the kernel kept; then the end


def test_so_many_streams_and_no_more() -> None:
    with (
        serving(echo) as server,
        with_admin(server.address, bind="127.0.0.1:0") as balancer,
        contextlib.ExitStack() as stack,
    ):
        host, _, port = balancer.admin_address.rpartition(":")
        for _ in range(READERS_MAX):
            sock = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            sock.sendall(b"GET /v1/events HTTP/1.0\r\n\r\n")
            assert b" 200 " in sock.recv(4096)
        status, body = get(balancer.admin_address, "/v1/events")
        assert (status, body["error"]["code"]) == (409, "conflict")  # type: ignore[call-overload,index]


def test_connect_times_are_counted_in_the_status() -> None:
    with serving(echo) as server, with_admin(server.address, bind="127.0.0.1:0") as balancer:
        for _ in range(5):
            with connect(address_of(balancer)) as sock:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
        wait_idle(balancer)
        found: Any = balancer.status()["connect_time"]
        assert sum(found["counts"]) == 5
        assert len(found["counts"]) == len(found["bounds_s"]) + 1
        assert found["bounds_s"] == sorted(found["bounds_s"])
        assert 0 < found["sum_s"] < 5


def read_events(address: str, query: str, count: int) -> list[dict[str, Any]]:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        sock.sendall(f"GET /v1/events{query} HTTP/1.0\r\n\r\n".encode())
        stream = sock.makefile("rb")
        return [read_event(stream) for _ in range(count)]


def test_who_comes_late_may_hear_the_latest_events_first_and_each_has_its_level() -> None:
    with with_admin("127.0.0.1:1", bind="127.0.0.1:0") as balancer:

        async def emit(count: int) -> None:
            for number in range(count):
                balancer.plane.events.emit("backend_down", {"number": number}, 10)

        balancer.run(emit(RECENT + 50))
        found = read_events(balancer.admin_address, "?last=3", 3)
        assert [event["number"] for event in found] == [RECENT + 47, RECENT + 48, RECENT + 49]
        assert {event["level"] for event in found} == {"debug"}
        assert len(read_events(balancer.admin_address, f"?last={RECENT}", RECENT)) == RECENT
        for wrong in ("-1", str(RECENT + 1), "x"):
            assert get(balancer.admin_address, f"/v1/events?last={wrong}")[0] == 400
        assert wait_until(lambda: balancer.run(emit(1)) or len(balancer.plane.events._subscribers) == 1)
