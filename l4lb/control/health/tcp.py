"""The ``tcp`` check: a full handshake, then an orderly close, so that no backend logs a reset.

A backend that accepts and never answers (stopped, deadlocked) passes it: only a check that talks finds that.
"""

from __future__ import annotations

import asyncio
import os
import socket

from l4lb.control.health.checks import CheckFailed, Target


async def check_tcp(target: Target) -> None:
    """Raises CheckFailed at step ``connect``; the caller bounds the time."""
    address = target.address
    loop = asyncio.get_running_loop()
    sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if address.family == socket.AF_UNIX:
            sock.connect(target.sockaddr)  # never in progress: EAGAIN means that its accept queue is full, connect(2)
        else:
            await loop.sock_connect(sock, target.sockaddr)
    except BlockingIOError as error:
        raise CheckFailed("connect", "accept queue full") from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise CheckFailed("connect", reason.lower()) from error
    finally:
        sock.close()
