"""The ``redis`` check: PING must be answered with PONG, or with the demand for a password.

A server that demands a password (-NOAUTH, -NOPERM) works, so the check, which has none, passes; HAProxy's redis-check
fails there. -LOADING, -BUSY, -MASTERDOWN, -DENIED and all others fail, with the server's own words as the reason. While
it loads its data set, a server with a password still answers -NOAUTH: check that one with ``send_expect`` and an AUTH
before the PING.
"""

from __future__ import annotations

import re

from l4lb.control.checks.checks import CheckFailed, Target, begin_step, shown
from l4lb.control.checks.stream import open_stream

PING = b"*1\r\n$4\r\nPING\r\n"  # RESP arrays also pass rename-command and proxies, inline commands do not
MAX_LINE_BYTES = 1024
PASSES = re.compile(rb"\+PONG|-NOAUTH\b|-NOPERM\b")


async def check_redis(target: Target) -> None:
    """Raises CheckFailed at steps ``connect`` and ``answer``; the caller bounds the time."""
    data = b""
    async with open_stream(target) as stream:
        begin_step("answer")
        await stream.send(PING)
        while b"\r\n" not in data and len(data) < MAX_LINE_BYTES:
            more = await stream.receive()
            if not more:
                raise CheckFailed("answer", f"closed after {shown(data)}")
            data += more
    line = data.partition(b"\r\n")[0]
    if not PASSES.match(line):
        raise CheckFailed("answer", line[1:200].decode("ascii", "replace") if line[:1] == b"-" else shown(line))
