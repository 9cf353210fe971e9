"""Asking the instance again and again, until it is over."""

from __future__ import annotations

import asyncio

import pytest

from l4lb.cli.top.following import Follower
from l4lb.cli.top.state.seen import Seen
from l4lb.cli.top.wanted import Wanted
from l4lb.client import Client
from l4lb.errors import AdminError


@pytest.mark.parametrize("turns", range(6))
def test_it_ends_though_it_is_told_to_ask_at_that_very_moment(turns: int) -> None:
    """Such as when a key was pressed, and the terminal is closed."""

    def nobody() -> Client:
        raise AdminError("nobody")

    async def end() -> bool:
        asked = asyncio.Event()
        follower = Follower(nobody, Seen(), 60, Wanted, asked.set, has_token=False)
        polling = asyncio.create_task(follower.poll())
        await asked.wait()
        follower.poke()
        for _ in range(turns):  # of the loop
            await asyncio.sleep(0)
        polling.cancel()
        ended, _ = await asyncio.wait([polling], timeout=5)
        polling.cancel()
        return bool(ended)

    assert asyncio.run(end())
