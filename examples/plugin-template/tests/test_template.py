"""Each extension in a running l4lb, found by its entry point."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from typing import ClassVar

import pytest

from l4lb import Config, ConfigError, Health, LoadBalancer

CONFIG = """
[global]
access_log = "plugin:tcp_lines"
access_log_options = {{ port = {log_port} }}
[admin]
bind = "off"
[listeners.mail]
bind = "127.0.0.1:0"
pool = "mail"
[pools.mail]
policy = "newest"
backends = [
  {{ address = "{old}", tags = {{ version = "9" }} }},
  {{ address = "{new}", tags = {{ version = "10" }} }},
]
health = {{ type = "banner", interval = "50ms", fast_interval = "50ms", options = {{ begins = "220 " }} }}
"""


def greeting(name: str) -> socket.socket:
    """A server that speaks first, on a thread that ends when its socket is closed."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            with sock:
                sock.sendall(f"220 {name}\r\n".encode())

    threading.Thread(target=serve, daemon=True).start()
    return listening


def test_policy_check_and_sink_together() -> None:
    with greeting("old") as old, greeting("new") as new, socket.create_server(("127.0.0.1", 0)) as collector:
        addresses = {"old": f"127.0.0.1:{old.getsockname()[1]}", "new": f"127.0.0.1:{new.getsockname()[1]}"}
        text = CONFIG.format(log_port=collector.getsockname()[1], **addresses)
        with LoadBalancer(Config.loads(text)) as lb:
            assert lb.wait_ready(30)
            assert {backend.health for backend in lb.pools["mail"].values()} == {Health.UP}  # the check
            host, port = lb.listeners["mail"].addresses[0].split(":")
            with socket.create_connection((host, int(port)), timeout=20) as client:
                assert client.recv(100) == b"220 new\r\n"  # the policy
                assert client.recv(100) == b""
            collector.settimeout(20)
            with collector.accept()[0] as log:  # the sink
                record = json.loads(log.makefile().readline())
        assert (record["listener"], record["backend"], record["bytes_down"]) == ("mail", addresses["new"], 9)


class Inventory(http.server.BaseHTTPRequestHandler):
    backends: ClassVar[list[object]] = []

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(self.backends).encode())

    def log_message(self, *_: object) -> None:
        pass


DISCOVERED = """
[admin]
bind = "off"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web.discovery]
type = "http_json"
options = {{ url = "http://127.0.0.1:{port}/web", every = 0.05 }}
"""


def wait_for(lb: LoadBalancer, backends: list[str]) -> None:
    deadline = time.monotonic() + 30
    while sorted(lb.pools["web"]) != backends:
        assert time.monotonic() < deadline, lb.status()["pools"]
        time.sleep(0.01)


def test_the_source_is_followed() -> None:
    Inventory.backends = ["127.0.0.1:1"]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Inventory) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            with LoadBalancer(Config.loads(DISCOVERED.format(port=server.server_port))) as lb:
                wait_for(lb, ["127.0.0.1:1"])
                Inventory.backends = ["127.0.0.1:1", {"address": "127.0.0.1:2", "weight": 3}]
                wait_for(lb, ["127.0.0.1:1", "127.0.0.1:2"])
                assert lb.pools["web"]["127.0.0.1:2"].weight == 3
        finally:
            server.shutdown()
            thread.join()


def test_wrong_options_are_errors_of_the_configuration() -> None:
    text = CONFIG.format(log_port=0, old="127.0.0.1:1", new="127.0.0.1:2")
    with pytest.raises(ConfigError, match=r"global\.access_log: .* expected a port, such as"):
        LoadBalancer(Config.loads(text)).start()
