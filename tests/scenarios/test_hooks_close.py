"""`on_close`: a program's function gets the record of each session that has ended, and whatever it does disturbs
nobody."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import l4lb.net.output.record_sink as record_sink
from l4lb import Backend, ChangeError, Config, Listener, LoadBalancer, Pool
from l4lb.config import AdminConfig, GlobalConfig
from l4lb.control.hooks import closing
from l4lb.hooks import SessionInfo
from l4lb.model.hooks import CloseCounts
from tests.scenarios.test_hooks import LONG_S, answer_of, heard, named, results
from tests.support.balancing import NO_CHECKS, address_of, wait_idle
from tests.support.datagrams import UdpClient, serving_udp
from tests.support.lines import read_text
from tests.support.peers import connect, greeting, hold, serving
from tests.support.waiting import wait_until

Record = dict[str, Any]


def counts(balancer: LoadBalancer) -> CloseCounts | None:
    return balancer.plane.hooks.closing.counts


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_each_session_that_ends_is_told_without_an_access_log(is_async: bool) -> None:
    got: list[Record] = []
    threads: set[str] = set()

    def on_close(record: Record) -> None:
        threads.add(threading.current_thread().name)
        got.append(record)

    async def async_on_close(record: Record) -> None:
        await asyncio.sleep(0)
        on_close(record)

    with named() as balancer:
        assert counts(balancer) is None
        balancer.on_close(async_on_close if is_async else on_close)
        assert answer_of(balancer) == b"a"
        assert wait_until(lambda: got)
        (record,) = got
        assert (record["listener"], record["pool"], record["backend"]) == ("web", "web", "a")
        assert (record["bytes_down"], record["close_reason"], record["local"]) == (1, "normal", address_of(balancer))
        assert type(record["session_id"]) is str
        assert wait_until(lambda: counts(balancer) == CloseCounts(1))
        assert answer_of(balancer) == b"a"
        assert results(balancer) == {}, "no session was asked about"
    assert len(got) == 2
    assert threads == {"l4lb-hook-loop" if is_async else "l4lb-record-sink"}


def test_beside_an_access_log_both_get_all(tmp_path: Path) -> None:
    got: list[Record] = []
    with serving(greeting(b"a")) as server:
        config = Config(
            global_=GlobalConfig(access_log=str(tmp_path / "log")),
            admin=AdminConfig(bind="off"),
            listeners={"web": Listener(bind=["127.0.0.1:0"], pool="web")},
            pools={"web": Pool(backends=[server.address], health=NO_CHECKS)},
        )
        balancer = LoadBalancer(config)
        balancer.on_close(got.append)
        for _ in range(2):  # and when it is started anew
            with balancer:
                for _ in range(20):
                    assert answer_of(balancer) == b"a"
    lines = read_text(tmp_path / "log")
    assert [line["session_id"] for line in lines] == [record["session_id"] for record in got]
    assert len(got) == 40


def test_they_come_and_go_with_the_access_log_or_without(tmp_path: Path) -> None:
    got: list[Record] = []
    with named() as balancer:
        off = balancer.config
        on = off.model_copy(update={"global_": GlobalConfig(workers=1, access_log=str(tmp_path / "log"))})
        for config, hooked in (
            (on, False),
            (on, True),
            (off, True),
            (off, False),
            (off, True),
            (on, True),
            (on, False),
        ):
            balancer.reload(config)
            balancer.on_close(None)
            if hooked:
                balancer.on_close(got.append)
            assert answer_of(balancer) == b"a"
            wait_idle(balancer)
    assert len(read_text(tmp_path / "log")) == 4
    assert len(got) == 4


def test_udp_sessions_too() -> None:
    got: list[Record] = []
    with serving_udp() as server:
        pools = {"dns": Pool(backends=[Backend(address=server.address, id="a")], health=NO_CHECKS)}
        listeners = {"dns": Listener(bind=["127.0.0.1:0"], pool="dns", protocol="udp", udp_responses=1)}
        config = Config(admin=AdminConfig(bind="off"), listeners=listeners, pools=pools)
        with LoadBalancer(config) as balancer:
            balancer.on_close(got.append, listeners=["dns"])
            with UdpClient(balancer.listeners["dns"].addresses[0]) as client:
                client.send(b"hi")
                assert client.receive() == b"hi"
                assert wait_until(lambda: got)
    assert (got[0]["listener"], got[0]["backend"], got[0]["bytes_up"]) == ("dns", "a", 2)


def test_a_refused_client_has_a_record_too() -> None:
    got: list[Record] = []
    with named(deny=["127.0.0.0/8"]) as balancer:
        balancer.on_close(got.append)
        assert answer_of(balancer) is None
        assert wait_until(lambda: got)
    assert got[0]["close_reason"] == "denied"


def test_which_function_gets_which_sessions_and_none_takes_it_away() -> None:
    ours: list[Record] = []
    others: list[Record] = []
    with named() as balancer:
        with pytest.raises(ChangeError, match=r'no such listener \(did you mean "web"\?\)'):
            balancer.on_close(ours.append, listeners=["wbe"])
        with pytest.raises(ChangeError, match="expected a function of a record, not 3"):
            balancer.on_close(3)  # type: ignore[arg-type]
        balancer.on_close(others.append)
        balancer.on_close(ours.append, listeners=["web"])
        with pytest.raises(ChangeError, match="it has a hook already"):
            balancer.on_close(ours.append, listeners=["web"])
        with pytest.raises(ChangeError, match="for all listeners already"):
            balancer.on_close(ours.append)
        config = balancer.config
        more = {**config.listeners, "more": Listener(bind=["127.0.0.1:0"], pool="other")}
        balancer.reload(config.model_copy(update={"listeners": more}))
        assert answer_of(balancer) == b"a"
        assert answer_of(balancer, at=balancer.listeners["more"].addresses[0]) == b"c"
        assert wait_until(lambda: len(ours) == len(others) == 1)
        assert (ours[0]["listener"], others[0]["listener"]) == ("web", "more")
        balancer.on_close(None, listeners=["web"])
        assert answer_of(balancer) == b"a"
        assert wait_until(lambda: len(others) == 2)
        wait_idle(balancer)
        balancer.on_close(None)
        assert not any("record" in thread.name for thread in threading.enumerate())
        assert answer_of(balancer) == b"a"
        wait_idle(balancer)
        assert balancer.plane.forwarder.take_records(10) == []
        assert counts(balancer) == CloseCounts(3)
    assert (len(ours), len(others)) == (1, 2)


def test_the_awaitable_twin() -> None:
    got: list[Record] = []
    with named() as balancer:
        asyncio.run(balancer.aon_close(got.append))
        assert answer_of(balancer) == b"a"
        assert wait_until(lambda: got)
        asyncio.run(balancer.aon_close(None))
        assert balancer.plane.hooks.closing.hooks == ()


# ---- functions that misbehave ----


def leaving(record: Record) -> None:
    raise SystemExit("out of here")


async def failing_async(record: Record) -> None:
    raise TimeoutError("the database is slow")


async def cancelling(record: Record) -> None:
    raise asyncio.CancelledError


RAISING = [
    (lambda record: 1 / 0, "ZeroDivisionError: division by zero"),
    (leaving, "SystemExit: out of here"),
    (failing_async, "TimeoutError: the database is slow"),
    (cancelling, "CancelledError: "),
    (lambda record: failing_async(record), "TypeError: returned a coroutine; expected an async function"),
]


@pytest.mark.parametrize(("hook", "reason"), RAISING, ids=range(len(RAISING)))
def test_one_that_raises_is_counted_and_reported_now_and_then(hook: Any, reason: str) -> None:
    with named() as balancer, heard(balancer, "hook_failed") as events:
        balancer.on_close(hook)
        for _ in range(5):
            assert answer_of(balancer) == b"a"
        assert wait_until(lambda: counts(balancer) == CloseCounts(0, 5))
        assert wait_until(lambda: events)
        assert len(events) < 3 or events[1].time - events[0].time >= 0.9  # not one for each
        assert events[0].fields["listener"] == "web"
        assert str(events[0].fields["reason"]).startswith(reason)
        assert "test_hooks_close" in str(events[0].fields["hook"])


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_one_that_hangs_disturbs_nobody(is_async: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither sessions, nor what is asked about them, nor the access log, nor the end. What waits is bounded."""
    monkeypatch.setattr(record_sink, "QUEUE_LENGTH", 10)
    monkeypatch.setattr(record_sink, "CLOSE_WITHIN_S", 0.2)
    monkeypatch.setattr(closing, "CLOSE_WITHIN_S", 0.2)
    monkeypatch.setattr("l4lb.net.output.line_writer.PENDING_BYTES", 1000)
    release = threading.Event()
    asked: list[SessionInfo] = []

    async def hang(record: Record) -> None:
        await asyncio.sleep(LONG_S)

    with contextlib.ExitStack() as stack:
        stack.callback(release.set)
        with named() as balancer, heard(balancer, "hook_failed") as events:
            config = balancer.config
            log = GlobalConfig(workers=1, access_log=str(tmp_path / "log"))
            balancer.reload(config.model_copy(update={"global_": log}))
            balancer.on_session(asked.append, deadline=LONG_S)
            balancer.on_close(hang if is_async else lambda record: release.wait(LONG_S) and None)
            count = 10 + 10 + 2 * closing.AT_ONCE
            for _ in range(count):
                assert answer_of(balancer) == b"a"
            assert wait_until(lambda: len(read_text(tmp_path / "log")) == count)
            assert len(asked) == count
            assert wait_until(lambda: events)
            assert events[0].fields["reason"] == "records are dropped: its reader is slow or stuck"
            found = counts(balancer)
            assert found is not None
            assert found.delivered == 0
            assert found.dropped > 0
            before = time.monotonic()
            balancer.close()
            assert time.monotonic() - before < LONG_S / 2
            assert len(read_text(tmp_path / "log")) == count


