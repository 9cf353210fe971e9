"""Records for a plug-in: in batches and in order, whatever it does; what it does not take is counted."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import l4lb.net.output.record_sink as record_sink
from l4lb import Config, ConfigError, LoadBalancer, plugins
from l4lb.control.changes.preflight import preflight
from l4lb.net.output.line_writer import PENDING_BYTES, LineWriter, Losing
from l4lb.net.output.record_sink import BATCH_MAX, QUEUE_LENGTH, PluginSink
from tests.support.balancing import wait_idle
from tests.support.peers import connect, one_answer, serving
from tests.support.waiting import wait_until


class Plugin:
    def __init__(self, act: Callable[[Sequence[dict[str, Any]]], None] = lambda records: None) -> None:
        self.act = act
        self.batches: list[list[dict[str, Any]]] = []
        self.threads: set[str] = set()
        self.closed = 0

    @property
    def got(self) -> list[dict[str, Any]]:
        return [record for batch in self.batches for record in batch]

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        self.threads.add(threading.current_thread().name)
        self.act(records)
        self.batches.append(list(records))

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed += 1


def numbered(*numbers: int) -> list[str]:
    return [json.dumps({"number": number, "filler": "x" * 80}) for number in numbers]


def waits_for(release: threading.Event) -> Callable[[Sequence[dict[str, Any]]], None]:
    def act(records: Sequence[dict[str, Any]]) -> None:
        release.wait(60)

    return act


@contextlib.contextmanager
def writing(plugin: Plugin) -> Iterator[tuple[LineWriter, list[Losing]]]:
    reported: list[Losing] = []
    writer = LineWriter(PluginSink("plugin:test", plugin), reported.append)
    try:
        yield writer, reported
    finally:
        writer.close()


def test_in_order_in_batches_on_one_thread_and_all_at_the_end() -> None:
    plugin = Plugin()
    with writing(plugin) as (writer, _):
        writer.add(numbered(*range(5000)))
        assert writer.flush()
    assert [record["number"] for record in plugin.got] == list(range(5000))
    assert max(map(len, plugin.batches)) <= BATCH_MAX
    assert plugin.threads == {"l4lb-record-sink"}
    assert (plugin.closed, writer.lines, writer.dropped) == (1, 5000, 0)


def test_one_that_raises_loses_its_batch_alone() -> None:
    def raise_once(records: Sequence[dict[str, Any]]) -> None:
        if records[0]["number"] == 0:
            raise SystemExit("of the plug-in")

    plugin = Plugin(raise_once)
    with writing(plugin) as (writer, reported):
        writer.add(numbered(0))
        assert wait_until(lambda: writer.flush() and writer.dropped == 1)
        assert [(one.to, one.reason) for one in reported] == [
            ("plugin:test", "the plug-in raised SystemExit: of the plug-in")
        ]
        writer.add(numbered(1, 2))
        assert wait_until(lambda: writer.flush() and len(plugin.got) == 2)
    assert [record["number"] for record in plugin.got] == [1, 2]
    assert (writer.lines, writer.dropped) == (2, 1)


def test_one_that_hangs_fills_the_queue_and_nothing_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_sink, "CLOSE_WITHIN_S", 0.05)
    release = threading.Event()
    plugin = Plugin(waits_for(release))
    lines = numbered(*range(QUEUE_LENGTH + PENDING_BYTES // 100 + 5000))
    with writing(plugin) as (writer, reported):
        writer.add(lines)
        assert not writer.flush()
        assert writer.dropped > 0
        assert [one.reason for one in reported] == ["its reader is slow or stuck"]
    assert writer.lines == 0, "none of them was written"
    assert writer.dropped == len(lines)
    release.set()
    assert wait_until(lambda: plugin.closed)


def test_settled_only_when_the_plug_in_has_returned() -> None:
    release = threading.Event()
    plugin = Plugin(waits_for(release))
    with writing(plugin) as (writer, _):
        assert not writer.unsettled
        writer.add(numbered(1))
        assert writer.flush()
        assert writer.unsettled
        release.set()
        assert wait_until(lambda: not writer.unsettled)


# ---- in a load balancer ----

TEXT = """
[global]
access_log = "plugin:test"
access_log_options = {{ topic = "sessions" }}
[admin]
bind = "off"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = ["{address}"]
health = {{ type = "none" }}
"""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the entry point "test" returns, and the options that it got."""
    made: list[Any] = [Plugin()]

    def open_sink(options: dict[str, Any]) -> Any:
        made.append(options)
        if isinstance(made[0], BaseException):
            raise made[0]
        return made[0]

    names, load = plugins.names, plugins.load
    group = plugins.RECORD_SINKS
    monkeypatch.setattr(plugins, "names", lambda one: ("test",) if one == group else names(one))
    monkeypatch.setattr(plugins, "load", lambda one, name: open_sink if one == group else load(one, name))
    return made


