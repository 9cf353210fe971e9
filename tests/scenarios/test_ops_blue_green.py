"""examples/ops/blue_green.py, run as an operator does, against nginx under traffic."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.operating import Balancer, Site, Visitors, balancer, run_script, script, site
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external
SWITCHED = 'listener "default": from pool "blue" to pool "green"'


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, 3) as made:
        yield made


@pytest.fixture
def lb(web: Site, tmp_path: Path) -> Iterator[Balancer]:
    with balancer(tmp_path, {"blue": web.addresses[:1], "green": web.addresses[1:]}) as made:
        yield made


def switch(lb: Balancer, pool: str, *options: str) -> tuple[int, str]:
    return run_script("blue_green.py", "default", pool, "--file", "lb.toml", *options, balancer=lb)


def pool_of(lb: Balancer) -> str:
    return lb.client.listeners["default"].status["pool"]


def test_there_and_back_and_no_client_notices(web: Site, lb: Balancer) -> None:
    before = lb.file.read_text()
    old = http.client.HTTPConnection(*lb.address, timeout=30)
    with contextlib.closing(old), Visitors(lb.address) as visitors:
        old.request("GET", "/")
        assert web.addresses[0] == f"127.0.0.1:{old.getresponse().read().decode().strip()}"
        code, said = switch(lb, "green", "--watch", "500ms")
        assert code == 0, said
        assert "the way back: blue_green.py default blue --file lb.toml" in said
        assert lb.file.read_text() == before.replace('pool = "blue"  # from here on', 'pool = "green"  # from here on')
        reached = lb.client.pools["green"].stats.sessions_total
        assert wait_until(lambda: lb.client.pools["green"].stats.sessions_total > reached + 10)
        old.request("GET", "/")  # it stays where it is
        assert web.addresses[0] == f"127.0.0.1:{old.getresponse().read().decode().strip()}"
        assert switch(lb, "green") == (0, 'listener "default" is at pool "green" already\n')
        code, said = switch(lb, "blue", "--watch", "200ms")
        visitors.wait_for_more()
    assert (code, visitors.failures) == (0, []), said
    assert (pool_of(lb), lb.file.read_text()) == ("blue", before)


def test_a_pool_that_is_not_well_gets_no_traffic(web: Site, lb: Balancer) -> None:
    before = lb.file.read_bytes()
    web.do("stop", web.addresses[1])
    assert wait_until(lambda: lb.client.pools["green"].status["usable"] == 1)
    code, said = switch(lb, "green", "--ready-timeout", "200ms")
    assert code == 1
    assert 'pool "green" has 1 usable backends after 0.2 s, expected 2; nothing has changed' in said
    assert (pool_of(lb), lb.file.read_bytes()) == ("blue", before)
    code, said = switch(lb, "green", "--min-usable", "1", "--watch", "100ms")
    assert code == 0, said


def test_it_goes_back_when_a_backend_fails_while_it_watches(web: Site, lb: Balancer) -> None:
    before = lb.file.read_bytes()
    options = ("default", "green", "--file", "lb.toml", "--watch", "10m")
    with Visitors(lb.address) as visitors, script("blue_green.py", *options, balancer=lb) as running:
        running.wait_for(SWITCHED)
        web.do("stop", web.addresses[1])
        assert running.wait() == 1
        assert 'error: back at pool "blue": ' in running.output
        visitors.wait_for_more()
    assert (pool_of(lb), lb.file.read_bytes()) == ("blue", before)


def test_ctrl_c_while_it_watches_goes_back(web: Site, lb: Balancer) -> None:
    before = lb.file.read_bytes()
    options = ("default", "green", "--file", "lb.toml", "--watch", "10m")
    with script("blue_green.py", *options, balancer=lb) as running:
        running.wait_for(SWITCHED)
        assert running.interrupt() == 130
        assert 'interrupted: back at pool "blue"' in running.output
    assert (pool_of(lb), lb.file.read_bytes()) == ("blue", before)


def test_old_sessions_are_ended_when_asked(web: Site, lb: Balancer) -> None:
    old = http.client.HTTPConnection(*lb.address, timeout=30)
    with contextlib.closing(old):
        old.request("GET", "/")
        old.getresponse().read()
        code, said = switch(lb, "green", "--watch", "100ms", "--end-old", "200ms")
    assert code == 0
    assert '1 sessions at pool "blue" were reset' in said


def test_a_file_that_is_another_or_cannot_be_changed(web: Site, lb: Balancer) -> None:
    other = lb.file.with_name("other.toml")
    for text, message in (
        (lb.file.read_text().replace('pool = "blue"', 'pool = "red"'), 'says pool = "red", but the instance'),
        (lb.file.read_text(), "is not the file of the instance at unix:"),
        ('listeners.default = { bind = ":80", pool = "blue" }\n', 'expected a line pool = "..." below [listeners.def'),
        ("[listeners.default\n", "other.toml: "),
    ):
        other.write_text(text)
        code, said = run_script("blue_green.py", "default", "green", "--file", "other.toml", balancer=lb)
        assert (code, other.read_text()) == (1, text)
        assert message in said
    assert pool_of(lb) == "blue"


def test_a_reload_that_is_refused_changes_nothing(web: Site, lb: Balancer) -> None:
    text = lb.file.read_text() + "\n[nonsense]\n"
    lb.file.write_text(text)
    code, said = switch(lb, "green")
    assert code == 1
    assert 'error: not switched to pool "green", and the file is as it was: ' in said
    assert "nonsense" in said
    assert (pool_of(lb), lb.file.read_text()) == ("blue", text)
