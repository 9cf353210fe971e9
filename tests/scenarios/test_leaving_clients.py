"""Clients that leave, or only finish sending, before their backend is there: while it is connected, in a queue, in the
pause before the next attempt."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l4lb import Backend, LoadBalancer
from l4lb.model.states import CloseReason
from tests.support.balancing import address_of, balancing, closed, wait_closed, wait_idle
from tests.support.peers import Server, connect, read_all, read_until_end, reset, running, serving
from tests.support.programs import free_port
from tests.support.waiting import wait_until


def answer_after_fin(sock: socket.socket) -> None:
    sock.sendall(read_all(sock)[::-1])


@contextlib.contextmanager
def silent_address() -> Iterator[str]:
    """Where nobody answers to a connect: the queue of a listening socket that is full."""
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(full.getsockname())
        yield f"127.0.0.1:{full.getsockname()[1]}"


def states(balancer: LoadBalancer) -> list[str]:
    return [one["state"] for one in balancer.sessions()]


@contextlib.contextmanager
def waiting(state: str) -> Iterator[LoadBalancer]:
    """A balancer whose next client is long in `state`, with a time-out far away."""
    backend: Any
    pool: dict[str, Any]
    with contextlib.ExitStack() as stack:
        if state == "connecting":
            backend, pool = stack.enter_context(silent_address()), {"connect_timeout": "60s"}
        elif state == "pausing":
            backend, pool = f"127.0.0.1:{free_port()}", {"retry_pause": "60s"}
        else:
            server = stack.enter_context(serving(answer_after_fin))
            backend, pool = {"address": server.address, "max_sessions": 1}, {"queue_size": 9, "queue_timeout": "60s"}
        balancer = stack.enter_context(balancing([backend], workers=1, **pool))
        if state == "queued":
            first = stack.enter_context(connect(address_of(balancer)))
            first.sendall(b"x")
            assert wait_until(lambda: states(balancer) == ["relaying"])
        yield balancer


STATES = ["connecting", "queued", "pausing"]


@pytest.mark.parametrize("said", [b"", b"something"], ids=["silent", "spoken"])
@pytest.mark.parametrize("state", STATES)
def test_a_client_that_is_reset_frees_its_places(state: str, said: bytes) -> None:
    with waiting(state) as balancer:
        sock = connect(address_of(balancer))
        sock.sendall(said)
        assert wait_until(lambda: state in states(balancer))
        before = balancer.stats().sessions_left
        reset(sock)
        wait_closed(balancer, CloseReason.CLIENT_ABORT)
        assert balancer.stats().sessions_left == before - 1
        assert state not in states(balancer)


@pytest.mark.parametrize("state", STATES)
def test_a_client_that_only_finished_sending_goes_on_waiting(state: str) -> None:
    with waiting(state) as balancer, connect(address_of(balancer)) as sock:
        sock.sendall(b"question")
        sock.shutdown(socket.SHUT_WR)
        assert wait_until(lambda: state in states(balancer))
        time.sleep(0.2)  # its FIN is known by now
        assert state in states(balancer)
        assert not closed(balancer)


def test_a_client_that_finished_sending_in_the_queue_is_answered() -> None:
    with serving(answer_after_fin) as server:
        backends = [Backend(address=server.address, max_sessions=1)]
        with balancing(backends, workers=1, queue_size=5, queue_timeout="20s") as balancer:
            with connect(address_of(balancer)) as first:
                assert wait_until(lambda: states(balancer) == ["relaying"])
                with connect(address_of(balancer)) as second:
                    second.sendall(b"question")
                    second.shutdown(socket.SHUT_WR)
                    assert wait_until(lambda: "queued" in states(balancer))
                    first.shutdown(socket.SHUT_WR)
                    assert read_all(second) == b"noitseuq"
            wait_closed(balancer, CloseReason.NORMAL, 2)


def test_an_attempt_that_the_client_left_blames_no_backend() -> None:
    with waiting("connecting") as balancer:
        sock = connect(address_of(balancer))
        assert wait_until(lambda: states(balancer) == ["connecting"])
        reset(sock)
        wait_closed(balancer, CloseReason.CLIENT_ABORT)
        wait_idle(balancer)
        (backend,) = balancer.stats().pools["web"].backends.values()
        assert (backend.connect_failures, backend.sessions_active) == (0, 0)


def test_a_unix_client_that_closes_in_silence_is_gone_and_one_that_said_something_is_served(tmp_path: Path) -> None:
    """A unix socket has no half of a hang-up: what was sent before it is delivered, as that of TCP before a FIN."""
    got: list[bytes] = []

    def take(sock: socket.socket) -> None:
        got.append(read_all(sock))

    port = free_port()
    bind = {"bind": f"unix:{tmp_path}/listener"}
    pool = {"retry_pause": "500ms", "connect_attempts": 30}
    with balancing([f"127.0.0.1:{port}"], listener=bind, workers=1, **pool) as balancer:
        silent = connect(f"unix:{tmp_path}/listener")
        assert wait_until(lambda: states(balancer) == ["pausing"])
        silent.close()
        wait_closed(balancer, CloseReason.CLIENT_ABORT)
        with connect(f"unix:{tmp_path}/listener") as spoken:
            spoken.sendall(b"to be delivered")
        assert wait_until(lambda: states(balancer) == ["pausing"])
        with running(Server(take, port=port)):
            assert wait_until(lambda: got == [b"to be delivered"])
        wait_idle(balancer)


# ---- retry_pause ----


def test_one_backend_that_restarts_is_waited_for() -> None:
    port = free_port()
    pool = {"retry_pause": "500ms", "connect_attempts": 5}
    with balancing([f"127.0.0.1:{port}"], workers=1, **pool) as balancer:
        with connect(address_of(balancer)) as sock:
            sock.sendall(b"question")
            sock.shutdown(socket.SHUT_WR)
            assert wait_until(lambda: states(balancer) == ["pausing"])
            with running(Server(answer_after_fin, port=port)):
                assert read_all(sock) == b"noitseuq"
        wait_closed(balancer, CloseReason.NORMAL)
        (backend,) = balancer.stats().pools["web"].backends.values()
        assert 1 <= backend.connect_failures <= 4


def test_connect_attempts_are_the_bound_and_the_pauses_lie_between_them() -> None:
    pool = {"retry_pause": "200ms", "connect_attempts": 3}
    with balancing([f"127.0.0.1:{free_port()}"], workers=1, **pool) as balancer:
        began = time.monotonic()
        with connect(address_of(balancer)) as sock:
            assert read_until_end(sock) == (b"", True)
        assert time.monotonic() - began >= 0.4
        wait_closed(balancer, CloseReason.CONNECT_FAILED)
        (backend,) = balancer.stats().pools["web"].backends.values()
        assert backend.connect_failures == 3


def test_no_pause_while_another_backend_is_left_to_try() -> None:
    with serving(answer_after_fin) as server:
        dead = [f"127.0.0.1:{free_port()}" for _ in range(3)]
        pool = {"retry_pause": "60s", "connect_attempts": 4, "policy": "first"}
        with balancing([*dead, server.address], workers=1, **pool) as balancer:
            with connect(address_of(balancer)) as sock:
                sock.sendall(b"question")
                sock.shutdown(socket.SHUT_WR)
                assert read_all(sock) == b"noitseuq"
            wait_closed(balancer, CloseReason.NORMAL)
