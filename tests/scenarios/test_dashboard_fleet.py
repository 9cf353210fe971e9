"""The dashboard of a node: the fleet that it belongs to, in a real browser."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb import Client
from tests.support.browser import Visit, axe_violations, visiting
from tests.support.etcd import Etcd, etcd
from tests.support.fleet import BACKENDS, PREFIX, Served, config_text, put_config, serving
from tests.support.programs import free_port, l4lb
from tests.support.slow import first_and_slow
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("browser")


def row(node: str) -> str:
    return f"#fleet-nodes tr:has(th:text-matches('^{node}( |$)'))"


@contextlib.contextmanager
def three_nodes(server: Etcd, directory: Path) -> Iterator[tuple[str, list[Served]]]:
    """The URL of the page of a, and all of them."""
    put_config(server, config_text() + '\n[fleet]\nlimits = "divided"\n')
    admin = f"127.0.0.1:{free_port()}"
    with contextlib.ExitStack() as stack:
        a = stack.enter_context(serving(server, "a", directory, "--admin", admin))
        others = [stack.enter_context(serving(server, name, directory)) for name in "bc"]
        yield f"http://{admin}", [a, *others]


def cell(visit: Visit, node: str, label: str) -> str:
    return visit.page.locator(f"{row(node)} [data-label='{label}']").inner_text()


def test_nodes_their_generations_and_what_differs(tmp_path: Path) -> None:
    with etcd() as server, three_nodes(server, tmp_path) as (address, (_, b, _)), visiting(address) as visit:
        page = visit.page
        for name in "abc":
            page.wait_for_selector(row(name))
        assert cell(visit, "a", "Node") == "a (this one)"
        assert [cell(visit, name, "Generation") for name in "abc"] == ["1"] * 3
        assert wait_until(
            lambda: [cell(visit, name, "Tables") for name in "abc"] == ["this node's", "the same", "the same"]
        )
        assert cell(visit, "b", "Backends usable") == "2 of 2"
        page.wait_for_selector(f"#fleet-facts:has-text('{PREFIX}/: generation 1, 3 nodes, limits divided by 3')")

        with Client(b.admin, timeout=60) as client:
            client.pools["web"][BACKENDS[0]].maint()
        page.wait_for_selector(f"{row('b')} [data-label=Tables]:has-text('differ: web')")
        page.wait_for_selector(f"{row('b')} [data-label='Backends usable']:has-text('1 of 2')")
        server.put(f"{PREFIX}/drain/a", "")
        page.wait_for_selector(f"{row('a')} [data-label=State]:has-text('running, draining')")
        page.wait_for_selector("#problems .note:has-text('drained by its fleet')")
        put_config(server, config_text(more="polcy = 1"))
        page.wait_for_selector(f"{row('c')} [data-label=Generation]:has-text('1, not 2: generation 2: ')")
        page.wait_for_selector("#problems .warning:has-text('fleet: generation 2: ')")
        server.put(f"{PREFIX}/nodes/x", "{")
        page.wait_for_selector("#fleet-broken:has-text('nodes/x: ')")
        server.stop()
        page.wait_for_selector("#fleet-facts:has-text('as they were when etcd last answered')")


@pytest.mark.parametrize("width", first_and_slow(380, 1440))
def test_it_can_be_used_by_everyone(tmp_path: Path, width: int) -> None:
    size = {"width": width, "height": 900}
    with etcd() as server, three_nodes(server, tmp_path) as (address, _), visiting(address, viewport=size) as visit:
        for name in "abc":
            visit.page.wait_for_selector(row(name))
        visit.page.locator("#fleet").scroll_into_view_if_needed()
        assert axe_violations(visit.page) == []
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        visit.page.locator("#fleet").screenshot(path=str(tmp_path / f"fleet-{width}.png"))


def test_without_a_fleet_there_is_no_such_section(tmp_path: Path) -> None:
    file, admin = tmp_path / "lb.toml", f"127.0.0.1:{free_port()}"
    file.write_text(config_text())
    with l4lb("serve", "-c", str(file), "--admin", admin) as process:
        process.wait_for("listening")
        with visiting(f"http://{admin}") as visit:
            visit.page.wait_for_selector("#listeners tbody tr")
            assert visit.page.locator("#fleet").is_hidden()
            assert not any("v1/fleet" in url for url in visit.requests)