def ask(balancer: LoadBalancer) -> None:
    with connect(balancer.listeners["web"].addresses[0]) as sock:
        sock.sendall(b"hi")
        assert sock.recv(10) == b"hello"
    wait_idle(balancer)


def test_records_of_sessions(installed: list[Any]) -> None:
    plugin = installed[0]
    with serving(one_answer(b"hello")) as server:
        with LoadBalancer(Config.loads(TEXT.format(address=server.address))) as balancer:
            ask(balancer)
            assert wait_until(lambda: len(plugin.got) == 1)
            ask(balancer)
    assert installed[1:] == [{"topic": "sessions"}]
    assert plugin.closed == 1
    first, second = plugin.got
    assert (first["listener"], first["backend"], first["bytes_down"]) == ("web", server.address, 5)
    assert (first["close_reason"], first["sni"], type(first["session_id"])) == ("normal", "", str)
    assert first["session_id"] != second["session_id"]
    assert first["time"] <= second["time"]


def test_one_that_raises_disturbs_nobody(installed: list[Any]) -> None:
    def fail(records: Sequence[dict[str, Any]]) -> None:
        raise RuntimeError("broker away")

    installed[0].act = fail
    with serving(one_answer(b"hello")) as server:
        with LoadBalancer(Config.loads(TEXT.format(address=server.address))) as balancer, balancer.events() as events:
            ask(balancer)
            event = next(event for event in events if event.kind == "access_log_dropping")
            assert event.fields == {"to": "plugin:test", "reason": "the plug-in raised RuntimeError: broker away"}
            installed[0].act = lambda records: None
            ask(balancer)
            assert wait_until(lambda: balancer.plane.outputs.access_log.counts.lines == 1)
            assert balancer.plane.outputs.access_log.counts.unwritten == 1


def test_a_reload_with_other_options_opens_it_again(installed: list[Any]) -> None:
    text = TEXT.format(address="127.0.0.1:1")
    with LoadBalancer(Config.loads(text)) as balancer:
        before = installed[0]
        balancer.reload(Config.loads(text))
        assert installed[1:] == [{"topic": "sessions"}]
        installed[0] = Plugin()
        balancer.reload(Config.loads(text.replace("sessions", "others")))
        assert installed[1:] == [{"topic": "sessions"}, {"topic": "others"}]
        assert before.closed == 1
        installed[0] = ValueError("no such topic")
        with pytest.raises(ConfigError, match=r"global\.access_log: .*cannot be opened: ValueError: no such topic"):
            balancer.reload(Config.loads(text.replace("sessions", "wrong")))
        installed[0] = object()
        with pytest.raises(ConfigError, match=r"returned a object, expected an object with write\(records\)"):
            balancer.reload(Config.loads(text.replace("sessions", "wrong")))


def test_wrong_names_and_options(installed: list[Any]) -> None:
    text = TEXT.format(address="127.0.0.1:1")
    with pytest.raises(ConfigError, match=r'"plugin:tset": no such record sink \(did you mean "test"\?\)'):
        Config.loads(text.replace("plugin:test", "plugin:tset"))
    with pytest.raises(ConfigError, match='access_log_options: has no effect without access_log = "plugin:NAME"'):
        Config.loads(text.replace("plugin:test", "stdout"))


def test_check_finds_wrong_options_too(installed: list[Any]) -> None:
    """What it has made to find out is closed again."""
    config = Config.loads(TEXT.format(address="127.0.0.1:1"))
    plugin = installed[0]
    assert preflight(config)[0] == []
    assert plugin.closed == 1
    for made, said in (
        (ValueError("no such topic"), "ValueError: no such topic"),
        (SystemExit(3), "SystemExit: 3"),
        (object(), "returned a object"),
    ):
        installed[0] = made
        (problem,) = preflight(config)[0]
        assert problem.path == "global.access_log"
        assert said in problem.message


def test_check_says_that_what_it_has_made_cannot_be_closed(
    installed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exits() -> None:
        raise SystemExit(3)

    monkeypatch.setattr(installed[0], "close", exits)
    (problem,) = preflight(Config.loads(TEXT.format(address="127.0.0.1:1")))[0]
    assert str(problem).endswith('global.access_log: "plugin:test": cannot be closed: SystemExit: 3')
