"""The admin API as others use it: curl drives every route of the OpenAPI document, schemathesis looks for ways to break
it. Against `l4lb serve` as a process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.support.peers import connect, echo, serving
from tests.support.programs import L4lb, l4lb, run, without_preload
from tests.support.waiting import wait_until

CONFIG = """
[admin]
bind = "{admin}"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
policy = "maglev"
table_size = 251
backends = [{{ address = "{backend}", tags = {{ rack = "r1" }} }}]
health = {{ type = "tcp", interval = "100ms", fast_interval = "100ms" }}
"""


@contextlib.contextmanager
def serving_api(tmp_path: Path, admin: str) -> Iterator[L4lb]:
    with serving(echo) as server:
        file = tmp_path / "lb.toml"
        file.write_text(CONFIG.format(admin=admin, backend=server.address))
        with l4lb("serve", "-c", str(file), "--admin", admin) as process:
            process.wait_for("backend up")
            yield process


@dataclass
class Curl:
    """Asks over the unix socket at `path`, as an operator does."""

    path: Path

    def __call__(self, method: str, route: str, body: object = None) -> tuple[int, str, str]:
        """Status, content type and text. A stream is read for a second."""
        data = [] if body is None else ["-d", json.dumps(body)]
        form = "\\n%{http_code} %{content_type}"
        limits = ["-m", "1"] if route == "/v1/events" else ["-m", "20"]
        command = ["curl", "-s", "-N", *limits, "--unix-socket", str(self.path), "-X", method, *data, "-w", form]
        command.append(f"http://l4lb{route}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=without_preload())
        text, _, end = done.stdout.rpartition("\n")
        status, _, kind = end.partition(" ")
        return int(status), kind.partition(";")[0], text

    def document(self) -> dict[str, Any]:
        return json.loads(self("GET", "/openapi.json")[2])


def examples(session: str) -> dict[str, tuple[str, object, int]]:
    """For each route of the document: the path with its parameters, the body, and the status that is right. `session`
    is the id of one that may be ended."""
    return {
        "GET /v1/status": ("/v1/status", None, 200),
        "GET /v1/history": ("/v1/history?pool=web", None, 200),
        "GET /v1/listeners": ("/v1/listeners", None, 200),
        "GET /v1/pools": ("/v1/pools", None, 200),
        "GET /v1/pools/{pool}": ("/v1/pools/web", None, 200),
        "GET /v1/pools/{pool}/backends": ("/v1/pools/web/backends", None, 200),
        "GET /v1/pools/{pool}/explain": ("/v1/pools/web/explain?source=192.0.2.1", None, 200),
        "PUT /v1/pools/{pool}/backends/{address}": ("/v1/pools/web/backends/127.0.0.1:1", {"weight": 3}, 201),
        "DELETE /v1/pools/{pool}/backends/{address}": ("/v1/pools/web/backends/127.0.0.1:1?drain=1s", None, 200),
        "GET /v1/sessions": ("/v1/sessions?pool=web&source=127.0.0.0/8&limit=10", None, 200),
        "DELETE /v1/sessions/{id}": (f"/v1/sessions/{session}", None, 200),
        "DELETE /v1/sessions": ("/v1/sessions?listener=web", None, 200),
        "GET /v1/listeners/{listener}/explain": ("/v1/listeners/web/explain?source=192.0.2.1&sni=a.example", None, 200),
        "GET /v1/sources": ("/v1/sources?listener=web&by=rate&limit=5", None, 200),
        "PUT /v1/bans/{cidr}": ("/v1/bans/192.0.2.0/24", {"for": "1h", "reason": "scan"}, 201),
        "GET /v1/bans/{cidr}": ("/v1/bans/192.0.2.0/24", None, 200),
        "GET /v1/bans": ("/v1/bans?source=192.0.2.1", None, 200),
        "DELETE /v1/bans/{cidr}": ("/v1/bans/192.0.2.0%2F24", None, 200),
        "GET /v1/config": ("/v1/config", None, 200),
        "GET /v1/config/diff": ("/v1/config/diff", None, 200),
        "GET /v1/whoami": ("/v1/whoami", None, 200),
        "GET /v1/fleet": ("/v1/fleet", None, 404),
        "GET /v1/events": ("/v1/events", None, 200),
        "GET /metrics": ("/metrics", None, 200),
        "GET /healthz": ("/healthz", None, 200),
        "GET /readyz": ("/readyz", None, 200),
        "GET /openapi.json": ("/openapi.json", None, 200),
        "GET /": ("/", None, 200),
        "POST /v1/reload": ("/v1/reload", None, 200),
        "POST /v1/drain": ("/v1/drain", {"listener": "web", "timeout": "5s", "wait": True}, 200),
        "DELETE /v1/drain": ("/v1/drain?listener=web", None, 200),
        "POST /v1/upgrade": ("/v1/upgrade", None, 200),  # the last: another process answers from here on
    }


def check_answer(document: dict[str, Any], operation: dict[str, Any], status: int, kind: str, text: str) -> None:
    """The answer is one that the document describes."""
    content = operation["responses"][str(status)]["content"]
    assert kind in content, (kind, content)
    if kind == "application/json" and content[kind]["schema"]:
        schema = {**content[kind]["schema"], "components": document["components"]}
        jsonschema_rs.validator_for(schema).validate(json.loads(text))


def test_curl_drives_every_route_of_the_document(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    run("curl", "--version")
    with serving_api(tmp_path, f"unix:{path}") as process, connect(process.address("web")):
        curl = Curl(path)
        document = curl.document()
        assert wait_until(lambda: len(json.loads(curl("GET", "/v1/sessions")[2])) == 1)
        known = examples(json.loads(curl("GET", "/v1/sessions")[2])[0]["id"])
        operations = {f"{m.upper()} {p}": op for p, ops in document["paths"].items() for m, op in ops.items()}
        assert set(operations) == set(known)
        for name, (route, body, expected) in known.items():
            status, kind, text = curl(name.split()[0], route, body)
            assert status == expected, (name, text)
            check_answer(document, operations[name], status, kind, text)
        new = json.loads(text)["pid"]
        try:
            assert process.wait() == 0
            assert curl("GET", "/v1/pools/nowhere")[0] == 404
        finally:
            os.kill(new, signal.SIGKILL)
        assert "Traceback" not in process.log


SCHEMATHESIS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,unsupported_method"
)
# The 503 of /readyz is no failure of the API. Its lists are given, since a hundred generated names are more than a
# request line may have, which aiohttp refuses by itself, in plain text.
NOT_READY = """
[[operations]]
include-path = "/readyz"
parameters = { listener = "web", pool = "web" }
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", 503]
"""


@pytest.mark.slow
def test_schemathesis_finds_no_way_to_break_it(tmp_path: Path) -> None:
    """All of its phases within a minute, on everything but the stream, which never ends, and what ends the process."""
    examples_max = "100" if os.environ.get("L4LB_SOAK") else "15"
    (tmp_path / "schemathesis.toml").write_text(NOT_READY)
    with serving_api(tmp_path, "127.0.0.1:0") as process:
        address = process.wait_for(r"admin listening address=(\S+)")[1]
        program = [sys.executable, "-m", "schemathesis.cli", "run", f"http://{address}/openapi.json"]
        options = ["--checks", SCHEMATHESIS, "--max-examples", examples_max, "--exclude-path", "/v1/events"]
        options += ["--exclude-path", "/v1/drain", "--exclude-path", "/v1/upgrade"]
        more = ["--request-timeout", "20", "--generation-database", "none", "--no-color"]
        done = subprocess.run(
            [*program, *options, *more],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            env=without_preload(),
        )
        if done.returncode:
            pytest.fail(done.stdout[-6000:] + done.stderr[-2000:] + process.log[-2000:])
        assert "Traceback" not in process.log, process.log
        assert process.process.poll() is None
