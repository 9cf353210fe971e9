"""What the admin API changes, as operators drive it: curl over the unix socket, against `l4lb serve` as a process."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from tests.scenarios.test_admin_api import Curl, serving_api
from tests.support.peers import connect, one_answer, read_until_end, serving
from tests.support.programs import run
from tests.support.waiting import wait_until


def asked(address: str) -> bytes:
    with connect(address) as sock:
        sock.sendall(b"?")
        return sock.recv(100)


def test_a_backend_is_added_changed_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with serving(one_answer(b"new")) as new, serving_api(tmp_path, f"unix:{path}") as process:
        curl = Curl(path)
        web = "{}:{}".format(*process.address("web"))
        (old,) = json.loads(curl("GET", "/v1/pools/web/backends")[2])
        route = f"/v1/pools/web/backends/{new.address}"
        status, _, text = curl("PUT", route, {"weight": 2, "tags": {"rack": "4"}})
        added = json.loads(text)
        assert (status, added["id"], added["weight"], added["tags"]) == (201, new.address, 2, {"rack": "4"})
        assert curl("PUT", f"/v1/pools/web/backends/{old['id']}", {"admin_state": "drain"})[0] == 200
        process.wait_for(rf"backend up .*{new.address}")
        assert {asked(web) for _ in range(5)} == {b"new"}
        again = [json.loads(curl("PUT", route, {"weight": 5})[2]) for _ in range(2)]
        assert [(one["weight"], one["tags"]) for one in again] == [(5, {"rack": "4"})] * 2
        assert len(json.loads(curl("GET", "/v1/pools/web/backends")[2])) == 2
        status, _, text = curl("DELETE", f"{route}?drain=30s")
        removed = {"id": new.address, "address": new.address, "sessions_active": 0}
        assert (status, json.loads(text)) == (200, removed)
        assert [one["id"] for one in json.loads(curl("GET", "/v1/pools/web/backends")[2])] == [old["id"]]


def test_addresses_of_every_kind_are_paths(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with serving_api(tmp_path, f"unix:{path}"):
        curl = Curl(path)
        for quoted, address in {
            "unix:%2Frun%2Fapp.sock": "unix:/run/app.sock",
            "%5B::1%5D:8080": "[::1]:8080",
            "localhost:80": "localhost:80",
        }.items():
            status, _, text = curl("PUT", f"/v1/pools/web/backends/{quoted}", {"id": f"id of {address[:3]}/%"})
            assert (status, json.loads(text)["address"]) == (201, address), text
            assert curl("DELETE", f"/v1/pools/web/backends/{quoted}")[0] == 200


def test_what_cannot_be_done_says_why_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with serving_api(tmp_path, f"unix:{path}"):
        curl = Curl(path)
        (backend,) = json.loads(curl("GET", "/v1/pools/web/backends")[2])
        before = json.loads(curl("GET", "/v1/status")[2])["snapshot_version"]
        here = f"/v1/pools/web/backends/{backend['id']}"
        refused: list[tuple[str, str, object, int, str]] = [
            ("PUT", here, {"weight": -1}, 422, "weight"),
            ("PUT", here, {"weight": 2, "wight": 2}, 422, "wight"),
            ("PUT", here, [], 422, ""),
            ("PUT", here, {"address": "127.0.0.1:2"}, 409, f"pools.web.backends[{backend['id']}].address"),
            ("PUT", "/v1/pools/none/backends/127.0.0.1:1", {}, 404, "pool"),
            ("PUT", "/v1/pools/web/backends/nowhere", {}, 422, "pools.web.backends[nowhere].address"),
            ("PUT", f"{here}?drain=1s", {}, 400, "drain"),
            ("DELETE", f"{here}?drain=soon", None, 400, "drain"),
            ("DELETE", "/v1/pools/web/backends/127.0.0.1:1", None, 404, "pools.web.backends[127.0.0.1:1]"),
        ]
        for method, route, body, expected, where in refused:
            status, _, text = curl(method, route, body)
            error: dict[str, Any] = json.loads(text)["error"]
            assert (status, error["path"]) == (expected, where), (method, route, body, text)
            assert error["message"]
        assert json.loads(curl("GET", "/v1/pools/web/backends")[2])[0]["weight"] == backend["weight"]
        assert json.loads(curl("GET", "/v1/status")[2])["snapshot_version"] == before


def test_sessions_are_listed_and_ended(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with serving_api(tmp_path, f"unix:{path}") as process, contextlib.ExitStack() as stack:
        curl = Curl(path)
        clients = [stack.enter_context(connect(process.address("web"))) for _ in range(3)]
        assert wait_until(lambda: len(json.loads(curl("GET", "/v1/sessions?pool=web")[2])) == 3)
        source = "{}:{}".format(*clients[0].getsockname())
        (session,) = json.loads(curl("GET", f"/v1/sessions?source={source}&limit=5")[2])
        assert (session["client"], session["state"], session["protocol"]) == (source, "relaying", "tcp")
        headers = run("curl", "-si", "--unix-socket", str(path), "http://l4lb/v1/sessions?limit=2")
        assert re.search(r"(?m)^X-Total-Count: 3\r?$", headers)
        assert len(json.loads(headers.splitlines()[-1])) == 2
        assert json.loads(curl("DELETE", f"/v1/sessions/{session['id']}")[2])["client"] == source
        assert read_until_end(clients[0]) == (b"", True)
        assert curl("DELETE", f"/v1/sessions/{session['id']}")[0] == 404
        assert curl("DELETE", "/v1/sessions")[0] == 400
        assert curl("DELETE", "/v1/sessions?pool=none")[0] == 404
        for wrong in ("limit=0", "limit=x", "source=localhost", "colour=red"):
            status, _, text = curl("GET", f"/v1/sessions?{wrong}")
            assert (status, json.loads(text)["error"]["path"]) == (400, wrong.partition("=")[0])
        assert json.loads(curl("DELETE", "/v1/sessions?source=127.0.0.1")[2]) == {"sessions": 2, "flows_left": 0}
        assert all(read_until_end(client) == (b"", True) for client in clients[1:])