def test_a_slow_one_gets_all_that_ended_before_the_end() -> None:
    got: list[Record] = []

    def slow(record: Record) -> None:
        time.sleep(0.005)
        got.append(record)

    with serving(hold) as server, contextlib.ExitStack() as stack:
        config = Config(
            admin=AdminConfig(bind="off"),
            listeners={"web": Listener(bind=["127.0.0.1:0"], pool="web")},
            pools={"web": Pool(backends=[server.address], health=NO_CHECKS)},
        )
        with LoadBalancer(config) as balancer:
            balancer.on_close(slow)
            for _ in range(50):
                stack.enter_context(connect(address_of(balancer)))
            assert wait_until(lambda: server.accepted == 50)
    assert [record["close_reason"] for record in got] == ["shutdown"] * 50


def test_async_ones_are_waited_for_at_the_end() -> None:
    got: list[Record] = []

    async def slow(record: Record) -> None:
        await asyncio.sleep(0.2)
        got.append(record)

    with named() as balancer:
        balancer.on_close(slow)
        for _ in range(30):
            assert answer_of(balancer) == b"a"
    assert len(got) == 30


@pytest.mark.slow
@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_thousands_of_sessions(is_async: bool) -> None:
    """In order, and each once."""
    got: list[str] = []

    async def async_on_close(record: Record) -> None:
        got.append(record["session_id"])

    def on_close(record: Record) -> None:
        got.append(record["session_id"])

    with named(workers=2) as balancer:
        balancer.on_close(async_on_close if is_async else on_close)

        def come() -> None:
            for _ in range(750):
                answer_of(balancer)

        clients = [threading.Thread(target=come) for _ in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert wait_until(lambda: counts(balancer) == CloseCounts(3000))
    assert len(set(got)) == len(got) == 3000
