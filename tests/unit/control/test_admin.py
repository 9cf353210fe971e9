"""The admin API over a real socket."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

import pytest

from l4lb import AdminError, Client, ConfigError, LoadBalancer
from l4lb.config import AdminConfig
from tests.support.balancing import make_config
from tests.support.peers import echo, serving


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
        assert get(address, "/readyz") == (200, {"ready": True, "reasons": []})
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
        expected = {"ready": False, "reasons": ['pool "web" has no usable backend']}
        assert get(balancer.admin_address, "/readyz") == (503, expected)
        balancer.drain(0)
        assert get(balancer.admin_address, "/readyz")[1] == {"ready": False, "reasons": ["the process is draining"]}


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
