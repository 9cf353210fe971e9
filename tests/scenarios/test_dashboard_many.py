"""The dashboard with much to show: what is worst comes first, and what there is more of takes no room."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import Visit, axe_violations, visiting
from tests.support.peers import echo, serving
from tests.support.programs import free_port, l4lb
from tests.support.slow import first_and_slow

pytestmark = pytest.mark.usefixtures("browser")

POOL = """
[listeners.{name}]
bind = "127.0.0.1:0"
pool = "{name}"
[pools.{name}]
backends = [{backends}]
passive = {{ failures = 0 }}
health = {{ interval = "1s", fast_interval = "200ms" }}
"""
DEGRADED = [f"pool-{number:02d}" for number in range(9)]  # each has one backend of ten that is down
HALF = "pool-half"  # and one half of them
DEAD = "pool-without"  # the last one in the file
CLOSED = 9  # the discard service's port: nothing listens there


@contextlib.contextmanager
def much_wrong(tmp_path: Path) -> Iterator[str]:
    """The URL of a balancer with eleven pools of ten backends, as DEGRADED, HALF and DEAD say."""
    admin, file = f"127.0.0.1:{free_port()}", tmp_path / "lb.toml"
    with serving(echo, host="0.0.0.0") as server:
        parts = []
        for number, (name, down) in enumerate([*((name, 1) for name in DEGRADED), (HALF, 5), (DEAD, 10)], 1):
            ports = [CLOSED if index < down else server.port for index in range(10)]
            addresses = (f'"127.0.{number}.{index + 1}:{port}"' for index, port in enumerate(ports))
            parts.append(POOL.format(name=name, backends=", ".join(addresses)))
        file.write_text("".join(parts))
        with l4lb("serve", "-c", str(file), "--admin", admin) as process:
            process.wait_for("admin listening")
            yield f"http://{admin}"


def wait_for_all(visit: Visit) -> None:
    """Until every check has had its say."""
    visit.page.wait_for_selector("#problem-counts:text-is('1 outage, 10 errors')")


def test_a_pool_without_a_usable_backend_comes_before_all_that_are_merely_degraded(tmp_path: Path) -> None:
    with much_wrong(tmp_path) as url, visiting(url) as visit:
        wait_for_all(visit)
        entries = visit.page.locator("#problems li")
        first, second, *_ = entries.all_inner_texts()
        assert "outage" in first
        assert f"{DEAD}" in first
        assert "new clients are turned away. 10 of 10 backends down (connect: connection refused" in first
        assert "error" in second
        assert f"{HALF}" in second
        assert "5 of 10 backends down: 127.0.10.1:9" in second
        assert visit.page.title().startswith("1 outage")


def test_a_long_list_of_problems_leaves_room_for_the_plots_and_is_whole_on_demand(tmp_path: Path) -> None:
    with much_wrong(tmp_path) as url, visiting(url) as visit:
        wait_for_all(visit)
        page, more = visit.page, visit.page.locator("#more-problems")
        assert page.locator("#problems li").count() == 6
        assert more.inner_text() == "and 5 more: 5 errors"
        plots = page.locator("#plots").bounding_box()
        assert plots is not None
        assert plots["y"] + plots["height"] <= 900  # the first screen
        more.click()
        assert page.locator("#problems li").count() == 11
        assert more.get_attribute("aria-expanded") == "true"
        assert visit.focused() == "Show the worst alone"
        page.set_viewport_size({"width": 400, "height": 900})
        more.click()
        assert page.locator("#problems li").count() == 3
        page.click(f"#problems button:text-is('{DEAD}')")
        assert page.locator(f".pool:has-text('{DEAD}') tbody tr").count() == 10


@pytest.mark.parametrize("width", first_and_slow(360, 1000, 1400))
def test_nothing_is_below_the_page_and_no_address_is_broken_within_its_port(tmp_path: Path, width: int) -> None:
    with much_wrong(tmp_path) as url, visiting(url, viewport={"width": width, "height": 900}) as visit:
        wait_for_all(visit)
        page = visit.page
        page.click("#open-all")
        visit.until("document.querySelectorAll('#events li').length > 100")
        below = (
            "document.scrollingElement.scrollHeight - document.getElementById('page').getBoundingClientRect().bottom"
        )
        assert abs(page.evaluate(f"{below} - scrollY")) <= 1
        assert page.evaluate("document.scrollingElement.scrollWidth") == width
        lines = "[...document.querySelectorAll('.port')].map(port => port.getClientRects().length)"
        assert set(page.evaluate(lines)) <= {0, 1}  # 0: not drawn, so far down is it
        assert page.inner_text("#pool-list .name >> nth=0") == "127.0.1.1:9"  # as it is copied
        assert axe_violations(page) == []
