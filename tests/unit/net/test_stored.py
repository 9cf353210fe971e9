"""Messages and descriptors for a process that does not run yet."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence

import pytest

from l4lb.net.handover import close_all
from l4lb.net.stored import QUEUE, STATE, Store, Stored


def read_by_another(store: Store) -> Stored:
    """As a process that has only what was kept."""
    kept = {name: os.dup(fd) for name, fd in store.kept().items()}
    return Stored(kept[STATE], socket.socket(fileno=kept[QUEUE]))


def pipes(count: int) -> list[int]:
    return [fd for _ in range(count) for fd in os.pipe()]


def numbers(fds: Sequence[int]) -> list[int]:
    return [os.fstat(fd).st_ino for fd in fds]


def test_all_is_read_in_order_by_whoever_comes_later() -> None:
    fds = pipes(600)  # more than go with one message of the kernel's
    store = Store()
    store.send({"kind": "sockets"}, fds[:3])
    store.send({"kind": "large", "text": "x" * 1_000_000})
    store.send({"kind": "tcp"})
    store.send_bulk(b"state", fds[3:])
    reader = read_by_another(store)
    store.send({"kind": "said after it was kept"})
    store.close()
    expected = numbers(fds)
    close_all(fds)
    message, found = reader.receive()
    assert message == {"kind": "sockets"}
    reader.send({"kind": "ready"})  # to nobody
    assert len(reader.receive()[0]["text"]) == 1_000_000
    assert asyncio.run(reader.wait_for_message()) == ({"kind": "tcp"}, [])
    state, more = reader.receive_bulk(5, len(expected) - 3)
    assert state == b"state"
    assert numbers([*found, *more]) == expected
    assert not any(map(os.get_inheritable, more))
    assert reader.receive() == ({"kind": "said after it was kept"}, [])
    with pytest.raises(ConnectionResetError):
        reader.receive()
    assert asyncio.run(reader.wait_for_message()) is None
    close_all(found)
    close_all(more)
    reader.close()


def test_more_than_the_queue_holds_is_an_error() -> None:
    fds = pipes(1)
    store = Store()

    def fill() -> None:
        for _ in range(100_000):
            store.send({}, fds)

    with pytest.raises(OSError, match=r"temporarily|Too many references"):
        fill()
    store.close()
    close_all(fds)


def test_descriptors_that_are_missing_leave_none_behind() -> None:
    fds = pipes(1)
    store = Store()
    store.send({}, fds)
    reader = read_by_another(store)
    _, taken = reader.receive_bulk(0, 2)  # by somebody else
    close_all(taken)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=r"temporarily|lost"):
        reader.receive()
    assert len(os.listdir("/proc/self/fd")) == before
    store.close()
    reader.close()
    close_all(fds)


def test_what_is_discarded_is_in_nobodys_hands() -> None:
    """Also where the message that takes it back gets lost: what it holds goes on elsewhere."""
    fds = pipes(300)
    store = Store()
    store.send({"kind": "tcp"}, fds)
    reader = read_by_another(store)
    assert not reader.is_empty
    close_all(fds[1::2])
    store.discard()
    assert os.read(fds[0], 1) == b"", "nothing of it is open in the queue"
    assert reader.is_empty
    with pytest.raises(ConnectionResetError):
        reader.receive()
    store.close()
    reader.close()
    close_all(fds[::2])
