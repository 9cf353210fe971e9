"""The thread that reads another process's events."""

from __future__ import annotations

import http.client
import socket
import threading

from l4lb.control.state.feed import Feed
from l4lb.errors import AdminError
from l4lb.remote.following import Following
from tests.support.waiting import wait_until


def test_one_that_is_stopped_while_it_connects_ends() -> None:
    """Though the other process never answers."""
    may_connect = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def connect(timeout_s: float) -> http.client.HTTPConnection:
            assert may_connect.wait(20)
            return http.client.HTTPConnection(*silent.getsockname(), timeout=timeout_s)

        following = Following(
            connect, {}, 0, True, Feed(lambda event: True), lambda status, body: AdminError(str(status))
        )
        following.start()
        stopping = threading.Thread(target=following.stop)
        stopping.start()
        assert wait_until(lambda: following._stopping)
        may_connect.set()
        stopping.join()
        following.wait_begun()
