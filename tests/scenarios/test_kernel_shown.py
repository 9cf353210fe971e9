"""What operators see of a listener that the kernel forwards: status, metrics, dashboard, explain."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb.client import Client
from l4lb.errors import AdminError
from tests.scenarios.test_kernel_listener import CLIENTS, DIRECT, SERVERS, SERVICE, World, both, world
from tests.support.browser import axe_violations, visiting
from tests.support.forwarding import said
from tests.support.namespaces import BACKEND, FRONT, Hosts
from tests.support.programs import l4lb
from tests.support.slow import first_and_slow
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("browser")


def metrics(made: World, name: str) -> dict[tuple[str, ...], float]:
    """By the values of their labels, in the order of the names."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.connect(made.admin.removeprefix("unix:"))
        sock.sendall(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        text = b"".join(iter(lambda: sock.recv(1 << 16), b"")).decode()
    found = {}
    for labels, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE):
        found[tuple(value for _, value in sorted(re.findall(r'(\w+)="(.*?)"', labels)))] = float(value)
    return found


def test_status_and_metrics(hosts: Hosts, tmp_path: Path) -> None:
    with world(hosts, tmp_path) as made:
        answers = both(made)
        assert {made.query(f"q{number}") for number in range(30)} == {"8001", "8002"}
        listener = made.listener("web")
        assert (listener["engine"], listener["in_kernel"]["mode"]) == ("kernel", "nat")
        devices = listener["in_kernel"]["devices"]
        assert len(devices) == 2
        assert {(one["way"], one["tried"]) for one in devices} == {("tcx", "")}
        traffic = listener["in_kernel"]["traffic"]
        assert traffic["packets_up"] >= 3 * len(answers)  # SYN, ACK, what it asks
        assert traffic["packets_down"] >= 2 * len(answers)
        assert traffic["bytes_up"] > 54 * traffic["packets_up"]
        assert (made.listener("proxied")["engine"], made.listener("proxied")["in_kernel"]) == ("proxy", None)
        table = made.command("status")
        assert "kernel, nat" in table
        assert f"{devices[0]['device']} by tcx" in table
        assert "PACKETS UP" in table
        packets = metrics(made, "l4lb_packets_total")
        backends = [f"{BACKEND[4]}:{port}" for port in (8001, 8002)]
        for way in ("up", "down"):
            of_pool = sum(packets[backend, way, "web"] for backend in backends)
            assert of_pool == metrics(made, "l4lb_listener_packets_total")[way, "web"] == traffic[f"packets_{way}"]
            assert metrics(made, "l4lb_listener_bytes_total")[way, "web"] == traffic[f"bytes_{way}"]
        assert sum(packets[backend, "up", "dns"] for backend in backends) == 30
        assert not any("proxied" in labels for labels in packets)
        assert {one["latency"] for one in made.backends("web").values()} == {None}, "nobody sees how long they take"
        times = metrics(made, "l4lb_backend_first_byte_seconds_count")
        assert not any("web" in labels for labels in times)
        assert metrics(made, "l4lb_kernel_packets_total")["forwarded",] >= traffic["packets_up"] + 30


