"""Several workers, the control loop and traffic at once, with everything that control writes while workers run. It is
what `make tsan` looks at; by itself it asserts that every byte comes back."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from l4lb import Config, LoadBalancer
from tests.support.peers import connect, echo, serving
from tests.support.waiting import wait_until

FILE = """
[global]
workers = 4
access_log = "{directory}/access.log"
[admin]
bind = "unix:{directory}/admin.sock"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
{options}
[listeners.dns]
bind = "127.0.0.1:0"
protocol = "udp"
pool = "echo"
[pools.web]
policy = "least_sessions"
backends = ["{one}", "{two}"]
queue_size = 100
passive = {{ failures = 3 }}
health = {{ interval = "50ms", fast_interval = "50ms" }}
[pools.echo]
policy = "maglev"
table_size = 251
backends = ["{udp}"]
"""
OPTIONS = (
    "",
    'keepalive = { idle = "30s", interval = "5s", count = 3 }\nuser_timeout = "20s"',
    'bandwidth_up = "100MB/s"\nsession_rate = "100000/s"\nmax_sessions = 1000',
)


@contextlib.contextmanager
def udp_echo() -> Iterator[str]:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def answer() -> None:
            while (datagram := sock.recvfrom(65536))[0] != b"end":
                sock.sendto(*datagram)

        thread = threading.Thread(target=answer)
        thread.start()
        yield "{}:{}".format(*sock.getsockname())
        with socket.socket(type=socket.SOCK_DGRAM) as last:
            last.sendto(b"end", sock.getsockname())
        thread.join()


def tcp_session(address: str, size: int) -> None:
    with connect(address) as sock:
        data = bytes(range(256)) * (size // 256)
        sender = threading.Thread(target=sock.sendall, args=(data,))
        sender.start()
        got = bytearray()
        while len(got) < len(data) and (part := sock.recv(65536)):
            got += part
        sender.join()
        assert bytes(got) == data


def udp_session(address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.connect((host, int(port)))
        for number in range(5):
            sock.send(b"%d" % number)
            assert sock.recv(100) == b"%d" % number


def several(call: Callable[[], None], times: int, threads: int) -> list[threading.Thread]:
    def run() -> None:
        for _ in range(times):
            call()

    started = [threading.Thread(target=run) for _ in range(threads)]
    for thread in started:
        thread.start()
    return started


def test_workers_and_control_at_once(tmp_path: Path) -> None:
    failures: list[threading.ExceptHookArgs] = []
    before, threading.excepthook = threading.excepthook, failures.append
    with serving(echo) as one, serving(echo) as two, udp_echo() as udp:

        def config(options: str) -> Config:
            text = FILE.format(directory=tmp_path, options=options, one=one.address, two=two.address, udp=udp)
            return Config.loads(text)

        try:
            with LoadBalancer(config("")) as balancer:
                assert balancer.wait_ready(30)
                web, dns = (balancer.listeners[name].addresses[0] for name in ("web", "dns"))
                threads = several(lambda: tcp_session(web, 4096), 25, 4)
                threads += several(lambda: tcp_session(web, 1 << 20), 3, 2)
                threads += several(lambda: udp_session(dns), 10, 2)
                rounds = 0
                while any(thread.is_alive() for thread in threads) or rounds < 6:
                    balancer.reload(config(OPTIONS[rounds % len(OPTIONS)]))
                    balancer.stats()
                    balancer.sessions(pool="web")
                    balancer.pools["web"].add("127.0.0.1:1", weight=0)
                    balancer.pools["web"].remove("127.0.0.1:1")
                    balancer.reopen_logs()
                    rounds += 1
                for thread in threads:
                    thread.join()
                balancer.kill_sessions(pool="web")
                assert wait_until(lambda: balancer.stats().listeners["web"].closed)
        finally:
            threading.excepthook = before
    assert not failures, failures
