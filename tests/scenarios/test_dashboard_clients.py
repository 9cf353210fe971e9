"""What the dashboard shows of clients, and what becomes of them there: sessions, sources, bans; and what it shows to
those who may change nothing."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from l4lb import Client
from tests.support.browser import axe_violations, visiting
from tests.support.peers import connect, echo, serving
from tests.support.programs import free_port, l4lb
from tests.support.slow import first_and_slow
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("browser")

CONFIG = """
[admin]
token_file = "{tokens}"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
per_source = {{ sessions = 100 }}
[listeners.api]
bind = "127.0.0.1:0"
pool = "api"
[pools.web]
backends = [{{ address = "{address}", id = "one" }}]
health = {{ type = "none" }}
[pools.api]
backends = [{{ address = "{address}", id = "two" }}]
health = {{ type = "none" }}
"""
TOKENS = "s3cret alice\nl00k grafana read-only\n"
SESSION = "#session-table tbody tr"


@dataclass
class Place:
    """Two pools, with three clients at `web` and one at `api` that stay."""

    url: str
    clients: list[socket.socket]
    admin: Client

    def sessions(self) -> list[Any]:
        return list(self.admin.sessions())


@contextlib.contextmanager
def place(tmp_path: Path, tokens: str = "") -> Iterator[Place]:
    admin, file, token_file = f"127.0.0.1:{free_port()}", tmp_path / "lb.toml", tmp_path / "tokens"
    token_file.write_text(tokens)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(echo))
        file.write_text(CONFIG.format(address=server.address, tokens=token_file if tokens else ""))
        process = stack.enter_context(l4lb("serve", "-c", str(file), "--admin", admin))
        process.wait_for("admin listening")
        token = tokens.split()[0] if tokens else ""
        client = stack.enter_context(Client(admin, token=token, timeout=60))
        sockets = [stack.enter_context(connect(process.address(name))) for name in ("web", "web", "web", "api")]
        for sock in sockets:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        yield Place(f"http://{admin}", sockets, client)


def is_reset(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_sessions_are_listed_by_what_they_match_and_ended_one_by_one_or_together(tmp_path: Path) -> None:
    with place(tmp_path) as lb, visiting(lb.url, expected=("status of 422", "status of 400")) as visit:
        page = visit.page
        page.click("#sessions summary")
        page.wait_for_selector("#session-count:has-text('4 sessions at')")
        assert page.locator(SESSION).count() == 4
        assert page.locator("#end-sessions").is_hidden()  # without a filter it would be all of them
        page.select_option("#session-pool", "web")
        page.fill("#session-source", "127.0.0.0/8")
        page.keyboard.press("Enter")
        page.wait_for_selector("#session-count:has-text('3 sessions of pool web, client 127.0.0.0/8')")
        client = f"127.0.0.1:{lb.clients[0].getsockname()[1]}"
        assert sum(client in text for text in page.locator(SESSION).all_inner_texts()) == 1

        page.click(f"button[aria-label='End the session of {client}']")
        assert f"End the session of {client}?" in page.inner_text("#confirm")
        page.click("#confirm-no")
        assert len(lb.sessions()) == 4
        page.click(f"button[aria-label='End the session of {client}']")
        page.click("#confirm-yes")
        page.wait_for_selector("#session-count:has-text('2 sessions of pool web')")
        assert is_reset(lb.clients[0])
        assert visit.focused() == "Sessions"

        page.click("#end-sessions:text-is('End all 2')")
        assert "2 sessions matched at" in page.inner_text("#confirm-text")
        assert visit.focused() == "Cancel"
        page.click("#confirm-yes")
        page.wait_for_selector("#session-said:text-is('2 sessions of pool web, client 127.0.0.0/8 ended.')")
        page.wait_for_selector("#session-count:has-text('0 sessions of pool web')")
        assert [is_reset(one) for one in lb.clients[1:3]] == [True, True]
        assert [one["pool"] for one in lb.sessions()] == ["api"]

        page.fill("#session-source", "nonsense")
        page.keyboard.press("Enter")
        page.wait_for_selector("#session-count:has-text('No list:')")
        assert "nonsense" in page.inner_text("#session-count")


def test_a_session_that_ended_meanwhile_is_said_to_be_gone(tmp_path: Path) -> None:
    with place(tmp_path) as lb, visiting(lb.url, expected=("status of 404",)) as visit:
        visit.page.click("#sessions summary")
        visit.page.select_option("#session-pool", "api")
        visit.page.click("#session-form button:text-is('List')")
        visit.page.wait_for_selector("#session-count:has-text('1 session of pool api')")
        lb.admin.kill_sessions(pool="api")
        visit.page.click(f"{SESSION} button")
        visit.page.click("#confirm-yes")
        visit.page.wait_for_selector(".message:has-text('is not ended: id: no session')")
        visit.page.wait_for_selector("#session-count:has-text('0 sessions of pool api')")


def test_the_heaviest_sources_are_shown_and_one_is_banned_from_there(tmp_path: Path) -> None:
    with place(tmp_path) as lb, visiting(lb.url) as visit:
        page = visit.page
        page.click("#sources summary")
        row = page.locator("#source-table tbody tr")
        row.wait_for()
        assert row.count() == 1  # `api` counts none
        assert row.locator("[data-label=Sessions]").inner_text() == "3"
        page.select_option("#source-order", "bytes")
        page.click("button[aria-label='Ban 127.0.0.1 …']")
        assert page.input_value("#ban-cidr") == "127.0.0.1"
        assert page.input_value("#ban-listener") == "web"
        page.keyboard.type("too many")  # the reason has the focus
        page.keyboard.press("Enter")
        page.click("#confirm-yes")
        page.wait_for_selector("#ban-rows tr:has-text('too many')")
        assert [(one["cidr"], one["listener"]) for one in lb.admin.ask("GET", "/v1/bans")] == [("127.0.0.1/32", "web")]
        assert all(is_reset(one) for one in lb.clients[:3])
        visit.until("document.querySelector('#source-table [data-label=Sessions]')?.textContent === '0'")


def test_where_no_source_is_counted_it_says_so(tmp_path: Path) -> None:
    file, admin = tmp_path / "lb.toml", f"127.0.0.1:{free_port()}"
    file.write_text(CONFIG.format(address="127.0.0.1:1", tokens="").replace("per_source", "#"))
    with l4lb("serve", "-c", str(file), "--admin", admin) as process:
        process.wait_for("admin listening")
        with visiting(f"http://{admin}") as visit:
            visit.page.click("#sources summary")
            visit.page.wait_for_selector("#source-count:has-text('No source is known')")
            visit.page.click("#sources summary")
            visit.requests.clear()
            for _ in range(3):
                with visit.page.expect_request("**/v1/status"):
                    pass
            assert not any("v1/sources" in url for url in visit.requests)  # closed: not asked for


def test_who_may_change_nothing_sees_no_actions(tmp_path: Path) -> None:
    with place(tmp_path, TOKENS) as lb, visiting(lb.url, expected=("status of 401", "status of 403")) as visit:
        page = visit.page
        page.fill("#token", "l00k")
        page.keyboard.press("Enter")
        page.wait_for_selector("#who:text-is('grafana at 127.0.0.1: for reading alone')")
        page.click("#sessions summary")
        page.wait_for_selector(SESSION)
        page.select_option("#session-pool", "web")
        page.click("#session-form button:text-is('List')")
        page.wait_for_selector("#session-count:has-text('3 sessions of pool web')")
        assert [one.inner_text() for one in page.locator(".act:visible").all()] == []
        assert page.inner_text("tr:has-text('one') td[data-label='Admin state']").split() == ["ready"]
        assert page.inner_text("tr:has-text('one') td[data-label=Weight]").split() == ["1"]
        assert axe_violations(page) == []
        # what is refused is told in words, whatever made the page ask
        page.evaluate("document.body.classList.remove('read-only')")
        page.click(f"{SESSION} button >> nth=0")
        page.click("#confirm-yes")
        page.wait_for_selector(".message:has-text('is not ended: the token \"grafana\" is for reading alone')")
        assert len(lb.sessions()) == 4
        page.click("#forget")
        page.fill("#token", "s3cret")
        page.keyboard.press("Enter")
        page.wait_for_selector(f"{SESSION} button:visible")
        assert page.inner_text("#who") == ""


@pytest.mark.parametrize("width", first_and_slow(360, 1400))
def test_they_can_be_used_by_everyone(tmp_path: Path, width: int) -> None:
    with place(tmp_path) as lb, visiting(lb.url, viewport={"width": width, "height": 900}) as visit:
        page = visit.page
        for fold in ("sessions", "sources"):
            page.locator(f"#{fold} summary").focus()
            page.keyboard.press("Enter")
        page.wait_for_selector(SESSION)
        page.wait_for_selector("#source-table tbody tr")
        assert axe_violations(page) == []
        assert page.evaluate("document.scrollingElement.scrollWidth") == width
        assert wait_until(lambda: page.locator(f"{SESSION} .port").count() > 0)
