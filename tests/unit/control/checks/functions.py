"""Functions that test_python.py names as health checks."""

from __future__ import annotations

import asyncio
import sys
import threading

from l4lb.health import CheckFailed, Target, begin_step

released = threading.Event()
seen: list[Target] = []
not_a_function = 3


def up(target: Target) -> None:
    seen.append(target)


def true(target: Target) -> bool:
    return True


def false(target: Target) -> bool:
    return False


def one(target: Target) -> int:
    return 1


def broken(target: Target) -> None:
    raise RuntimeError("out of paper")


def failing(target: Target) -> None:
    raise CheckFailed("paper", "tray is empty")


def exiting(target: Target) -> None:
    sys.exit(3)


def hanging(target: Target) -> None:
    assert released.wait(60)


async def async_up(target: Target) -> None:
    seen.append(target)
    await asyncio.sleep(0)


async def async_false(target: Target) -> bool:
    return False


async def async_broken(target: Target) -> None:
    raise ValueError("out of ink")


async def async_exiting(target: Target) -> None:
    sys.exit(3)


async def async_cancelled(target: Target) -> None:
    raise asyncio.CancelledError


async def async_hanging(target: Target) -> None:
    begin_step("ink")
    await asyncio.sleep(60)


async def added(target: Target) -> None:
    """An entry point, in tests/unit/config/options/test_health.py."""
    if target.settings.options != {"colour": "red"} or target.settings.path != "/x":
        raise CheckFailed("colour", str(target.settings.options))


added.options = ("options", "path")  # type: ignore[attr-defined]
