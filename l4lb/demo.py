"""An embedded pool of backends behind a load balancer, for `l4lb demo`.

The backends are small HTTP servers that answer with their name, and one that echoes datagrams, each on its own thread
and port.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from l4lb.balancer import LoadBalancer
from l4lb.config import AdminConfig, Backend, Config, HealthConfig, Listener, Pool
from l4lb.errors import ConfigError
from l4lb.model.states import Protocol

NAMES = ("one", "two", "three")
PREFERRED_PORT = 8080
PREFERRED_ECHO_PORT = 8081
PREFERRED_ADMIN_PORT = 9900
_ATTEMPTS = 5


def _handler(name: str) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = f"hello from backend {name}\n".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: the load balancer's own log is what the demo shows."""

    return Handler


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that went away; report everything else."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class DemoBackend:
    """One HTTP server on a free port of loopback. `stop` frees the port, as a killed process would."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._server = _Server(("127.0.0.1", 0), _handler(name))
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class DemoEcho:
    """A UDP server on a free port of loopback that echoes every datagram."""

    def __init__(self) -> None:
        self.name = "echo"
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        """Serve until a datagram comes from itself."""
        own = self._socket.getsockname()
        while True:
            data, peer = self._socket.recvfrom(65535)
            if peer == own:
                return
            with contextlib.suppress(OSError):  # no room to send: lost, as datagrams may be
                self._socket.sendto(data, peer)

    def stop(self) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


def _port(preferred: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """`preferred`, or 0 (the kernel's choice) when something listens there."""
    with socket.socket(type=kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            return 0
    return preferred


@dataclass(frozen=True, slots=True)
class Demo:
    """A running demo: the addresses for requests, for datagrams and of the dashboard."""

    balancer: LoadBalancer
    backends: tuple[DemoBackend, ...]

    @property
    def address(self) -> str:
        return self.balancer.listeners["web"].addresses[0]

    @property
    def echo_address(self) -> str:
        return self.balancer.listeners["echo"].addresses[0]

    @property
    def admin(self) -> str:
        return self.balancer.admin_address

    def send(self, requests: int) -> Counter[str]:
        """Send that many requests, one connection each. Returns how often each answer came."""
        answers: Counter[str] = Counter()
        host, _, port = self.address.rpartition(":")
        for _ in range(requests):
            connection = http.client.HTTPConnection(host, int(port), timeout=10)
            connection.request("GET", "/", headers={"Connection": "close"})
            answers[connection.getresponse().read().decode().strip()] += 1
            connection.close()
        return answers

    def send_datagrams(self, count: int) -> int:
        """Send that many datagrams, each from a new client. Returns how many came back."""
        host, _, port = self.echo_address.rpartition(":")
        returned = 0
        for number in range(count):
            with socket.socket(type=socket.SOCK_DGRAM) as client:
                client.settimeout(2)
                client.connect((host, int(port)))
                client.send(b"datagram %d" % number)
                with contextlib.suppress(TimeoutError):
                    returned += client.recv(100) == b"datagram %d" % number
        return returned


def demo_config(backends: tuple[DemoBackend, ...], echo: DemoEcho) -> Config:
    echo_port = _port(PREFERRED_ECHO_PORT, socket.SOCK_DGRAM)
    return Config(
        admin=AdminConfig(bind=f"127.0.0.1:{_port(PREFERRED_ADMIN_PORT)}"),
        listeners={
            "web": Listener(bind=[f"127.0.0.1:{_port(PREFERRED_PORT)}"], pool="web"),
            "echo": Listener(bind=[f"127.0.0.1:{echo_port}"], protocol=Protocol.UDP, pool="echo"),
        },
        pools={
            "web": Pool(
                backends=[Backend(address=backend.address, id=backend.name) for backend in backends],
                health=HealthConfig(interval=1.0, fast_interval=0.5, down_interval=1.0),
            ),
            "echo": Pool(backends=[Backend(address=echo.address, id=echo.name)], health=HealthConfig(type="none")),
        },
    )


def _started(backends: tuple[DemoBackend, ...], echo: DemoEcho) -> LoadBalancer:
    """Another process may take a port after `_port` has looked at it: then another port will do."""
    for attempts_left in reversed(range(_ATTEMPTS)):
        balancer = LoadBalancer(demo_config(backends, echo))
        try:
            balancer.start()
            break
        except ConfigError:
            if not attempts_left:
                raise
    return balancer


@contextlib.contextmanager
def running_demo() -> Iterator[Demo]:
    """Backends and load balancer, up and ready; gone afterwards."""
    backends = tuple(DemoBackend(name) for name in NAMES)
    echo = DemoEcho()
    try:
        with contextlib.closing(_started(backends, echo)) as balancer:
            balancer.wait_ready()
            yield Demo(balancer, backends)
    finally:
        for backend in backends:
            backend.stop()
        echo.stop()
