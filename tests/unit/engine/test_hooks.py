"""Sessions that wait for a hook, between the workers and whoever answers: rings, deadlines, verdicts."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from l4lb._native import hooks
from l4lb.engine.native import NativeForwarder
from l4lb.model.hooks import NO_TAGS, Answer, Ask, HookResult, Tags
from l4lb.model.sessions import Session, SessionFilter
from l4lb.model.snapshot import BackendSpec, ListenerSpec, PoolSpec, Selection, Snapshot
from l4lb.model.states import CloseReason
from l4lb.model.stats import SessionRecord
from tests.support.peers import connect, greeting, hold, read_until_end, reset, serving
from tests.support.waiting import wait_until
from tests.unit.engine.test_native import local

LONG_S = 600.0


def pool_of(name: str, ports: dict[str, int]) -> PoolSpec:
    backends = tuple(BackendSpec(id_, local(port)) for id_, port in ports.items())
    usable = tuple(range(len(backends)))
    return PoolSpec(name, Selection.FIRST, backends, usable, ())


class Hooked:
    """A forwarder whose one listener has a hook; backends answer with their names."""

    def __init__(self, forwarder: NativeForwarder, pools: tuple[PoolSpec, ...], spec: ListenerSpec) -> None:
        self.forwarder = forwarder
        self.fd = forwarder.open_hooks()
        self._pools = pools
        self._spec = spec
        self._version = 0
        self.publish()
        self.address = forwarder.addresses("l")[0]

    def publish(self, *, pools: tuple[PoolSpec, ...] | None = None, **changes: object) -> None:
        self._version += 1
        self._spec = replace(self._spec, **changes)  # type: ignore[arg-type]
        self.forwarder.publish(Snapshot(self._version, pools or self._pools, (self._spec,)))

    def asked(self, count: int = 1) -> list[Ask]:
        """The asks that come, once there are so many."""
        found: list[Ask] = []
        assert wait_until(lambda: found.extend(self.forwarder.take_asks(64)) or len(found) >= count)
        return found

    def results(self) -> dict[HookResult, int]:
        return self.forwarder.stats().listeners["l"].hooked

    def closed(self) -> dict[CloseReason, int]:
        return self.forwarder.stats().listeners["l"].closed


@contextlib.contextmanager
def hooked(*, workers: int = 1, deadline_s: float = LONG_S, rejects: bool = False) -> Iterator[Hooked]:
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(serving(greeting(name.encode()))).port for name in ("a", "b", "c")}
        pools = (pool_of("p", {"a": ports["a"], "b": ports["b"]}), pool_of("other", {"c": ports["c"]}))
        forwarder = NativeForwarder(workers)
        stack.callback(forwarder.close)
        forwarder.start()
        spec = ListenerSpec("l", (local(0),), "p", hook_deadline_s=deadline_s, hook_rejects=rejects)
        yield Hooked(forwarder, pools, spec)
    assert not any(forwarder.leaks().values())


def readable(fd: int, timeout_s: float = 0) -> bool:
    return bool(select.select([fd], [], [], timeout_s)[0])


def test_an_ask_says_who_comes_where() -> None:
    with hooked() as one, connect(one.address) as client:
        (ask,) = one.asked()
        host, port = client.getsockname()
        assert ask[2:] == ("l", "p", host, port, one.address, "")
        assert ask.session_id > 0
        one.forwarder.answer([Answer(ask, HookResult.ACCEPTED)])
        assert read_until_end(client) == (b"a", False)
        assert one.results() == {HookResult.ACCEPTED: 1}


@pytest.mark.parametrize(
    ("result", "target", "said"),
    [
        (HookResult.ACCEPTED, "", b"a"),
        (HookResult.POOL, "other", b"c"),
        (HookResult.BACKEND, "b", b"b"),
        (HookResult.BACKEND, "gone", b"a"),  # then the policy chooses
        (HookResult.FAILED, "", b"a"),
        (HookResult.FULL, "", b"a"),
    ],
)
def test_a_session_goes_where_the_answer_says(result: HookResult, target: str, said: bytes) -> None:
    with hooked() as one, connect(one.address) as client:
        one.forwarder.answer([Answer(one.asked()[0], result, target)])
        assert read_until_end(client) == (said, False)
        assert one.results() == {result: 1}


def test_an_unknown_pool_is_a_failed_answer() -> None:
    with hooked() as one, connect(one.address) as client:
        one.forwarder.answer([Answer(one.asked()[0], HookResult.POOL, "nosuch")])
        assert read_until_end(client) == (b"a", False)
        assert one.results() == {HookResult.FAILED: 1}


@pytest.mark.parametrize("closes", [False, True])
def test_who_is_rejected_sees_what_deny_action_says(closes: bool) -> None:
    with hooked() as one:
        one.publish(deny_closes=closes)
        with connect(one.address) as client:
            one.forwarder.answer([Answer(one.asked()[0], HookResult.REJECTED)])
            assert read_until_end(client) == (b"", not closes)
        assert wait_until(lambda: one.closed() == {CloseReason.DENIED: 1})
        assert one.results() == {HookResult.REJECTED: 1}


@pytest.mark.parametrize("rejects", [False, True])
def test_without_an_answer_on_error_holds_from_the_deadline_on(rejects: bool) -> None:
    with hooked(deadline_s=0.05, rejects=rejects) as one, connect(one.address) as client:
        assert read_until_end(client) == ((b"", True) if rejects else (b"a", False))
        assert one.results() == {HookResult.LATE: 1}
        one.forwarder.answer([Answer(one.asked()[0], HookResult.POOL, "other")])
        assert wait_until(lambda: one.forwarder.hook_counts().dropped == 1)
        assert one.results() == {HookResult.LATE: 1}


def test_an_answer_for_a_client_that_left_is_dropped() -> None:
    with hooked() as one:
        client = connect(one.address)
        (ask,) = one.asked()
        reset(client)
        assert wait_until(lambda: one.closed() == {CloseReason.CLIENT_ABORT: 1})
        with connect(one.address):  # in the same slot
            (second,) = one.asked()
            one.forwarder.answer([Answer(ask, HookResult.REJECTED)])
            assert wait_until(lambda: one.forwarder.hook_counts().dropped == 1)
            one.forwarder.answer([Answer(second, HookResult.ACCEPTED)] * 2)  # the second one comes too late
            assert wait_until(lambda: one.forwarder.hook_counts().dropped == 2)
        assert one.results() == {HookResult.ACCEPTED: 1}


def test_what_a_client_sends_and_ends_with_meanwhile_is_relayed() -> None:
    with hooked() as one, connect(one.address) as client:
        (ask,) = one.asked()
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        one.forwarder.answer([Answer(ask, HookResult.ACCEPTED)])
        assert read_until_end(client) == (b"a", False)
        assert wait_until(lambda: one.forwarder.stats().pools["p"].bytes_up == 5)


def test_a_full_ring_lets_on_error_hold_at_once() -> None:
    """Nobody takes what is asked."""
    with hooked() as one, contextlib.ExitStack() as stack:
        for _ in range(hooks.ASKS_MAX):
            stack.enter_context(connect(one.address))
        assert wait_until(lambda: one.forwarder.stats().sessions_active == hooks.ASKS_MAX)
        with connect(one.address) as client:
            assert read_until_end(client) == (b"a", False)
        assert one.results() == {HookResult.FULL: 1}
        asks = one.asked(hooks.ASKS_MAX)
        one.forwarder.answer([Answer(ask, HookResult.REJECTED) for ask in asks])
        assert wait_until(lambda: one.results() == {HookResult.FULL: 1, HookResult.REJECTED: hooks.ASKS_MAX})


def test_the_reader_is_woken_when_it_had_taken_all() -> None:
    with hooked() as one, contextlib.ExitStack() as stack:
        for _ in range(3):
            assert not readable(one.fd)
            stack.enter_context(connect(one.address))
            assert readable(one.fd, 60)
            one.forwarder.answer([Answer(ask, HookResult.REJECTED) for ask in one.asked()])
            assert one.forwarder.take_asks(1) == []


def test_many_sessions_over_several_workers_get_their_own_answers() -> None:
    """More than the ring of answers has room for, in turns."""
    with hooked(workers=2) as one:
        for turn in range(45):
            with contextlib.ExitStack() as stack:
                clients = {stack.enter_context(connect(one.address)) for _ in range(100)}
                ports = {client.getsockname()[1]: client for client in clients}
                answers = [
                    Answer(ask, HookResult.POOL, "other") if ask.client_port % 2 else Answer(ask, HookResult.ACCEPTED)
                    for ask in one.asked(100)
                ]
                one.forwarder.answer(answers)
                for port, client in ports.items():
                    assert read_until_end(client) == (b"c" if port % 2 else b"a", False), turn
        assert sum(one.results().values()) == 4500
        assert one.forwarder.hook_counts().untaken == 0
        assert sum(sum(worker.hook_time.counts) for worker in one.forwarder.stats().workers) == 4500


def test_a_listener_is_asked_about_no_more_once_its_hook_is_gone() -> None:
    with hooked() as one:
        first = connect(one.address)
        (ask,) = one.asked()
        one.publish(hook_deadline_s=0.0)
        with connect(one.address) as second:
            assert read_until_end(second) == (b"a", False)
        one.forwarder.answer([Answer(ask, HookResult.ACCEPTED)])
        assert read_until_end(first) == (b"a", False)
        first.close()
        assert one.results() == {HookResult.ACCEPTED: 1}


def test_a_pool_that_has_gone_meanwhile_is_a_failed_answer() -> None:
    with hooked(rejects=True) as one, connect(one.address) as client:
        (ask,) = one.asked()
        one.publish(pools=one._pools[:1])
        one.forwarder.answer([Answer(ask, HookResult.POOL, "other")])
        assert read_until_end(client) == (b"", True)
        assert one.results() == {HookResult.FAILED: 1}


def test_sessions_that_wait_when_all_ends_are_reset() -> None:
    with hooked() as one:
        client = connect(one.address)
        (ask,) = one.asked()
        one.forwarder.close()
        assert read_until_end(client) == (b"", True)
        client.close()
        assert one.closed() == {CloseReason.SHUTDOWN: 1}
        assert one.forwarder.hook_counts().dropped == 0
        assert ask.session_id


# ---- tags ----

TAGS = {"customer": "acme"}


@contextlib.contextmanager
def recording(one: Hooked) -> Iterator[list[SessionRecord]]:
    """The records of what ends meanwhile, once one has ended."""
    records: list[SessionRecord] = []
    wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    one.forwarder.keep_records(wake_fd)
    yield records
    assert wait_until(lambda: records.extend(one.forwarder.take_records(100)) or records)
    one.forwarder.close()
    os.close(wake_fd)


@pytest.mark.parametrize(
    ("result", "target", "tagged"),
    [
        (HookResult.ACCEPTED, "", True),
        (HookResult.REJECTED, "", True),
        (HookResult.POOL, "other", True),
        (HookResult.BACKEND, "gone", True),  # it has a backend all the same
        (HookResult.POOL, "nosuch", False),  # which is no answer
        (HookResult.FAILED, "", False),
    ],
)
def test_a_record_says_whether_the_answer_had_tags(result: HookResult, target: str, tagged: bool) -> None:
    with hooked() as one, recording(one) as records:
        with connect(one.address) as client:
            one.forwarder.answer([Answer(one.asked()[0], result, target, TAGS)])
            read_until_end(client)
    assert [record.tagged for record in records] == [tagged]


@pytest.mark.parametrize("tags", [NO_TAGS, TAGS])
def test_tags_of_a_late_answer_are_not_its_sessions(tags: Tags) -> None:
    with hooked(deadline_s=0.05) as one, recording(one) as records, holding(one) as client:
        assert wait_until(lambda: one.results() == {HookResult.LATE: 1})
        one.forwarder.answer([Answer(one.asked()[0], HookResult.ACCEPTED, "", tags)])
        assert wait_until(lambda: one.forwarder.hook_counts().dropped == 1)
        client.close()
    assert [record.tagged for record in records] == [False]


@contextlib.contextmanager
def holding(one: Hooked) -> Iterator[socket.socket]:
    """A session that goes on."""
    with serving(hold) as server:
        one.publish(pools=(pool_of("p", {"a": server.port}),))
        with connect(one.address) as client:
            yield client


def swept(forwarder: NativeForwarder, **wanted: bool) -> list[Session]:
    sweep = forwarder.begin_sweep(SessionFilter(**wanted), 10)  # type: ignore[arg-type]
    assert wait_until(sweep.over)
    return sweep.take_found()


def test_sessions_with_tags_can_be_looked_for() -> None:
    with hooked() as one, holding(one), connect(one.address):
        asks = one.asked(2)
        one.forwarder.answer([Answer(asks[0], HookResult.ACCEPTED), Answer(asks[1], HookResult.ACCEPTED, "", TAGS)])
        assert wait_until(lambda: one.results() == {HookResult.ACCEPTED: 2})
        assert sorted(session.tagged for session in swept(one.forwarder)) == [False, True]
        assert [session.id for session in swept(one.forwarder, tagged=True)] == [asks[1].session_id]
