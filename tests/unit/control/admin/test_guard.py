"""Who may use the admin API: the token in constant time; no page of another origin."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

import pytest

from l4lb import LoadBalancer
from l4lb.config import AdminConfig
from l4lb.control.admin.routes import ROUTES
from tests.support.balancing import make_config
from tests.support.waiting import wait_until


def with_admin(**admin: object) -> LoadBalancer:
    config = make_config(["127.0.0.1:1"])
    return LoadBalancer(config.model_copy(update={"admin": AdminConfig(bind="127.0.0.1:0", **admin)}))


def ask(address: str, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, dict[str, str]]:
    """The status and the error, if it is one. Headers are sent as they are: no Host of http.client's own."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.putrequest(method, path, skip_host=True)
    for name, value in {"Host": address, **headers, "Content-Length": str(len(body))}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    is_json = "json" in response.headers["Content-Type"]
    return response.status, json.loads(answer).get("error", {}) if is_json and response.status >= 400 else {}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9900", "127.0.0.1.evil.example", "[", ""])
def test_a_name_that_a_stranger_made_resolve_here_is_refused(host: str) -> None:
    """DNS rebinding: the page's own name, which now resolves to this address, is in Host. Even reading is refused."""
    with with_admin() as balancer:
        status, error = ask(balancer.admin_address, "GET", "/v1/status", {"Host": host})
        assert (status, error["path"]) == (401, "Host")


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1", "[::1]:9900", "192.0.2.1"])
def test_names_that_no_stranger_can_have_are_served(host: str) -> None:
    with with_admin() as balancer:
        assert ask(balancer.admin_address, "GET", "/v1/status", {"Host": host})[0] == 200


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        ("l4lb", "", 200),
        ("localhost:9900", "http://localhost:9900", 405),
        ("evil.example:9900", "", 401),
        ("localhost:9900", "http://evil.example", 401),
    ],
)
def test_a_browser_reaches_a_unix_socket_through_a_forwarded_port(
    host: str, origin: str, expected: int, tmp_path: Path
) -> None:
    """`ssh -L 9900:/run/l4lb/admin.sock`: the page of the API itself, and no other."""
    path = tmp_path / "admin.sock"
    config = make_config(["127.0.0.1:1"]).model_copy(update={"admin": AdminConfig(bind=f"unix:{path}")})
    with LoadBalancer(config), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        method, more = ("POST", f"Origin: {origin}\r\n") if origin else ("GET", "")
        sock.sendall(f"{method} /v1/status HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n{more}\r\n".encode())
        assert sock.recv(12) == f"HTTP/1.1 {expected}".encode()


def test_a_page_of_another_origin_can_change_nothing() -> None:
    with with_admin() as balancer:
        address = balancer.admin_address
        for origin in (
            "http://evil.example",
            "null",
            "http://127.0.0.1:1",
            f"http://{address}.evil.example",
            "http://[",
        ):
            for method in ("PUT", "POST", "DELETE", "PATCH"):
                status, error = ask(address, method, "/v1/status", {"Origin": origin}, b"{}")
                assert (status, error["path"]) == (401, "Origin"), (origin, method)
        assert ask(address, "POST", "/v1/status", {"Origin": f"http://{address}"})[0] == 405
        assert ask(address, "POST", "/v1/status", {})[0] == 405


@pytest.mark.parametrize(
    "given", ["secret", "Basic secret", "Bearer", "Bearer ", "Bearer secre", "Bearer secrets", "Bearer \xff\xfe", ""]
)
def test_anything_but_the_token_is_refused(given: str, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("secret\n")
    with with_admin(token_file=str(token_file)) as balancer:
        status, error = ask(balancer.admin_address, "GET", "/v1/status", {"Authorization": given})
        assert (status, error["code"]) == (401, "unauthorized")


def test_with_the_token_any_name_and_origin_will_do(tmp_path: Path) -> None:
    """Behind a proxy of the operator's it has another name; a stranger's page does not know the token."""
    token_file = tmp_path / "token"
    token_file.write_text("secret\n")
    with with_admin(token_file=str(token_file)) as balancer:
        headers = {"Host": "lb.example", "Origin": "https://lb.example", "Authorization": "bearer secret"}
        assert ask(balancer.admin_address, "GET", "/v1/status", headers)[0] == 200


def test_only_probes_and_the_page_are_public(tmp_path: Path) -> None:
    assert {route.path for route in ROUTES if route.public} == {"/", "/healthz", "/readyz"}
    token_file = tmp_path / "token"
    token_file.write_text("secret\n")
    with with_admin(token_file=str(token_file)) as balancer:
        for path in ("/v1/status", "/v1/config", "/v1/events", "/openapi.json", "/nowhere"):
            assert ask(balancer.admin_address, "GET", path, {})[0] == 401, path


def test_no_secret_is_shown() -> None:
    headers = {"Authorization": "Basic hunter2", "X-Api-Key": "hunter2", "X-Plain": "shown"}
    health = {"type": "http", "headers": headers, "host": "a.example"}
    config = make_config(["127.0.0.1:1"], health=health)
    with LoadBalancer(config.model_copy(update={"admin": AdminConfig(bind="127.0.0.1:0")})) as balancer:
        shown = balancer.plane.status.config()
        assert "hunter2" not in json.dumps(shown)
        assert shown["pools"]["web"]["health"]["headers"]["X-Plain"] == "shown"
        assert shown["admin"]["token_file"] == ""


def test_what_is_too_large_or_no_http_is_refused_and_the_rest_goes_on() -> None:
    with with_admin() as balancer:
        address = balancer.admin_address
        assert ask(address, "GET", "/v1/status", {"X-Long": "x" * 20_000})[0] == 400
        assert ask(address, "GET", "/v1/status?" + "x" * 20_000, {})[0] == 400
        assert wait_until(lambda: ask(address, "GET", "/v1/status", {})[0] == 200)
