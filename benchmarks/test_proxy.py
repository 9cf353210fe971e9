"""What a PROXY header costs a one-request session: l4lb with it against l4lb without, in interleaved rounds."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import hostile, trains
from benchmarks.comparing import Bar
from benchmarks.conftest import Compare
from benchmarks.load import wrk
from benchmarks.peers import Peer, Tcp, Udp, listens, peer
from tests.support.programs import free_port, free_ports, program
from tests.support.waiting import wait_until

NGINX = """daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; default_type text/plain;
  client_body_temp_path {directory}/a; proxy_temp_path {directory}/b; fastcgi_temp_path {directory}/c;
  uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;
  server {{ listen 127.0.0.1:{plain} backlog=4096; location / {{ return 200 "hello\\n"; }} }}
  server {{ listen 127.0.0.1:{proxied} backlog=4096 proxy_protocol; location / {{ return 200 "hello\\n"; }} }}
}}
"""
# A header of version 2 before each request: the connection is closed after it. wrk looks at the first request of its
# first thread itself, to see that it is HTTP, and does not send it.
HEADER = r"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\1\xc6\x33\x64\7\x9c\x40\1\xbb"
HEADER_FIRST = r"""local header = "{header}"
local threads = 0
setup = function(thread)
  thread:set("looked_at", threads > 0)
  threads = threads + 1
end
request = function()
  local first = looked_at and header or ""
  looked_at = true
  return first .. wrk.format("GET", "/")
end
"""
CLIENTS, THREADS = 200, 2  # as many as keep two cores busy: else the rate is that of sleeping and waking
HOSTILE_RATE = 50_000
BARS = (Bar("CPU us", 1.03), Bar("requests/s", 0.97, higher_is_better=True))  # of one header
BARS_OF_TWO = (Bar("CPU us", 1.06), Bar("requests/s", 0.94, higher_is_better=True))
ACCEPT = 'accept_proxy = "v2"\nproxy_trusted = ["127.0.0.1"]'
SEND = 'send_proxy = "v2"'


@dataclass
class Backend:
    """One nginx on two ports, of which one expects headers."""

    plain: int
    proxied: int


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    directory, plain = tmp_path_factory.mktemp("nginx"), free_ports(2)
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(directory=directory, plain=plain, proxied=plain + 1))
    arguments = ["-p", str(directory), "-c", str(config), "-e", str(directory / "error.log")]
    with program("nginx", arguments, plain, directory / "log"):
        yield Backend(plain, plain + 1)


def test_sending(compare: Compare, backend: Backend, tmp_path: Path, seconds: int) -> None:
    with_header = peer("l4lb", backend.proxied, tmp_path, service=Tcp(pool=SEND), probe=False)
    with peer("l4lb", backend.plain, tmp_path) as without, with_header as sending:
        running = [sending, dataclasses.replace(without, name="without")]
        title = f"one-request sessions with send_proxy against without, {CLIENTS} clients"
        seen = compare(title, BARS, running, lambda one: wrk(one, CLIENTS, seconds, close=True, threads=THREADS))
    assert seen.total("l4lb", "failed") == 0


def test_accepting(compare: Compare, backend: Backend, tmp_path: Path, seconds: int) -> None:
    _against_plain(compare, (tmp_path, seconds), backend, "accept_proxy", Tcp(listener=ACCEPT), BARS)


def test_accepting_deferred(compare: Compare, backend: Backend, tmp_path: Path, seconds: int) -> None:
    service = Tcp(listener=f'{ACCEPT}\ndefer_accept = "1s"')
    _against_plain(compare, (tmp_path, seconds), backend, "accept_proxy and defer_accept", service, BARS)


def test_accepting_and_sending(compare: Compare, backend: Backend, tmp_path: Path, seconds: int) -> None:
    service = Tcp(listener=ACCEPT, pool=SEND)
    _against_plain(compare, (tmp_path, seconds), backend, "accept_proxy and send_proxy", service, BARS_OF_TWO)


def test_hostile_headers(compare: Compare, tmp_path: Path, seconds: int) -> None:
    """50,000 a second by UDP, at the one whose client is timed or at another: the machine is as busy either way."""
    udp, backend = Udp(listener=ACCEPT), free_port()
    with contextlib.ExitStack() as stack:
        stack.enter_context(trains.echo_server(backend))
        assert wait_until(lambda: listens(backend, udp=True))
        one, without, other = (stack.enter_context(peer("l4lb", backend, tmp_path, udp)) for _ in range(3))

        def work(timed: Peer) -> tuple[float, dict[str, float]]:
            with hostile.attacker((one if timed is one else other).port, HOSTILE_RATE) as sent:
                before, began = sent.value, time.monotonic()
                answers, figures = hostile.ask(timed, seconds)
                return answers, {**figures, "hostile/s": (sent.value - before) / (time.monotonic() - began)}

        title = "asking by UDP among 50,000 hostile headers a second, against asking beside them"
        running = [one, dataclasses.replace(without, name="without")]
        seen = compare(title, (Bar("p50 us", 1.05), Bar("p99 us", 1.1)), running, work)
    assert seen.total("l4lb", "failed") == 0


def _against_plain(
    compare: Compare, where: tuple[Path, int], backend: Backend, what: str, service: Tcp, bars: tuple[Bar, ...]
) -> None:
    """Clients of the one with `service` send a header first; those of the other run the same script, which is what
    limits them, without one."""
    directory, seconds = where
    for name, header in (("l4lb", HEADER), ("without", "")):
        (directory / f"{name}.lua").write_text(HEADER_FIRST.replace("{header}", header))

    def work(one: Peer) -> tuple[float, dict[str, float]]:
        script = directory / f"{one.name}.lua"
        return wrk(one, CLIENTS, seconds, close=True, threads=THREADS, script=script)

    behind = backend.proxied if service.pool else backend.plain
    with_header = peer("l4lb", behind, directory, service=service, probe=False)
    with peer("l4lb", backend.plain, directory) as without, with_header as one:
        running = [one, dataclasses.replace(without, name="without")]
        seen = compare(f"one-request sessions with {what} against without, {CLIENTS} clients", bars, running, work)
    assert seen.total("l4lb", "failed") == 0
