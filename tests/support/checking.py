"""One health check as the control loop runs it: bounded by the checker, on uvloop."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvloop

from l4lb.config import HealthConfig
from l4lb.control.checks.checks import Check, Target
from l4lb.control.checks.registry import check_of
from l4lb.control.health.checker import Checker
from l4lb.control.health.rise_fall import Streak
from l4lb.control.state.state import CheckResult
from l4lb.net.address import parse_address, resolve_backend


def target_of(address: str, type_: str, *, source: str = "", pool: str = "", **settings: Any) -> Target:
    bound = resolve_backend(parse_address(f"{source}:0")) if source else None
    config = HealthConfig(type=type_, **{"timeout": 5.0, **settings})
    return Target(resolve_backend(parse_address(address)), config, bound, pool)


def check(address: str, type_: str, **settings: Any) -> CheckResult:
    """The result of one check, whose time-out is 5 s unless `settings` say otherwise. No task is left behind."""
    return check_target(target_of(address, type_, **settings))


def check_target(target: Target, function: Check | None = None) -> CheckResult:
    results: list[CheckResult] = []

    async def main() -> None:
        checker = Checker(target, function or check_of(target.settings.type), Streak(1, 1))
        done = asyncio.Event()
        checker.listeners.append(lambda _, result, changed: (results.append(result), done.set()))
        task = asyncio.create_task(checker.run(0))
        await asyncio.wait_for(done.wait(), 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    uvloop.run(main())
    return results[0]


def loopback_socket(kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.settimeout(20)
    sock.bind(("127.0.0.1", 0))
    return sock


def address_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{host}:{port}"
