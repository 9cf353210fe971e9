"""examples/ops/canary.py, run as an operator does, against servers that reset or refuse, under traffic."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb.testing.services import http
from l4lb.testing.tcp import TcpBackend
from tests.support.operating import Balancer, Visitors, balancer, run_script, script
from tests.support.waiting import wait_until


@pytest.fixture
def backends() -> Iterator[list[TcpBackend]]:
    """The last one is the canary."""
    with contextlib.ExitStack() as stack:
        made = [TcpBackend(name, http) for name in ("a", "b", "canary")]
        for one in made:
            stack.callback(one.stop)
        yield made


@pytest.fixture
def lb(backends: list[TcpBackend], tmp_path: Path) -> Iterator[Balancer]:
    weights = (100, 100, 0)
    listed = [
        f'{{ address = "{one.address}", weight = {weight} }}' for one, weight in zip(backends, weights, strict=True)
    ]
    with balancer(tmp_path, {"web": listed}, check="tcp") as made:
        yield made


def canary(lb: Balancer, backend: TcpBackend, *options: str) -> tuple[int, str]:
    return run_script("canary.py", "web", backend.address, "--min-sessions", "5", *options, balancer=lb)


def test_a_good_one_gets_its_whole_share(lb: Balancer, backends: list[TcpBackend]) -> None:
    one = backends[-1]
    with Visitors(lb.address) as visitors:
        visitors.wait_for_more()
        code, said = canary(lb, one, "--weights", "50,100", "--window", "1500ms", "--min-sessions", "1")
    assert (code, visitors.failures) == (0, []), said
    assert "weight 50: 0 of " in said
    assert f"{one.address} stays, at weight 100" in said
    assert lb.backend(one.address)["weight"] == 100


def test_one_that_resets_gets_nothing_any_more(lb: Balancer, backends: list[TcpBackend]) -> None:
    one = backends[-1]
    with Visitors(lb.address) as visitors, one.reset_after(0):
        code, said = canary(lb, one, "--weights", "50,100", "--window", "60s", "--margin", "0.2")
        assert code == 1
        assert f"{one.address} is back at weight 0: at weight 50, " in said
        assert "sessions failed" in said
        assert "; of the others', 0 of " in said
        assert lb.backend(one.address)["weight"] == 0
        had = lb.backend(one.address)["sessions_total"]
        visitors.wait_for_more(50)
        assert lb.backend(one.address)["sessions_total"] == had


def test_others_that_are_as_bad_are_no_reason(lb: Balancer, backends: list[TcpBackend]) -> None:
    with contextlib.ExitStack() as stack:
        for one in backends:
            stack.enter_context(one.reset_after(0))
        with Visitors(lb.address):
            code, said = canary(
                lb, backends[-1], "--weights", "100", "--window", "1500ms", "--margin", "0.5", "--min-sessions", "1"
            )
    assert code == 0, said


def test_one_that_refuses_is_noticed_by_its_checks(lb: Balancer, backends: list[TcpBackend]) -> None:
    one = backends[-1]
    with Visitors(lb.address) as visitors:
        with script(
            "canary.py", "web", one.address, "--window", "10m", "--min-sessions", "100000", balancer=lb
        ) as running:
            assert wait_until(lambda: lb.backend(one.address)["weight"] == 1)
            one.refuse()
            assert running.wait() == 1
            assert "is back at weight 0: it gets no sessions: health down" in running.output
        visitors.wait_for_more()
    assert visitors.failures == []
    assert canary(lb, one)[0] == 1  # it is down


def test_too_few_sessions_are_no_verdict(lb: Balancer, backends: list[TcpBackend]) -> None:
    code, said = canary(lb, backends[-1], "--window", "100ms")
    assert code == 1
    assert "is back at weight 0: at weight 1, it got 0 sessions in 0.1 s, and 5 are needed to judge" in said


def test_ctrl_c_goes_back(lb: Balancer, backends: list[TcpBackend]) -> None:
    one = backends[-1].address
    with script("canary.py", "web", one, "--weights", "7", "--window", "10m", balancer=lb) as running:
        assert wait_until(lambda: lb.backend(one)["weight"] == 7)
        assert running.interrupt() == 130
        assert f"interrupted: {one} is back at weight 0" in running.output
    assert lb.backend(one)["weight"] == 0


@pytest.mark.parametrize(
    ("weights", "message"),
    [("1,x", "expected weights from 1 on"), ("0,5", "expected weights from 1 on"), ("5,2", "more than the one before")],
)
def test_weights_that_are_none(lb: Balancer, backends: list[TcpBackend], weights: str, message: str) -> None:
    code, said = canary(lb, backends[-1], "--weights", weights)
    assert code == 2
    assert message in said
