"""How long backends take, on the dashboard: as the API says it of each backend in `latency`, and of a slow one in
`slow`. What it says is given here, so that it is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.browser import axe_violations, visiting
from tests.support.dashboard import ROW, world
from tests.support.slow import first_and_slow

pytestmark = pytest.mark.usefixtures("browser")

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

SLOW = "first byte p50 is 360 ms, 30 times its pool's"
NOTHING = {"count": 0, "mean_s": None, "p50_s": None, "p90_s": None, "p99_s": None}


def times(p50_s: float) -> dict[str, Any]:
    return {"count": 60, "mean_s": p50_s, "p50_s": p50_s, "p90_s": 2 * p50_s, "p99_s": 4 * p50_s}


SAID = {
    "one": {"connect": times(0.0003), "first_byte": times(0.012), "session": times(2)},
    "two": {"connect": times(0.0003), "first_byte": times(0.36), "session": NOTHING},
    "three": {"connect": NOTHING, "first_byte": NOTHING, "session": NOTHING},
}


def say(page: Page, said: dict[str, Any]) -> None:
    """From now on, whatever was measured."""

    def answer(route: Route) -> None:
        response = route.fetch()
        status = response.json()
        for backend in status["pools"][0]["backends"]:
            backend.pop("latency", None)
            backend |= {"latency": said[backend["id"]], "slow": SLOW if backend["id"] == "two" else ""} if said else {}
        route.fulfill(response=response, json=status)

    page.unroute_all(behavior="wait")
    page.route("**/v1/status", answer)


def test_how_long_each_backend_takes_and_which_is_slow(tmp_path: Path) -> None:
    with world(tmp_path) as lb, visiting(lb.url) as visit:
        page = visit.page
        say(page, SAID)
        cell = f"{ROW} td[data-label='First byte']"
        page.wait_for_selector(f"{cell.format('one')}:has-text('12 ms / 48 ms')")
        assert "connect 300 µs" in page.inner_text(cell.format("one"))
        title = page.locator(cell.format("one")).get_attribute("title")
        assert title == (
            "Median / 99 % of the latest minute: connect 300 µs / 1.2 ms, first byte 12 ms / 48 ms, "
            "whole session 2 s / 8 s"
        )
        assert page.inner_text(cell.format("three")) == "–"  # noqa: RUF001
        assert SLOW in page.inner_text(f"{ROW.format('two')} td[data-label=State]")
        page.wait_for_selector(f'#problems .warning:has-text("slow: two ({SLOW})")')
        page.unroute_all(behavior="wait")


def test_where_nobody_measures_there_is_no_such_column(tmp_path: Path) -> None:
    with world(tmp_path) as lb, visiting(lb.url) as visit:
        say(visit.page, SAID)
        visit.page.wait_for_selector("td[data-label='First byte']")
        say(visit.page, {})
        visit.page.wait_for_selector("td[data-label='First byte']", state="detached")
        assert visit.page.locator("#pool-list tbody tr").count() == 3
        visit.page.unroute_all(behavior="wait")


@pytest.mark.parametrize("width", first_and_slow(360, 1280, 1400))
def test_it_fits(tmp_path: Path, width: int) -> None:
    with world(tmp_path) as lb, visiting(lb.url, viewport={"width": width, "height": 900}) as visit:
        say(visit.page, SAID)
        visit.page.wait_for_selector(f"{ROW.format('two')}.slow")
        assert axe_violations(visit.page) == []
        assert visit.page.evaluate("document.scrollingElement.scrollWidth") == width
        wide = "[...document.querySelectorAll('#pool-list td')].filter((one) => one.scrollWidth > one.clientWidth + 1)"
        assert visit.page.evaluate(f"{wide}.map((one) => one.textContent)") == []
        visit.page.unroute_all(behavior="wait")
