"""What StatsD servers get, over a real socket."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from l4lb import ConfigError, LoadBalancer
from l4lb.config import GlobalConfig
from l4lb.control.reporting.statsd import DATAGRAM_BYTES, Key, Lines, StatsdSettings, datagrams
from tests.support.balancing import address_of, make_config, wait_idle
from tests.support.checking import address_of as address_of_socket
from tests.support.checking import loopback_socket
from tests.support.peers import connect, one_answer, serving
from tests.support.waiting import wait_until

LINE = re.compile(rb"([A-Za-z0-9_.-]+):([0-9.e+-]+)\|([cg])(\|#\S+)?")


def metrics(count: float, gauge: float = 0.5) -> list[Metric]:
    counter = CounterMetricFamily("l4lb_bytes", "", labels=("pool", "backend"))
    counter.add_metric(("a b", "10.0.0.1:80"), count)
    value = GaugeMetricFamily("l4lb_health_lag_seconds", "")
    value.add_metric((), gauge)
    time_ = HistogramMetricFamily("l4lb_session_seconds", "", labels=("listener",))
    time_.add_metric(("web",), [("1", count), ("+Inf", count)], count / 4)
    return [counter, value, time_]


def lines(count: float, told: dict[Key, float] | None = None, **settings: Any) -> list[bytes]:
    return [line for line, _, _ in Lines(StatsdSettings(**settings)).of(metrics(count), told or {})]


def test_plain_lines_have_labels_in_their_names() -> None:
    assert lines(10) == [
        b"l4lb.bytes.a_b.10_0_0_1_80:10|c",
        b"l4lb.health_lag_seconds:0.5|g",
        b"l4lb.session_seconds_count.web:10|c",
        b"l4lb.session_seconds_sum.web:2.5|c",
    ]


def test_datadog_lines_have_tags() -> None:
    found = lines(10, datadog=True, prefix="edge.l4lb", tags={"env": "prod,1"})
    assert found[0] == b"edge.l4lb.bytes:10|c|#pool:a_b,backend:10.0.0.1:80,env:prod_1"
    assert found[1] == b"edge.l4lb.health_lag_seconds:0.5|g|#env:prod_1"


def test_counters_tell_what_they_grew_by() -> None:
    told: dict[Key, float] = {}
    for count, expected in ((10, b":10|c"), (10, None), (13, b":3|c"), (2, b":2|c")):  # at last another's, begun anew
        counters = [one for one in Lines(StatsdSettings()).of(metrics(count), told) if b".bytes." in one[0]]
        assert [one[0].endswith(expected) for one in counters if expected] == ([True] if expected else [])
        assert bool(counters) == bool(expected)
        for datagram in datagrams(counters):
            told.update(datagram.counters)


def test_datagrams_fit_into_a_frame() -> None:
    given = [(b"x" * 100, ("name", (str(number),)), float(number)) for number in range(100)]
    given.append((b"y" * 2000, None, 0.0))
    found = datagrams(given)
    assert all(len(one.data) <= DATAGRAM_BYTES for one in found[:-1])
    assert b"\n".join(one.data for one in found) == b"\n".join(line for line, _, _ in given)
    assert {key: value for one in found for key, value in one.counters.items()} == {
        key: n for _, key, n in given if key
    }
    assert found[-1].data == b"y" * 2000


def receive(sock: socket.socket, totals: dict[bytes, float]) -> None:
    """Add what has come; every line is a StatsD line."""
    sock.setblocking(False)
    while True:
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            return
        for line in data.split(b"\n"):
            match = LINE.fullmatch(line)
            assert match, line
            name = match[1] + (match[4] or b"")
            totals[name] = totals.get(name, 0) + float(match[2]) if match[3] == b"c" else float(match[2])


def with_statsd(backend: str, **settings: Any) -> LoadBalancer:
    config = make_config([backend])
    given = {"workers": 1, "statsd_interval": 0.05, **settings}
    return LoadBalancer(config.model_copy(update={"global_": GlobalConfig(**given)}))


def ask(balancer: LoadBalancer, times: int) -> None:
    for _ in range(times):
        with connect(address_of(balancer)) as sock:
            sock.sendall(b"hi")
            assert sock.recv(10) == b"hello"
    wait_idle(balancer)


def test_a_server_gets_all_that_was_counted_and_nothing_twice() -> None:
    totals: dict[bytes, float] = {}
    with serving(one_answer(b"hello")) as server, loopback_socket() as receiver:
        settings = {"statsd": address_of_socket(receiver), "statsd_format": "datadog", "statsd_tags": {"env": "test"}}
        with with_statsd(server.address, **settings) as balancer:
            name = b"l4lb.sessions|#listener:web,env:test"

            def told(count: int) -> bool:
                receive(receiver, totals)
                return totals.get(name, 0) == count

            assert wait_until(lambda: (receive(receiver, totals), b"l4lb.draining|#env:test" in totals)[1])
            ask(balancer, 3)
            assert wait_until(lambda: told(3))
            ask(balancer, 4)
            assert wait_until(lambda: told(7))
            ask(balancer, 2)
        receive(receiver, totals)  # the last ones are sent when it stops
    assert totals[name] == 9
    place = f"|#pool:web,backend:{server.address}".encode()
    assert totals[b"l4lb.bytes" + place + b",direction:down,env:test"] == 45
    assert totals[b"l4lb.backend_sessions_active" + place + b",env:test"] == 0


def test_a_server_that_is_away_is_told_of_once_and_gets_all_when_it_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "l4lb")
    path, totals = tmp_path / "statsd", {}
    with serving(one_answer(b"hello")) as server:
        with with_statsd(server.address, statsd=f"unix:{path}") as balancer:
            assert wait_until(lambda: "statsd failing" in caplog.messages)
            ask(balancer, 5)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
                receiver.bind(str(path))

                def told() -> bool:
                    receive(receiver, totals)
                    return totals.get(b"l4lb.sessions.web", 0) == 5

                assert wait_until(told)
                assert wait_until(lambda: "statsd recovered" in caplog.messages)
    assert caplog.messages.count("statsd failing") <= 2  # once more after the receiver has gone


def test_it_follows_a_reload() -> None:
    totals: dict[bytes, float] = {}
    with serving(one_answer(b"hello")) as server, loopback_socket() as receiver:
        with with_statsd(server.address) as balancer:
            ask(balancer, 3)
            settings = GlobalConfig(workers=1, statsd=address_of_socket(receiver), statsd_interval=0.05)
            balancer.reload(balancer.config.model_copy(update={"global_": settings}))
            assert wait_until(lambda: (receive(receiver, totals), b"l4lb.draining" in totals)[1])
            ask(balancer, 2)
            assert wait_until(lambda: (receive(receiver, totals), totals.get(b"l4lb.sessions.web"))[1] == 2)
            balancer.reload(balancer.config.model_copy(update={"global_": GlobalConfig(workers=1)}))
            receive(receiver, totals)
            asyncio.run(asyncio.sleep(0.2))  # four intervals
            totals.clear()
            receive(receiver, totals)
    assert totals == {}


def test_a_name_without_an_address_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"global\.statsd: cannot resolve nowhere\.invalid"):
        with_statsd("127.0.0.1:1", statsd="nowhere.invalid:8125").start()
