"""When results change a backend's health, and when they do not."""

from __future__ import annotations

import asyncio
import resource
import socket
import time

import pytest

from l4lb.config import HealthConfig
from l4lb.config.options.health import OPTIONS
from l4lb.control.checks.checks import CheckFailed, Target
from l4lb.control.checks.registry import CHECKS
from l4lb.control.checks.tcp import check_tcp
from l4lb.control.health.checker import Checker
from l4lb.control.health.rise_fall import Streak
from l4lb.control.state.state import CheckResult
from l4lb.model.address import SocketAddress
from l4lb.model.states import Health

LOOPBACK = SocketAddress(socket.AF_INET, "127.0.0.1", 1)


def run(streak: Streak, results: str) -> list[Health]:
    """The health after each result: p passed, f failed."""
    healths = []
    for result in results:
        streak.add(result == "p")
        healths.append(streak.health)
    return healths


def test_the_first_check_decides() -> None:
    assert run(Streak(2, 3), "p") == [Health.UP]
    assert run(Streak(2, 3), "f") == [Health.DOWN]


def test_results_count_in_a_row() -> None:
    assert run(Streak(2, 3, Health.UP), "fpfpf")[-1] is Health.UP
    assert run(Streak(2, 3, Health.UP), "fff")[-1] is Health.DOWN
    assert run(Streak(2, 3, Health.DOWN), "pfp")[-1] is Health.DOWN
    assert run(Streak(2, 3, Health.DOWN), "pp")[-1] is Health.UP


def test_intervals_follow_the_state() -> None:
    settings = HealthConfig(interval=2.0, fast_interval=1.0, down_interval=5.0)
    checker = Checker(Target(LOOPBACK, settings), check_tcp, Streak(2, 3, Health.UP))
    assert checker.interval_s() == 2.0
    checker.streak.add(False)
    assert checker.interval_s() == 1.0
    checker.streak.add(False)
    checker.streak.add(False)
    assert checker.interval_s() == 5.0


def results_of(checker: Checker, count: int) -> list[CheckResult]:
    """The first `count` results of a running checker."""
    results: list[CheckResult] = []

    async def main() -> None:
        enough = asyncio.Event()

        def heard(_: Checker, result: CheckResult, changed: bool) -> None:
            results.append(result)
            if len(results) >= count:
                enough.set()

        checker.listeners.append(heard)
        task = asyncio.create_task(checker.run(0))
        await asyncio.wait_for(enough.wait(), 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    return results


FAST = HealthConfig(interval=0.01, fast_interval=0.01, down_interval=0.01, timeout=0.2)


def test_every_type_of_the_configuration_has_a_check() -> None:
    assert set(CHECKS) == set(OPTIONS) - {"none"}


def test_tcp_against_a_real_socket_that_comes_and_goes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = SocketAddress(socket.AF_INET, "127.0.0.1", server.getsockname()[1])
        checker = Checker(Target(address, FAST), check_tcp, Streak(2, 3))
        assert all(result.ok for result in results_of(checker, 3))
    checker = Checker(Target(address, FAST), check_tcp, Streak(2, 3, Health.UP))
    results = results_of(checker, 3)
    assert [result.reason for result in results] == ["connection refused"] * 3
    assert checker.streak.health is Health.DOWN


def test_a_time_out_that_came_late_says_nothing_of_the_target() -> None:
    calls = 0

    async def block_then_pass(target: Target) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            time.sleep(0.4)  # the loop is busy, well over the check's time-out
            await asyncio.sleep(0.1)

    checker = Checker(Target(LOOPBACK, FAST), block_then_pass, Streak(1, 1, Health.UP))
    results = results_of(checker, 2)
    assert [result.ok for result in results] == [True, True]
    assert checker.streak.health is Health.UP


def test_a_target_that_does_not_answer_in_time_fails() -> None:
    async def never(target: Target) -> None:
        await asyncio.sleep(60)

    checker = Checker(
        Target(LOOPBACK, HealthConfig(interval=0.01, fast_interval=0.01, timeout=0.05)), never, Streak(1, 1)
    )
    result = results_of(checker, 1)[0]
    assert not result.ok
    assert "no answer within 0.05 s" in result.reason


@pytest.mark.parametrize("error", [CheckFailed("answer", "wrong"), RuntimeError("broken check")])
def test_a_check_that_raises_fails_and_checking_goes_on(error: Exception) -> None:
    async def fail(target: Target) -> None:
        raise error

    results = results_of(Checker(Target(LOOPBACK, FAST), fail, Streak(1, 1)), 2)
    assert [result.ok for result in results] == [False, False]


@pytest.mark.parametrize("type_", ["tcp", "udp", "dns", "exec"])
def test_a_check_for_which_there_are_no_file_descriptors_says_nothing_of_the_target(type_: str) -> None:
    needed = {"name": "a.example", "command": ["/bin/true"]}
    keys = {key: value for key, value in needed.items() if key in OPTIONS[type_]}
    settings = FAST.model_copy(update={"type": type_, **keys})
    checker = Checker(Target(LOOPBACK, settings), CHECKS[type_], Streak(1, 1, Health.UP))

    async def main() -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        task = asyncio.create_task(checker.run(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # for new ones: what is open stays open
        try:
            async with asyncio.timeout(20):
                while checker.skipped < 3:
                    await asyncio.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert (checker.checks, checker.streak.health) == (0, Health.UP)