def test_nobody_claims_to_know_what_backends_answer_directly(hosts: Hosts, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        service, backend = SERVICE[4], BACKEND[4]
        hosts.backend.run("ip", "addr", "add", f"{service}/32", "dev", "lo")
        stack.callback(hosts.backend.run, "ip", "addr", "del", f"{service}/32", "dev", "lo")
        server = stack.enter_context(hosts.backend.python(SERVERS, "8001", backend, service))
        assert said(server) == "up"
        shown = hosts.balancer.run("ip", "-o", "-4", "addr", "show")
        device = next(line.split()[1] for line in shown.splitlines() if f" {FRONT[4]}/" in line)
        made = World(hosts, None, None, tmp_path / "lb.toml")  # type: ignore[arg-type]
        made.file.write_text(DIRECT.format(service=service, device=device, backend=backend, attach="tcx"))
        arguments = ("serve", "-c", str(made.file), "--admin", made.admin)
        made.process = stack.enter_context(l4lb(*arguments, network=hosts.balancer.name))
        made.process.wait_for("backend up")
        made._client = stack.enter_context(hosts.client.python(CLIENTS))
        assert made._say("ask", "one", service, 8001) == "8001"
        seen = made.listener("web")["in_kernel"]
        assert (seen["mode"], [one["device"] for one in seen["devices"]]) == ("dsr", [device])
        assert seen["traffic"]["packets_up"] >= 3
        assert seen["traffic"]["packets_down"] is seen["traffic"]["bytes_down"] is None
        assert set(metrics(made, "l4lb_listener_packets_total")) == {("up", "web")}
        assert set(metrics(made, "l4lb_packets_total")) == {(f"{backend}:8001", "up", "web")}
        assert re.search(r"  - ", made.command("status"))


def test_a_limit_of_sessions_is_refused_at_runtime_too(hosts: Hosts, tmp_path: Path) -> None:
    with world(hosts, tmp_path) as made, Client(made.admin) as client:
        pool, first = client.pools["web"], f"{BACKEND[4]}:8001"
        for change in (
            lambda: pool[first].set(max_sessions=5),
            lambda: pool.add(f"{BACKEND[4]}:8003", max_sessions=5),
            lambda: pool.add("unix:/run/app.sock"),
            lambda: pool.add(f"[{BACKEND[6]}]:8003"),
            lambda: client.pools["web6"].add(f"{BACKEND[4]}:8003"),
        ):
            with pytest.raises(AdminError, match='engine = "kernel"') as error:
                change()
            assert (error.value.status, error.value.code) == (422, "invalid")
        assert set(made.backends("web")) == {f"{BACKEND[4]}:8001", f"{BACKEND[4]}:8002"}
        assert {one["max_sessions"] for one in made.backends("web").values()} == {0}
        pool[first].set(weight=3)


@contextlib.contextmanager
def reachable(made: World) -> Iterator[str]:
    """The URL of its admin API: it is in a network of its own, and browsers know no unix sockets."""

    def pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve(near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far:
            far.connect(made.admin.removeprefix("unix:"))
            back = threading.Thread(target=pass_on, args=(far, near))
            back.start()
            pass_on(near, far)
            back.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=serve, args=(listening.accept()[0],)))
                threads[-1].start()

    threads: list[threading.Thread] = []
    listening = socket.create_server(("127.0.0.1", 0))
    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for thread in (accepting, *threads):
            thread.join()


@pytest.mark.parametrize("width", first_and_slow(380, 1440))
def test_the_dashboard(width: int, hosts: Hosts, tmp_path: Path) -> None:
    with world(hosts, tmp_path) as made, reachable(made) as url:
        both(made)
        with visiting(url, viewport={"width": width, "height": 900}) as visit:
            page = visit.page
            page.wait_for_selector("#listeners tbody tr >> nth=3")
            cell = "#listeners tr:has(th:text-is('{}')) td[data-label^={}]"
            engine = page.locator(cell.format("web", "Engine")).inner_text()
            assert re.search(r"kernel, nat: \S+ by tcx, \S+ by tcx", engine)
            assert page.locator(cell.format("proxied", "Engine")).inner_text().endswith("proxy")
            assert page.locator(cell.format("proxied", "Packets")).inner_text().endswith("\u2013")
            wanted = page.locator(cell.format("web", "Packets"))

            def moves() -> bool:
                assert made.ask("4-0") in ("8001", "8002")
                return bool(re.search(r"[1-9]\S*/s / \S*[1-9]\S*/s", wanted.inner_text()))

            assert wait_until(moves, 60)
            facts = page.locator(".pool:has(h3:has-text('web')) .facts").first.inner_text()
            assert re.search(r"maglev · in the kernel, \S+/s packets", facts)
            page.screenshot(path=tmp_path / "page.png", full_page=True)
            assert axe_violations(page) == []
            assert page.evaluate("document.scrollingElement.scrollWidth") == width
