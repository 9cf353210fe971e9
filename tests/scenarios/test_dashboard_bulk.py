"""What is done from the dashboard to several backends at once, and to listeners."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from l4lb import Client
from tests.support.browser import axe_violations, visiting
from tests.support.peers import connect, echo, serving
from tests.support.programs import L4lb, free_port, l4lb
from tests.support.slow import first_and_slow
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("browser")

CONFIG = """
[global]
drain_timeout = "10m"
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "web"
[pools.web]
backends = [{{ address = "{address}", id = "one" }}, "127.0.0.1:1", "127.0.0.1:2"]
policy = "first"
health = {{ type = "none" }}
[pools.api]
backends = ["127.0.0.1:3", "127.0.0.1:4"]
health = {{ type = "none" }}
"""


@dataclass
class Place:
    url: str
    admin: Client
    process: L4lb
    port: int

    def of(self, pool: str, key: str) -> list[object]:
        """By the backends' ids."""
        backends = self.admin.ask("GET", f"/v1/pools/{pool}/backends")
        return [one[key] for one in sorted(backends, key=lambda one: str(one["id"]))]


@contextlib.contextmanager
def place(tmp_path: Path) -> Iterator[Place]:
    admin, port, file = f"127.0.0.1:{free_port()}", free_port(), tmp_path / "lb.toml"
    with serving(echo) as server:
        file.write_text(CONFIG.format(address=server.address, port=port))
        with l4lb("serve", "-c", str(file), "--admin", admin) as process, Client(admin, timeout=60) as client:
            process.wait_for("admin listening")
            yield Place(f"http://{admin}", client, process, port)


def test_several_backends_are_changed_at_once_after_it_was_said_what_comes_of_it(tmp_path: Path) -> None:
    with place(tmp_path) as lb, visiting(lb.url) as visit, connect(("127.0.0.1", lb.port)) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        page = visit.page
        page.wait_for_selector("input[aria-label='Select one']")
        assert page.locator("#bulk").is_hidden()
        page.check("input[aria-label='Select one']")
        page.check("input[aria-label='Select 127.0.0.1:3']")
        page.wait_for_selector("#bulk-count:text-is('2 backends selected in 2 pools')")
        visit.until("document.querySelector('tr:has(input:checked) [data-label=Sessions]').textContent === '1'")
        page.click("#bulk-drain")
        assert page.inner_text("#confirm-title") == "Drain 2 backends?"
        assert page.locator("#confirm-items li").all_inner_texts() == [
            "web: 1 of 3 backends with 1 session; 2 usable backends left for new clients",
            "api: 1 of 2 backends with 0 sessions; 1 usable backend left for new clients",
        ]
        page.click("#confirm-no")
        assert lb.of("web", "admin_state") == ["ready"] * 3
        page.click("#bulk-drain")
        page.click("#confirm-yes")
        assert wait_until(lambda: lb.of("web", "admin_state") == ["ready", "ready", "drain"])
        assert wait_until(lambda: lb.of("api", "admin_state") == ["drain", "ready"])
        visit.hear("2 backends: admin state drain")
        client.sendall(b"y")
        assert client.recv(1) == b"y"  # its session goes on
        page.click("#bulk-clear")
        assert page.locator("#bulk").is_hidden()
        assert page.locator("tbody input:checked").count() == 0


def test_what_would_leave_a_pool_without_a_usable_backend_is_warned_of(tmp_path: Path) -> None:
    with place(tmp_path) as lb, visiting(lb.url) as visit:
        page = visit.page
        page.click("button[aria-label='Select all 2 of pool api']")
        page.wait_for_selector("#bulk-count:text-is('2 backends selected')")
        page.fill("#bulk-weight", "0")
        page.keyboard.press("Enter")
        assert page.inner_text("#confirm-title") == "Set the weight of 2 backends to 0?"
        assert "No usable backend is left in pool api" in page.inner_text("#confirm-warning")
        assert visit.focused() == "Cancel"
        page.keyboard.press("Enter")
        assert lb.of("api", "weight") == [1, 1]
        page.fill("#bulk-weight", "7")
        page.keyboard.press("Enter")
        assert page.locator("#confirm-warning").is_hidden()
        page.keyboard.press("Enter")
        assert wait_until(lambda: lb.of("api", "weight") == [7, 7])
        visit.hear("2 backends: weight 7")
        page.click("#bulk-ready")  # nothing is asked, for nothing would change
        visit.hear("have admin state ready already")
        assert page.locator("#confirm[open]").count() == 0
        assert page.inner_text("#bulk-said") == "All that are selected have admin state ready already."


def test_those_that_cannot_be_changed_are_told_of_with_the_reason(tmp_path: Path) -> None:
    expected = ("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_NETWORK")
    with place(tmp_path) as lb, visiting(lb.url, expected=expected) as visit:
        page = visit.page
        page.click("button[aria-label='Select all 3 of pool web']")
        page.click("#bulk-maint")
        lb.process.process.kill()
        lb.process.wait()
        page.click("#confirm-yes")
        page.wait_for_selector(".message:has-text('3 of 3 backends were not changed: no connection to l4lb')")


def test_what_is_gone_is_not_selected_any_more(tmp_path: Path) -> None:
    with place(tmp_path) as lb, visiting(lb.url) as visit:
        visit.page.check("input[aria-label='Select 127.0.0.1:4']")
        visit.page.wait_for_selector("#bulk:visible")
        lb.admin.pools["api"].remove("127.0.0.1:4")
        visit.page.wait_for_selector("#bulk", state="hidden")


def test_a_listener_is_drained_and_resumed(tmp_path: Path) -> None:
    with place(tmp_path) as lb, visiting(lb.url) as visit, connect(("127.0.0.1", lb.port)) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        page = visit.page
        visit.until("document.querySelector('#listeners [data-label=Sessions]')?.textContent === '1'")
        page.click("button[aria-label='drain listener web']")
        page.wait_for_selector("#confirm[open]")
        text = page.inner_text("#confirm-text")
        assert text == (
            "It accepts nobody from now on. Its 1 session may go on for 10 min; what is left then is reset."
        )
        assert "are refused" in page.inner_text("#confirm-warning")
        page.click("#confirm-yes")
        page.wait_for_selector("#listeners td.address:has-text('draining, ')")
        note = "listener web is being drained: it accepts nobody, 1 session left, for "
        page.wait_for_selector(f"#problems .note:has-text('{note}'):has-text(' at most')")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", lb.port), timeout=60)
        client.sendall(b"y")
        assert client.recv(1) == b"y"
        page.click("button[aria-label='resume listener web']")
        page.wait_for_selector(f"#listeners td.address:has-text('127.0.0.1:{lb.port}')")
        visit.hear("Listener web accepts again")
        with connect(("127.0.0.1", lb.port)) as again:
            again.sendall(b"z")
            assert again.recv(1) == b"z"


@pytest.mark.parametrize("width", first_and_slow(360, 1400))
def test_they_can_be_used_by_everyone(tmp_path: Path, width: int) -> None:
    with place(tmp_path) as lb, visiting(lb.url, viewport={"width": width, "height": 900}) as visit:
        page = visit.page
        page.locator("button[aria-label='Select all 3 of pool web']").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#bulk:visible")
        assert axe_violations(page) == []
        assert page.evaluate("document.scrollingElement.scrollWidth") == width
        page.locator("#bulk-drain").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#confirm[open]")
        assert axe_violations(page) == []
        page.keyboard.press("Escape")
        assert visit.focused() == "drain"
