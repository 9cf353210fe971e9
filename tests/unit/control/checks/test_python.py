"""Functions of the operator's own, plain and async, good and bad."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from l4lb.config import Config
from l4lb.control.checks.registry import check_of
from l4lb.control.health.checker import Checker
from l4lb.control.health.rise_fall import Streak
from l4lb.control.state.state import CheckResult
from l4lb.errors import ConfigError
from tests.support.checking import check, target_of
from tests.unit.control.checks import functions

HERE = "tests.unit.control.checks.functions"


@pytest.mark.parametrize("name", ["up", "true", "async_up"])
def test_passes(name: str) -> None:
    assert check("127.0.0.1:80", "python", callable=f"{HERE}:{name}").ok


@pytest.mark.parametrize(
    ("name", "step", "reason"),
    [
        ("false", "call", "returned False"),
        ("async_false", "call", "returned False"),
        ("one", "call", "returned 1; expected None, True or False"),
        ("broken", "call", "RuntimeError: out of paper"),
        ("async_broken", "call", "ValueError: out of ink"),
        ("failing", "paper", "tray is empty"),
        ("exiting", "call", "SystemExit: 3"),
        ("async_exiting", "call", "SystemExit: 3"),
        ("async_cancelled", "call", "cancelled itself"),
        ("async_hanging", "ink", "no answer within 0.3 s"),
        ("gone", "call", f"{HERE} has no gone"),
    ],
)
def test_fails(name: str, step: str, reason: str) -> None:
    result = check("127.0.0.1:80", "python", callable=f"{HERE}:{name}", timeout=0.3)
    assert (result.ok, result.step, result.reason) == (False, step, reason)


@pytest.mark.parametrize("name", ["up", "async_up"])
def test_what_it_gets(name: str) -> None:
    functions.seen.clear()
    assert check("127.0.0.1:80", "python", callable=f"{HERE}:{name}", pool="web", options={"a": 1}).ok
    target = functions.seen.pop()
    assert (target.address.host, target.address.port, target.pool) == ("127.0.0.1", 80, "web")
    assert (target.settings.options, target.settings.timeout) == ({"a": 1}, 5.0)


def test_one_that_hangs_is_not_called_again_until_it_returns() -> None:
    target = target_of(
        "127.0.0.1:80", "python", callable=f"{HERE}:hanging", timeout=0.1, interval=0.01, fast_interval=0.01,
        down_interval=0.01,
    )  # fmt: skip
    results: list[CheckResult] = []

    async def main() -> None:
        passed = asyncio.Event()

        def heard(_: Checker, result: CheckResult, changed: bool) -> None:
            results.append(result)
            if len(results) == 3:
                functions.released.set()
            if result.ok:
                passed.set()

        checker = Checker(target, check_of("python"), Streak(1, 1), [heard])
        task = asyncio.create_task(checker.run(0))
        await asyncio.wait_for(passed.wait(), 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    functions.released.clear()
    uvloop.run(main())
    assert results[0].reason == "no answer within 0.1 s"
    assert {result.reason for result in results[1:3]} == {"the call before has not returned"}
    assert results[-1].ok


def config_with(text: str) -> str:
    return (
        '[listeners.l]\nbind = ":9"\npool = "p"\n[pools.p]\nbackends = ["127.0.0.1:1"]\n'
        f'[pools.p.health]\ntype = "python"\ncallable = "{text}"\n'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("up", 'expected "package.module:function"'),
        (f"{HERE}:gone", f"{HERE} has no gone"),
        (f"{HERE}:not_a_function", "not_a_function is not a function"),
        ("no.such.module:up", "cannot be imported: ModuleNotFoundError: No module named 'no'"),
        (f"{HERE.replace('functions', 'exits')}:up", "cannot be imported: SystemExit: 0"),
    ],
)
def test_what_cannot_be_called_is_an_error_of_the_configuration(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.loads(config_with(text), file="lb.toml")
    assert str(caught.value) == f'lb.toml:8: pools.p.health.callable: "{text}": {message}'


def test_one_that_can() -> None:
    Config.loads(config_with(f"{HERE}:up"))
