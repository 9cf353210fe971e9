"""The ``udp`` check: sends a datagram, and looks for the expected answer.

Without `expect` no answer is needed: only an ICMP refusal (nothing listens on the port, or the network refuses) fails,
and silence passes. A dead host is silent and passes too: use `expect` wherever the server answers. The datagram is
`send`, or empty.
"""

from __future__ import annotations

import asyncio
from itertools import zip_longest

from l4lb.config.options.patterns import parse_bytes, parse_pattern
from l4lb.control.checks.checks import CheckFailed, Target, begin_step, shown
from l4lb.control.checks.datagram import Datagrams, open_datagrams

SILENCE = 0.8  # part of the time-out spent waiting for a refusal: silence has to end before the time-out


async def check_udp(target: Target) -> None:
    """Raises CheckFailed at steps ``connect``, ``send[i]``, ``expect[i]``, ``refusal``; the caller bounds the time."""
    settings = target.settings
    with open_datagrams(target) as datagrams:
        for index, (send, expect) in enumerate(zip_longest(settings.send or ("",), settings.expect, fillvalue="")):
            begin_step(f"send[{index}]")
            datagrams.send(parse_bytes(send))
            if expect:
                begin_step(f"expect[{index}]")
                await _expect(datagrams, expect, index)
        if not any(settings.expect):
            begin_step("refusal")
            await _silence(datagrams, settings.timeout * SILENCE)


async def _expect(datagrams: Datagrams, expect: str, index: int) -> None:
    answer = await datagrams.receive()
    if not parse_pattern(expect).search(answer):
        raise CheckFailed(f"expect[{index}]", f"not found in {shown(answer)}")


async def _silence(datagrams: Datagrams, for_s: float) -> None:
    """Raises CheckFailed for a refusal; accepts any answer or none."""
    try:
        async with asyncio.timeout(for_s):
            await datagrams.receive()
    except TimeoutError:
        return
