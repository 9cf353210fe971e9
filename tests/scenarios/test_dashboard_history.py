"""Plots of the dashboard begin with what the process remembers, and not when somebody opens the page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Visit, visiting
from tests.support.dashboard import World, world
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("browser")

# When the leftmost point of a plot's first line was, in seconds since 1970; later than that when it was drawn a while
# ago. NaN: there is none.
BEGINS = """(number) => {
    const drawing = document.querySelectorAll('.plot > svg')[number];
    const path = drawing.querySelector('.line').getAttribute('d') ?? '';
    const left = Math.min(...[...path.matchAll(/[ML]([0-9.]+) /g)].map((one) => Number(one[1])));
    const inner = drawing.getAttribute('width') - 62;
    return Number.isFinite(left) ? Date.now() / 1000 - 300 * (1 - (left - 54) / inner) : null;
}"""
PLOTS = {"sessions": 0, "new sessions": 1, "throughput": 2, "connect time": 3}


def history(lb: World, pool: str = "") -> Any:
    return lb.api("GET", f"/v1/history?pool={pool}")


def begins_before(visit: Visit, plot: str, at: float) -> bool:
    began = visit.page.evaluate(BEGINS, PLOTS[plot])
    return began is not None and began < at


def test_plots_begin_before_the_page_was_opened(tmp_path: Path) -> None:
    with world(tmp_path) as lb:
        assert wait_until(lambda: len(history(lb)["at"]) >= 5, 120)
        opened = time.time()
        with visiting(lb.url) as visit:
            for plot in PLOTS:
                assert wait_until(lambda plot=plot: begins_before(visit, plot, opened - 5), 60), plot
            asked = [url for url in visit.requests if "v1/history" in url]
            visit.page.select_option("#scope", "web")
            for plot in ("sessions", "new sessions", "throughput"):
                assert wait_until(lambda plot=plot: begins_before(visit, plot, opened - 5), 60), plot
            asked_then = [url for url in visit.requests if "v1/history" in url]
            assert (len(asked), len(asked_then)) == (1, 2)  # once a scope


def test_what_the_process_remembers_is_what_it_counted(tmp_path: Path) -> None:
    with world(tmp_path) as lb:
        assert wait_until(lambda: len(history(lb, "web")["at"]) >= 3, 120)
        said, every = history(lb, "web"), history(lb)
        totals = said["sessions_total"]
        assert totals == sorted(totals)
        assert totals[-1] > totals[0]
        assert totals[-1] <= lb.api("GET", "/v1/pools/web")["sessions_total"]
        assert every["sessions_total"][: len(totals)] == totals  # it is the only pool
        assert said["at"] == sorted(said["at"])
        assert said["uptime_s"] == sorted(said["uptime_s"])
        assert sum(said["connects"][-1]) > 0
        assert len(said["connects"][-1]) == len(said["connect_bounds_s"]) + 1
