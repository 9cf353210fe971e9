"""Two tiers: the kernel engine in front, proxies that send PROXY headers behind it, services behind those. Proxies are
drained and killed while clients come all the time."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb import Client
from tests.lab import tier_checks
from tests.lab.cells import Cell
from tests.lab.checks import Visitor, visitors
from tests.lab.labs import Lab, two_tiers
from tests.lab.network import on_lan
from tests.lab.servers import PROGRAMS
from tests.support.programs import require
from tests.support.slow import first_and_slow
from tests.support.users import require_root
from tests.support.waiting import wait_until

CELLS = [Cell("dsr", 4, "tcx"), Cell("dsr", 6, "native"), Cell("nat", 4, "tcx")]


@pytest.fixture(params=first_and_slow(*CELLS), ids=lambda cell: f"{cell.mode}-{cell.family}-{cell.attach}")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    require_root()
    for program in PROGRAMS:
        require(program)
    with two_tiers(f"l4tiers-{os.getpid()}", request.param) as made:
        yield made


@dataclass
class Load:
    """Clients that come one after the other. `answered` and `failed` are when each of them began."""

    lab: Lab
    answered: list[float] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                Visitor(self.lab).close()
                self.answered.append(began)
            except OSError:
                self.failed.append(began)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(30)

    def wait_for_more(self, count: int) -> None:
        before = len(self.answered)
        assert wait_until(lambda: len(self.answered) >= before + count), self


def test_a_drained_proxy_loses_nobody(lab: Lab) -> None:
    """Services see their clients' own addresses, before and after."""
    tier_checks.requests(lab)
    tier_checks.real_address(lab)
    first, second = (f"through {on_lan(name, lab.cell.family)}" for name in ("proxy-1", "proxy-2"))
    load = Load(lab)
    with visitors(lab, (first, second)) as known, load.running(), Client(lab.admin["balancer"]) as balancer:
        load.wait_for_more(20)
        balancer.pools["web"]["proxy-1"].drain()
        load.wait_for_more(20)
        assert [one.ask() for one in known] == [one.backend for one in known]
        drained = [one for one in known if first in one.backend]
        for one in drained:
            one.close()
        assert wait_until(lambda: balancer.pools["web"]["proxy-1"].status["sessions_active"] == 0)
        with Client(lab.admin["proxy-1"]) as proxy:
            proxy.drain()
        assert wait_until(lambda: "proxy-1-l4lb" in lab.processes.ended())
        load.wait_for_more(20)
        assert [one.ask() for one in known if one not in drained] == [
            one.backend for one in known if one not in drained
        ]
    tier_checks.real_address(lab)
    assert load.failed == []


def test_a_killed_proxy_loses_its_own_sessions_alone(lab: Lab) -> None:
    first, second = (f"through {on_lan(name, lab.cell.family)}" for name in ("proxy-1", "proxy-2"))
    load = Load(lab)
    with visitors(lab, (first, second)) as known, load.running():
        load.wait_for_more(20)
        lab.processes.kill("proxy-2-l4lb")
        assert wait_until(lambda: lab.up("web") == {"proxy-1"})
        found = time.monotonic() + 1.0  # what is known is published a moment later
        load.wait_for_more(40)
        others = [one for one in known if first in one.backend]
        assert [one.ask() for one in others] == [one.backend for one in others]
        for one in known:
            if second in one.backend:
                with pytest.raises(OSError, match=r"(?i)reset|closed|timed out|refused"):
                    one.ask()
    assert [began for began in load.failed if began > found] == []
