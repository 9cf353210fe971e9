"""A check of the type "python" that sees on each node what a test says: ``callable = "tests.support.seen:check"``."""

from __future__ import annotations

import asyncio

from l4lb.health import CheckFailed, Target

NODES: dict[int, str] = {}  # by the loop that the node runs on
DOWN: set[tuple[str, str]] = set()  # (node, backend) that fails


async def check(target: Target) -> None:
    node = NODES.get(id(asyncio.get_running_loop()), "")
    if (node, str(target.address)) in DOWN:
        raise CheckFailed("test", "it is to fail here")
