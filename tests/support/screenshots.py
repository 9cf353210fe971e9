"""Makes the pictures of the dashboard in `docs/`: ``python -m tests.support.screenshots``, six minutes.

Three pools on a real balancer, with traffic that comes and goes, a backend that fails and comes back, one that is down
and one that is drained.
"""

from __future__ import annotations

import contextlib
import math
import random
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.support.browser import chromium, stop_chromium
from tests.support.peers import TIMEOUT_S, Server, connect, running
from tests.support.programs import L4lb, free_port, l4lb

DOCS = Path("docs")
SIZE = {"width": 1600, "height": 960}
SECONDS = 330
CLIENTS = 24
POLICIES = {"web": "least_sessions", "api": "maglev", "postgres": "round_robin"}
BACKENDS = {"web": 4, "api": 3, "postgres": 2}


def answer(sock: socket.socket) -> None:
    """After a little thought, a few times what was asked."""
    while data := sock.recv(1 << 16):
        time.sleep(random.expovariate(1 / 0.01))
        sock.sendall(data * random.randint(1, 30))


def ask(addresses: list[tuple[str, int]], number: int, stop: threading.Event) -> None:
    """Sessions of a client that is busier at some times than at others."""
    while not stop.wait(0.3 * (1.3 + math.sin(time.monotonic() / 25 + number / 9)) * random.random() * 3):
        with contextlib.suppress(OSError), connect(random.choice(addresses)) as sock:
            for _ in range(random.randint(1, 12)):
                sock.sendall(random.randbytes(random.randint(200, 6000)))
                sock.recv(1 << 16)
                if stop.wait(random.random() * 0.2):
                    break


def configuration(servers: dict[str, Server], admin: str) -> str:
    parts = [f'[admin]\nbind = "{admin}"\n']
    for pool, policy in POLICIES.items():
        entries = ", ".join(
            f'{{ address = "{server.address}", id = "{name}", zone = "rack-{name[-1]}" }}'
            for name, server in servers.items()
            if name.startswith(pool)
        )
        parts.append(f'[listeners.{pool}]\nbind = "127.0.0.1:0"\npool = "{pool}"\n')
        parts.append(f'[pools.{pool}]\npolicy = "{policy}"\nbackends = [{entries}]\n')
        parts.append('health = { interval = "1s", down_interval = "1s" }\npassive = { failures = 0 }\n')
    return "\n".join(parts)


@contextlib.contextmanager
def traffic(process: L4lb) -> Iterator[None]:
    stop = threading.Event()
    addresses = [process.address(name) for name in POLICIES]
    clients = [threading.Thread(target=ask, args=(addresses, number, stop)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        stop.set()
        for client in clients:
            client.join(TIMEOUT_S)


def open_page(browser: Browser, scheme: str, url: str) -> Page:
    context = browser.new_context(viewport=SIZE, color_scheme=scheme, device_scale_factor=1.5)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector(".name")
    return page


def story(page: Page, servers: dict[str, Server], stack: contextlib.ExitStack) -> None:
    """What happens meanwhile."""
    failing = servers["web-3"]
    port = failing.port
    page.wait_for_timeout(SECONDS * 300)
    failing.stop()
    page.wait_for_timeout(SECONDS * 200)
    stack.enter_context(running(Server(answer, port=port)))
    page.wait_for_timeout(SECONDS * 250)
    page.click("button[aria-label='drain postgres-1']")
    page.click("#confirm-yes")
    page.wait_for_timeout(SECONDS * 150)
    servers["api-2"].stop()
    page.wait_for_timeout(SECONDS * 100)


def main() -> None:
    DOCS.mkdir(exist_ok=True)
    admin = f"127.0.0.1:{free_port()}"
    with contextlib.ExitStack() as stack:
        stack.callback(stop_chromium)
        names = [f"{pool}-{number}" for pool, count in BACKENDS.items() for number in range(1, count + 1)]
        servers = {name: stack.enter_context(running(Server(answer))) for name in names}
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "lb.toml"
        file.write_text(configuration(servers, admin))
        process = stack.enter_context(l4lb("serve", "-c", str(file), "--admin", admin))
        process.wait_for("admin listening")
        stack.enter_context(traffic(process))
        browser = stack.enter_context(chromium())
        pages = {scheme: open_page(browser, scheme, f"http://{admin}/") for scheme in ("light", "dark")}
        story(pages["light"], servers, stack)
        for scheme, page in pages.items():
            page.evaluate("scrollTo(0, 0), document.activeElement.blur()")
            page.screenshot(path=DOCS / ("dashboard.png" if scheme == "light" else "dashboard-dark.png"))


if __name__ == "__main__":
    main()
