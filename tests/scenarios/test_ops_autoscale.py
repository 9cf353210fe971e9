"""examples/ops/autoscale.py, run as an operator does, with a provider that starts nginx, and as a library."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from l4lb.testing.services import http
from l4lb.testing.tcp import TcpBackend
from tests.support.operating import SCRIPTS, Balancer, Site, balancer, hold_sessions, run_script, script, site
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external
QUICK = ("--every", "50ms", "--calm", "200ms", "--most", "3", "--sessions", "4")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, 1, spare=3) as made:
        yield made


@pytest.fixture
def lb(web: Site, tmp_path: Path) -> Iterator[Balancer]:
    with balancer(tmp_path, {"web": web.addresses}) as made:
        yield made


def usable(lb: Balancer) -> int:
    return lb.client.pools["web"].status["usable"]


def test_backends_come_and_go_with_sessions_across_two_runs(web: Site, lb: Balancer) -> None:
    commands = ("--start", web.command("new"), "--stop", web.command("stop"))
    with contextlib.ExitStack() as sessions:
        with script("autoscale.py", "web", *commands, *QUICK, balancer=lb) as running:
            hold_sessions(sessions, lb.address, 9)
            assert wait_until(lambda: usable(lb) == 3), running.output
            assert running.interrupt() == 130
        assert usable(lb) == 3  # they stay
        with script("autoscale.py", "web", *commands, *QUICK, balancer=lb) as running:
            sessions.close()
            assert wait_until(lambda: lb.admin_states() == {web.addresses[0]: "ready"}), running.output
            assert wait_until(lambda: not any(web.is_running(address) for address in web.spare))
            assert running.interrupt() == 130
            assert f"{web.spare[0]}: drain, 1 wanted" in running.output
            assert f"{web.spare[0]}: stopped" in running.output
    assert web.is_running(web.addresses[0])


def test_a_provider_that_raises_leaves_the_pool_as_it_is(web: Site, lb: Balancer, tmp_path: Path) -> None:
    (tmp_path / "cloud.py").write_text(
        "class Provider:\n"
        "    def start(self):\n        raise RuntimeError('quota exceeded')\n"
        "    def stop(self, address):\n        raise RuntimeError('no such machine')\n"
        "def two(load):\n    return 2\n"
    )
    own = ("--provider", "cloud:Provider", "--rule", "cloud:two", "--give-up-after", "3")
    code, said = run_script("autoscale.py", "web", *own, *QUICK, balancer=lb)
    assert code == 1
    assert said.count("no backend could be started: quota exceeded\n") == 3
    assert "given up after 3 failures in a row; the pool stays as it is" in said
    assert lb.admin_states() == {web.addresses[0]: "ready"}


def test_one_that_does_not_come_up_is_stopped_again(web: Site, lb: Balancer, tmp_path: Path) -> None:
    dead = web.spare[0]
    stop = f"/bin/sh -c 'echo {{address}} >> {tmp_path}/stopped'"
    options = ("--least", "2", "--up-timeout", "300ms", "--give-up-after", "1")
    code, said = run_script(
        "autoscale.py", "web", "--start", f"echo {dead}", "--stop", stop, *QUICK, *options, balancer=lb
    )
    assert code == 1
    assert f"{dead}: not up after 0.3 s\n{dead}: stopped\n" in said
    assert (tmp_path / "stopped").read_text() == f"{dead}\n"
    assert lb.admin_states() == {web.addresses[0]: "ready"}


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("echo two words", "echo: printed 'two words': expected an address, host:port"),
        ("echo nonsense", '"nonsense" cannot be added, and is to stop: '),
        ("/bin/sh -c 'echo no room >&2; exit 3'", "exit code 3: no room"),
        ("/no/such/program", "/no/such/program: cannot be run: No such file or directory"),
        ("echo {first}", "which is in the pool already"),
    ],
)
def test_what_start_may_do_wrong(web: Site, lb: Balancer, start: str, message: str) -> None:
    start = start.replace("{first}", web.addresses[0])
    options = ("--start", start, "--stop", "true", "--least", "2", "--give-up-after", "1")
    code, said = run_script("autoscale.py", "web", *options, *QUICK, balancer=lb)
    assert code == 1
    assert message in said
    assert lb.admin_states() == {web.addresses[0]: "ready"}


def test_what_is_not_understood(lb: Balancer) -> None:
    for options, message in (
        (["--start", "true"], "expected --start and --stop, or --provider"),
        (["--provider", "nosuch:Provider"], '"nosuch:Provider": expected module:name'),
        (["--start", "true", "--stop", "true", "--least", "5", "--most", "2"], "expected at most --most, which is 2"),
    ):
        code, said = run_script("autoscale.py", "web", *options, balancer=lb)
        assert code == 2
        assert message in said


class Servers:
    """A provider in this process. `stop_raises`: so often it does."""

    def __init__(self, stop_raises: int) -> None:
        self.running: dict[str, TcpBackend] = {}
        self._stop_raises = stop_raises

    def start(self) -> str:
        backend = TcpBackend(f"server-{len(self.running)}", http)
        self.running[backend.address] = backend
        return backend.address

    def stop(self, address: str) -> None:
        if self._stop_raises:
            self._stop_raises -= 1
            raise OSError("the cloud is away")
        self.running.pop(address).stop()


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    try:
        yield importlib.import_module("autoscale")
    finally:
        for name in ("autoscale", "common"):
            sys.modules.pop(name, None)


@pytest.fixture
def servers() -> Iterator[Servers]:
    made = Servers(stop_raises=2)
    yield made
    for server in made.running.values():
        server.stop()


def steps_until(scaler: Any, condition: Callable[[], bool]) -> None:
    assert wait_until(lambda: scaler.step() or condition())


def test_as_a_library_with_a_rule_of_ones_own(lb: Balancer, library: Any, servers: Servers) -> None:
    said, wanted = [], [3]

    def rule(load: Any) -> int:
        if wanted[0] < 0:
            raise ZeroDivisionError("no backends at all")
        return wanted[0]

    scaler = library.Autoscaler(lb.client, "web", servers, rule, library.Limits(calm_s=0.0), said.append)
    steps_until(scaler, lambda: usable(lb) == 3)
    next(iter(servers.running.values())).refuse()
    steps_until(scaler, lambda: len(servers.running) == 3 and usable(lb) == 3)  # another one is in its place
    wanted[0] = -1
    scaler.step()
    assert said[-1] == "the rule has failed, and as many as now stay: ZeroDivisionError: no backends at all"
    assert usable(lb) == 3
    wanted[0] = 1
    steps_until(scaler, lambda: not servers.running)
    assert sum("cannot be stopped: the cloud is away" in line for line in said) == 2
    assert len(lb.admin_states()) == 1
    assert scaler.failures == 0


def test_what_the_operator_takes_out_stays_out(lb: Balancer, library: Any, servers: Servers) -> None:
    limits = library.Limits(calm_s=0.0)
    scaler = library.Autoscaler(lb.client, "web", servers, lambda load: 2, limits, lambda text: None)
    steps_until(scaler, lambda: usable(lb) == 2)
    (taken,) = servers.running
    lb.client.pools["web"][taken].maint()
    steps_until(scaler, lambda: usable(lb) == 2)
    assert lb.admin_states()[taken] == "maint"
    assert len(servers.running) == 2
