"""The ``send_expect`` check: sends what the operator configured, and looks for the expected answers, step by step.

Step i sends ``send[i]``, if there is one, then waits until ``expect[i]`` is found. The next step looks only at what
came after the match. For servers that speak first, leave the first `send` empty.
"""

from __future__ import annotations

import re
from itertools import zip_longest

from l4lb.config.options.patterns import parse_bytes, parse_pattern
from l4lb.control.checks.checks import CheckFailed, Target, begin_step, current_step, shown
from l4lb.control.checks.stream import MAX_ANSWER_BYTES, Stream, open_stream


async def check_send_expect(target: Target) -> None:
    """Raises CheckFailed at steps ``connect``, ``send[i]`` and ``expect[i]``; the caller bounds the time."""
    settings = target.settings
    left = b""
    async with open_stream(target) as stream:
        for index, (send, expect) in enumerate(zip_longest(settings.send, settings.expect, fillvalue="")):
            if send:
                begin_step(f"send[{index}]")
                await stream.send(parse_bytes(send))
            if expect:
                begin_step(f"expect[{index}]")
                left = await read_until(stream, parse_pattern(expect), left)


async def read_until(stream: Stream, pattern: re.Pattern[bytes], data: bytes = b"") -> bytes:
    """Read until `pattern` is found in `data` and what follows it; returns what came after the match."""
    while (match := pattern.search(data)) is None:
        if len(data) >= MAX_ANSWER_BYTES:
            raise CheckFailed(current_step(), f"not found in the first {MAX_ANSWER_BYTES >> 10} KiB of {shown(data)}")
        more = await stream.receive()
        if not more:
            raise CheckFailed(current_step(), f"closed after {shown(data)}")
        data += more
    return data[match.end() :]
