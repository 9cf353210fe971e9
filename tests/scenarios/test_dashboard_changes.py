"""What the dashboard shows of changes: events by level, pool and text; the configuration, its file, who changed it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb import Client
from tests.support.browser import Visit, axe_violations, visiting
from tests.support.programs import free_port, l4lb
from tests.support.slow import first_and_slow

pytestmark = pytest.mark.usefixtures("browser")

CONFIG = """
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
max_sessions = {limit}
[pools.web]
backends = [{{ address = "127.0.0.1:1", id = "one" }}, {{ address = "127.0.0.1:2", id = "two" }}]
health = {{ type = "none" }}
[pools.api]
backends = ["127.0.0.1:9"]
health = {{ type = "tcp", interval = "1s", fast_interval = "200ms" }}
"""
EVENT = "#events li:visible"


@contextlib.contextmanager
def served(tmp_path: Path) -> Iterator[tuple[str, Client, Path]]:
    admin, file = f"127.0.0.1:{free_port()}", tmp_path / "lb.toml"
    file.write_text(CONFIG.format(limit=7))
    with l4lb("serve", "-c", str(file), "--admin", admin) as process:
        process.wait_for("backend down pool=api")
        with Client(admin, timeout=60) as client:
            yield f"http://{admin}", client, file


def shown(visit: Visit) -> str:
    return "\n".join(visit.page.locator(EVENT).all_inner_texts())


def test_events_are_shown_by_level_pool_and_text(tmp_path: Path) -> None:
    with served(tmp_path) as (url, client, _), visiting(url) as visit:
        page = visit.page
        page.wait_for_selector(f"{EVENT}:has-text('backend down')")
        client.pools["web"]["one"].set_weight(5)
        page.wait_for_selector(f"{EVENT}:has-text('backend set')")
        page.select_option("#event-level", "warning")
        assert "backend down" in shown(visit)
        assert "listening" not in shown(visit)
        page.select_option("#event-pool", "web")
        page.wait_for_selector("#events-none:has-text('None of the latest')")
        assert shown(visit) == ""
        page.select_option("#event-level", "changes")
        assert "weight 5" in shown(visit)
        assert "by 127.0.0.1" in shown(visit)
        page.select_option("#event-level", "all")
        page.select_option("#event-pool", "")
        page.fill("#event-text", "set ONE")
        assert page.locator(EVENT).count() == 1
        client.pools["web"]["two"].set_weight(6)
        client.pools["web"]["one"].set_weight(8)  # what comes later is filtered too
        page.wait_for_selector(f"{EVENT}:has-text('weight 8')")
        assert page.locator(EVENT).count() == 2


def test_it_says_how_the_file_differs_and_who_changed_what(tmp_path: Path) -> None:
    with served(tmp_path) as (url, client, file), visiting(url) as visit:
        page = visit.page
        page.click("#configuration summary")
        page.wait_for_selector(f"#config-said:text-is('{file} says what runs.')")
        assert page.locator("#config-diff").is_hidden()
        client.pools["web"]["one"].set_weight(5)  # heard, and compared again
        page.wait_for_selector("#config-said:has-text('differs from what runs in 1 place.')")
        row = page.inner_text("#config-diff tbody tr")
        assert row.split() == ["pools.web.backends[one].weight", "5", "1"]
        change = page.inner_text("#config-changes tbody tr")
        assert "backend set" in change
        assert "weight 5" in change
        assert "127.0.0.1" in change
        file.write_text(CONFIG.format(limit=8) + '[pools.new]\nbackends = ["127.0.0.1:1"]\n')
        page.click("#config-again")
        page.wait_for_selector("#config-said:has-text('in 3 places')")
        assert page.inner_text("#config-diff tr:has-text('listeners.web.max_sessions')").split()[1:] == ["7", "8"]
        assert page.inner_text("#config-diff tr:has-text('pools.new')").split()[1] == "–"  # noqa: RUF001
        file.write_text("[listeners.web]\npool = 3\n")
        page.click("#config-again")
        page.wait_for_selector(f"#config-said:text-is('A reload of {file} would be refused:')")
        assert f"{file}:2: listeners.web.pool" in page.inner_text("#config-problems")
        assert page.locator("#config-diff").is_hidden()


def test_every_key_in_use_can_be_found(tmp_path: Path) -> None:
    with served(tmp_path) as (url, _, _), visiting(url) as visit:
        page = visit.page
        page.click("#configuration summary")
        page.wait_for_selector("#config-keys li")
        page.fill("#config-find", "WEB max_sessions")
        page.wait_for_selector("#config-keys li:text-is('listeners.web.max_sessions = 7')")
        assert page.locator("#config-keys li").count() == 3  # its backends have one each
        page.fill("#config-find", "no such key")
        page.wait_for_selector("#config-more:text-is('No key or value has that.')")


def test_without_a_file_there_is_nothing_to_compare_with() -> None:
    admin = f"127.0.0.1:{free_port()}"
    with l4lb("serve", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1", "--admin", admin) as process:
        process.wait_for("admin listening")
        with visiting(f"http://{admin}", expected=("status of 409",)) as visit:
            visit.page.click("#configuration summary")
            visit.page.wait_for_selector(
                "#config-said:has-text('Nothing to compare with: this process has read no file')"
            )


@pytest.mark.parametrize("width", first_and_slow(360, 1400))
def test_they_can_be_used_by_everyone(tmp_path: Path, width: int) -> None:
    with served(tmp_path) as (url, client, _), visiting(url, viewport={"width": width, "height": 900}) as visit:
        client.pools["web"]["one"].set_weight(5)
        visit.page.locator("#configuration summary").focus()
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_selector("#config-diff tbody tr")
        visit.page.wait_for_selector("#config-changes tbody tr")
        visit.page.wait_for_selector("#config-keys li")
        assert axe_violations(visit.page) == []
        assert visit.page.evaluate("document.scrollingElement.scrollWidth") == width
