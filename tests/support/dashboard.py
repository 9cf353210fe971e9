"""A real `l4lb serve` with nginx behind it and traffic through it, for tests of its dashboard."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.programs import L4lb, Nginx, free_port, l4lb, nginx

CONFIG = """
[admin]
bind = "{admin}"
token_file = "{token_file}"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = [{backends}]
connect_attempts = 3
passive = {{ failures = 0 }}
health = {{ interval = "100ms", fast_interval = "50ms", down_interval = "100ms" }}
"""
ROW = "tr:has(th .name:text-is('{}'))"


@dataclass
class World:
    """One pool, `web`, of three nginx called one, two and three, and a client that asks all the time."""

    url: str
    file: Path
    token: str
    process: L4lb
    web: tuple[str, int]
    backends: dict[str, Nginx]
    stop: threading.Event = field(default_factory=threading.Event)

    def api(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=20)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        assert response.status in (200, 201), answer
        return answer

    def backend(self, name: str) -> Any:
        return next(one for one in self.api("GET", "/v1/pools/web")["backends"] if one["id"] == name)

    def ask(self) -> None:
        """Requests, one at a time, until the end; a client that is turned away comes again."""
        while not self.stop.wait(0.02):
            with contextlib.suppress(OSError, http.client.HTTPException):
                with contextlib.closing(http.client.HTTPConnection(*self.web, timeout=5)) as connection:
                    connection.request("GET", "/")
                    connection.getresponse().read()


@contextlib.contextmanager
def world(tmp_path: Path, token: str = "") -> Iterator[World]:
    token_file = tmp_path / "token"
    token_file.write_text(token)
    file = tmp_path / "lb.toml"
    with contextlib.ExitStack() as stack:
        backends = {name: stack.enter_context(nginx(name)) for name in ("one", "two", "three")}
        entries = ", ".join(f'{{ address = "{one.address}", id = "{name}" }}' for name, one in backends.items())
        admin = f"127.0.0.1:{free_port()}"
        file.write_text(CONFIG.format(admin=admin, backends=entries, token_file=token_file if token else ""))
        process = stack.enter_context(l4lb("serve", "-c", str(file), "--admin", admin))
        for name in backends:
            process.wait_for(rf"backend up pool=web backend={name}")
        found = World(f"http://{admin}", file, token, process, process.address("web"), backends)
        client = threading.Thread(target=found.ask)
        client.start()
        try:
            yield found
        finally:
            found.stop.set()
            client.join()
