"""Sessions of TCP that stand still for another process, and go on here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from l4lb.engine.native import NativeForwarder
from l4lb.model.snapshot import BackendSpec, ListenerSpec, PoolSpec, Selection, Snapshot
from tests.support.peers import connect, echo, read_exactly, serving
from tests.support.programs import free_port
from tests.support.waiting import wait_until
from tests.unit.engine.test_migration import local


@contextlib.contextmanager
def forwarding(workers: int) -> Iterator[tuple[NativeForwarder, str]]:
    """One TCP listener with an echo behind it, and where it listens."""
    port = free_port()
    with serving(echo) as server:
        pool = PoolSpec("p", Selection.CURSOR, (BackendSpec("b", local(server.port)),), (0,), (0,))
        forwarder = NativeForwarder(workers)
        try:
            forwarder.start()
            forwarder.publish(Snapshot(1, (pool,), (ListenerSpec("l", (local(port),), "p"),)))
            yield forwarder, f"127.0.0.1:{port}"
        finally:
            forwarder.close()


def test_what_is_asked_of_a_worker_that_stands_still_is_done_when_it_goes_on() -> None:
    with forwarding(workers=2) as (forwarder, address):
        tcp = forwarder.tcp
        for _ in range(30):
            tcp.hold_clients(True)
            assert wait_until(tcp.clients_held)
            tcp.freeze()
            assert wait_until(lambda: tcp.frozen() is not None)
            tcp.settle(gone=False)
            tcp.hold_clients(False)  # which may wake it from the freeze already
            assert wait_until(tcp.clients_held)
            with connect(address) as client:
                client.sendall(b"hello")
                assert read_exactly(client, 5) == b"hello"
