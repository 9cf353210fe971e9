"""The thread that reads another process's events."""

from __future__ import annotations

import http.client
import socket
import threading

import pytest

from l4lb import Client
from l4lb.control.state.feed import Feed
from l4lb.errors import AdminError
from l4lb.remote.following import Following, Peer
from tests.support.waiting import wait_until


def test_one_that_is_stopped_while_it_connects_ends() -> None:
    """Though the other process never answers."""
    may_connect = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def connect() -> http.client.HTTPConnection:
            assert may_connect.wait(20)
            return http.client.HTTPConnection(*silent.getsockname(), timeout=60)

        peer = Peer(connect, {}, lambda status, body: AdminError(str(status)), AdminError)
        following = Following(peer, 0, True, Feed(lambda event: True))
        following.start()
        stopping = threading.Thread(target=following.stop)
        stopping.start()
        assert wait_until(lambda: following._stopping)
        may_connect.set()
        stopping.join()
        following.wait_begun()


def test_nobody_waits_longer_for_the_first_answer_than_for_any_other() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = "{}:{}".format(*silent.getsockname())
        with Client(address, timeout=0.2) as client:
            with pytest.raises(AdminError, match=f"no instance answers at {address}: timed out"):
                client.events()
    with Client(address) as client, pytest.raises(AdminError, match=f"no instance answers at {address}: Conn"):
        client.events()
