"""Clients that one worker accepts for another."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.peers import connect

probe = pytest.importorskip("_l4lb_probe_worker", reason="the probe modules are not built (L4LB_PROBE=1)")
BUSY, IDLE = 0, 1


@pytest.mark.parametrize("serve", [probe.Plane.accept, probe.Plane.leave])
def test_who_is_accepted_for_another_worker_wakes_it(serve: Callable[[Any, int], None]) -> None:
    """Also by the last look at a socket that is left: nothing else would wake it."""
    plane = probe.Plane(workers=2)
    for _ in range(8):
        plane.session(BUSY)
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.setblocking(False)
        plane.listen(BUSY, server.fileno())
        stack.enter_context(connect(server.getsockname()))
        assert select.select([server], [], [], 20)[0], "the last part of the handshake may come later"
        serve(plane, BUSY)
        *_, assigned = plane.counts()
        assert assigned == [8, 1]
        assert plane.woken(IDLE)
        assert not plane.woken(BUSY)
        plane.close()
