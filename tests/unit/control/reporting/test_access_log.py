"""The thread that empties the rings: asleep while nothing happens, never in anybody's way, complete at the end."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from l4lb import Config, LoadBalancer
from l4lb.config import AdminConfig, GlobalConfig
from l4lb.control.reporting.access_log import Counts
from l4lb.engine.native import NativeForwarder
from l4lb.net.output.record_stream import Reader
from tests.support.balancing import address_of, make_config, wait_idle
from tests.support.lines import read_text
from tests.support.peers import connect, hold, one_answer, serving
from tests.support.waiting import wait_until


def logging_to(place: Any, backend: str, **settings: Any) -> Config:
    config = make_config([backend])
    return config.model_copy(
        update={"global_": GlobalConfig(workers=2, access_log=str(place), **settings), "admin": AdminConfig(bind="off")}
    )


def ask(balancer: LoadBalancer, times: int) -> None:
    for _ in range(times):
        with connect(address_of(balancer)) as sock:
            sock.sendall(b"hi")
            assert sock.recv(10) == b"hello"
    wait_idle(balancer)


def counts(balancer: LoadBalancer) -> Counts:
    return balancer.plane.outputs.access_log.counts


def test_it_sleeps_while_no_session_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [0]
    take = NativeForwarder.take_records

    def counting(self: NativeForwarder, limit: int) -> list[Any]:
        looks[0] += 1
        return take(self, limit)

    monkeypatch.setattr(NativeForwarder, "take_records", counting)
    with serving(one_answer(b"hello")) as server:
        with LoadBalancer(logging_to(tmp_path / "log", server.address)) as balancer:
            ask(balancer, 1)
            assert wait_until(lambda: counts(balancer).lines == 1)
            time.sleep(0.1)  # it looks once or twice more
            before = looks[0]
            time.sleep(0.5)
            assert looks[0] == before
            ask(balancer, 1)
            assert wait_until(lambda: counts(balancer).lines == 2)


def test_without_an_access_log_there_is_neither_thread_nor_record(tmp_path: Path) -> None:
    with serving(one_answer(b"hello")) as server:
        with LoadBalancer(logging_to("off", server.address)) as balancer:
            ask(balancer, 3)
            assert not any("record-stream" in thread.name for thread in threading.enumerate())
            assert balancer.plane.forwarder.take_records(10) == []


def test_on_and_off_and_elsewhere_by_reload(tmp_path: Path) -> None:
    with serving(one_answer(b"hello")) as server:
        with LoadBalancer(logging_to("off", server.address)) as balancer:
            for place, times in (("one", 3), ("off", 4), ("two", 5), ("three", 6), ("three", 7)):
                target = place if place == "off" else tmp_path / place
                balancer.reload(logging_to(target, server.address))
                ask(balancer, times)
                if place != "off":
                    assert wait_until(lambda: (tmp_path / place).exists())  # noqa: B023
            assert wait_until(lambda: counts(balancer) == Counts(21))
    assert [len(read_text(tmp_path / name)) for name in ("one", "two", "three")] == [3, 5, 13]


def test_all_that_end_with_the_process_are_told(tmp_path: Path) -> None:
    """As fast as workers can end them."""
    with serving(hold) as server:
        with LoadBalancer(logging_to(tmp_path / "log", server.address)) as balancer:
            clients = [connect(address_of(balancer)) for _ in range(1500)]
            assert wait_until(lambda: balancer.stats().pools["web"].sessions_active == len(clients))
            access_log = balancer.plane.outputs.access_log
            balancer.close()
            for sock in clients:
                sock.close()
    assert len(read_text(tmp_path / "log")) == 1500
    assert access_log.counts == Counts(1500)


def test_nor_are_they_lost_when_it_does_not_run_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine its thread may come to itself only when it has been told to stop."""
    wait = Reader._wait

    def late(self: Reader, took: bool) -> None:
        wait(self, took)
        wait_until(lambda: self._stopping)

    monkeypatch.setattr(Reader, "_wait", late)
    with serving(hold) as server, contextlib.ExitStack() as stack:
        with LoadBalancer(logging_to(tmp_path / "log", server.address)) as balancer:
            for _ in range(5):
                stack.enter_context(connect(address_of(balancer)))
            assert wait_until(lambda: server.accepted == 5)
    assert [line["close_reason"] for line in read_text(tmp_path / "log")] == ["shutdown"] * 5


def test_a_stuck_reader_holds_up_neither_reload_nor_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with serving(one_answer(b"hello")) as server:
        with LoadBalancer(logging_to(pipe, server.address)) as balancer:
            with FileIO(os.open(pipe, os.O_RDWR | os.O_NONBLOCK), "r+") as full:
                while full.write(bytes(4096)):
                    pass
                ask(balancer, 20)
                balancer.reload(logging_to(tmp_path / "log", server.address))
                ask(balancer, 5)
                assert wait_until(lambda: counts(balancer) == Counts(5, 20))
                balancer.reload(logging_to(pipe, server.address))
                ask(balancer, 3)
                balancer.close()
    assert len(read_text(tmp_path / "log")) == 5


def test_a_ring_that_overflows_is_counted_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader is held up, as by a disk that hangs; sessions are not."""
    hanging, entered = threading.Event(), threading.Event()
    write = os.write

    def slow(fd: int, data: bytes) -> int:
        if data.startswith(b"time="):
            entered.set()
            assert hanging.wait(60)
        return write(fd, data)

    with serving(one_answer(b"hello")) as server:
        config = logging_to(tmp_path / "log", server.address)
        config.listeners["web"] = config.listeners["web"].model_copy(update={"session_rate": 1.0})
        with LoadBalancer(config) as balancer:
            monkeypatch.setattr(os, "write", slow)
            address, tried = address_of(balancer), 0
            while balancer.plane.forwarder.records_dropped() < 10:
                with contextlib.suppress(ConnectionResetError):
                    connect(address).close()
                tried += 1
                assert tried < 20_000
            assert entered.is_set()
            hanging.set()
            wait_idle(balancer)

            def all_counted() -> bool:
                total = balancer.stats().sessions_total
                return total == tried == counts(balancer).lines + counts(balancer).untaken

            assert wait_until(all_counted), (balancer.stats(), tried, counts(balancer))
            assert counts(balancer).untaken >= 10
            assert counts(balancer).unwritten == 0
            written = counts(balancer).lines
    assert len(read_text(tmp_path / "log")) == written
