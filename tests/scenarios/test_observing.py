"""What is known of backends decides who serves: checks, real traffic, agents; and what becomes of sessions."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from l4lb import Backend, LoadBalancer
from l4lb.config import AgentConfig, HealthConfig, PassiveConfig
from l4lb.control.state.events import Event
from l4lb.model.states import AdminState, CloseReason, Health
from tests.support.balancing import address_of, balancing, closed, make_config, wait_closed
from tests.support.peers import TCP_CLOSE, Server, connect, hold, read_until_end, reset, running, serving, tcp_state
from tests.support.programs import Nginx, free_port, nginx
from tests.support.waiting import hang, wait_until

FAST = HealthConfig(interval="200ms", fast_interval="200ms", down_interval="200ms", timeout="200ms", rise=1, fall=2)


def named(name: str) -> Any:
    def answer(sock: socket.socket) -> None:
        if sock.recv(100):
            sock.sendall(name.encode())
            while sock.recv(100):
                pass

    return answer


def status_of(balancer: LoadBalancer) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in balancer.status()["pools"][0]["backends"]}


def events_of(balancer: LoadBalancer) -> list[Event]:
    """What happens from now on."""
    heard: list[Event] = []
    balancer.plane.events.subscribe(heard.append)
    return heard


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


def asked(address: str) -> str:
    with connect(address) as sock:
        sock.sendall(b"?")
        return sock.recv(1).decode()


@contextlib.contextmanager
def named_servers(names: str) -> Iterator[dict[str, Server]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(serving(named(name))) for name in names}


def backends_of(servers: dict[str, Server], **options: Any) -> list[Backend]:
    return [Backend(address=one.address, id=name, **options.get(name, {})) for name, one in servers.items()]


# ---- detection under load ----


class Requests:
    """About `rate` HTTP requests a second, each on a connection of its own; who fails is counted."""

    def __init__(self, address: str, rate: int, threads: int = 4) -> None:
        self.failures: list[float] = []
        self.answers: list[tuple[float, str]] = []
        self._address = address
        self._pause_s = threads / rate
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self.answers.append((began, self._one()))
            except OSError:
                self.failures.append(began)
            due += self._pause_s
            self._stop.wait(max(0.0, due - time.monotonic()))

    def _one(self) -> str:
        with connect(self._address) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            parts = []
            while data := sock.recv(4096):
                parts.append(data)
        name = b"".join(parts).rpartition(b"\r\n")[2].strip().decode()
        if not name:
            raise OSError("empty answer")
        return name

    def __enter__(self) -> Requests:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def since(self, moment: float) -> Counter[str]:
        return Counter(name for began, name in self.answers if began > moment)


@pytest.mark.alone
@pytest.mark.parametrize("attempts", [1, 3])
def test_a_killed_backend_loses_no_request_once_it_is_found_down(attempts: int) -> None:
    """500 requests a second, checks every 200 ms with fall 2: found within 3 intervals; with retries none fails at all.

    Sessions that the kill itself cut are no connects: the few of them are at the moment of the kill.
    """
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(nginx(name)) for name in "abc"}
        checks = FAST.model_copy(update={"type": "http", "expect_status": ("200",)})
        pool = [Backend(address=one.address, id=name) for name, one in servers.items()]
        options = {"connect_attempts": attempts, "slow_start": "2s", "passive": PassiveConfig(failures=0)}
        balancer = stack.enter_context(balancing(pool, health=checks, **options))
        assert balancer.wait_ready()
        events = events_of(balancer)
        with Requests(address_of(balancer), 500) as requests:
            assert wait_until(lambda: len(requests.answers) > 100)
            killed = time.monotonic()
            servers["b"].kill()
            assert wait_until(lambda: status_of(balancer)["b"]["health"] == "down")
            found = time.monotonic()
            assert wait_until(lambda: len(requests.since(found)) and sum(requests.since(found).values()) > 100)
            down = next(event for event in events if event.kind == "backend_down")
            servers["b"].start()
            assert wait_until(lambda: status_of(balancer)["b"]["effective_weight"] == 1.0)
            back = time.monotonic()
            assert wait_until(lambda: requests.since(back)["b"] > 20)
        late = [moment for moment in requests.failures if moment > found + 0.05]
        assert late == [], (killed, found, late)
        if attempts > 1:
            assert [moment for moment in requests.failures if moment > killed + 0.05] == []
        assert found - killed < 3 * 0.2 + 0.5  # and what a busy machine adds
        assert down.fields["checks"] == 2
        assert down.fields["reason"] == "connect: connection refused"


def test_a_blocked_control_loop_flips_no_backend_and_stalls_no_session() -> None:
    with named_servers("ab") as servers:
        with balancing(backends_of(servers), health=FAST) as balancer:
            assert balancer.wait_ready()
            events = events_of(balancer)
            loop = balancer._control.loop
            assert loop is not None
            address = address_of(balancer)
            with connect(address) as established:
                established.sendall(b"?")
                assert established.recv(1) in b"ab"
                loop.call_soon_threadsafe(time.sleep, 3.0)
                ends = time.monotonic() + 2.5
                served = 0
                while time.monotonic() < ends:
                    began = time.monotonic()
                    assert asked(address) in "ab"
                    assert time.monotonic() - began < 2
                    served += 1
                assert served > 20
                established.sendall(b"?")
            before = status_of(balancer)["a"]["last_check"]["at"]
            assert wait_until(lambda: status_of(balancer)["a"]["last_check"]["at"] > before + 0.5)
            assert [event for event in events if event.kind in ("backend_down", "backend_ejected")] == []
            late = next(event for event in events if event.kind == "checks_late")
            assert late.fields["lag_s"] > 1


# ---- everything down ----


@pytest.mark.parametrize(
    ("options", "expected", "ready"),
    [
        ({}, "", False),
        ({"when_all_down": "use_all"}, "ab", True),
        ({"panic_threshold": 100}, "ab", True),
        ({"when_all_down": "use_all", "priorities": (0, 1)}, "a", True),
    ],
)
def test_all_down_is_as_configured(options: dict[str, Any], expected: str, ready: bool) -> None:
    """Their checks look at a port where nobody listens; the backends themselves answer."""
    priorities = options.pop("priorities", (0, 0)) if "priorities" in options else (0, 0)
    with named_servers("ab") as servers:
        pool = backends_of(servers, a={"priority": priorities[0]}, b={"priority": priorities[1]})
        checks = FAST.model_copy(update={"address": f":{free_port()}"})
        with balancing(pool, health=checks, **options) as balancer:
            assert wait_until(lambda: {one["health"] for one in status_of(balancer).values()} == {"down"})
            assert wait_until(lambda: (balancer.plane.status.readiness() == []) == ready)
            if expected:
                assert {asked(address_of(balancer)) for _ in range(8)} == set(expected)
            else:
                with pytest.raises(OSError):
                    asked(address_of(balancer))
                wait_closed(balancer, CloseReason.NO_BACKEND)


# ---- what becomes of sessions ----


@pytest.mark.parametrize("way", ["keep", "drain", "reset"])
def test_sessions_of_a_backend_that_goes_down(way: str) -> None:
    """The backend stays; only what its checks look at goes."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(hold))
        looked_at = Server(hold)
        checks = FAST.model_copy(update={"address": looked_at.address})
        config = make_config([server.address], health=checks, on_backend_down=way)
        brief = config.global_.model_copy(update={"drain_timeout": 0.3})
        balancer = stack.enter_context(LoadBalancer(config.model_copy(update={"global_": brief})))
        assert balancer.wait_ready()
        clients = [stack.enter_context(connect(address_of(balancer))) for _ in range(20)]
        assert wait_until(lambda: balancer.stats().pools["web"].sessions_active == 20)
        events = events_of(balancer)
        looked_at.stop()
        assert wait_until(lambda: "backend_down" in kinds(events))
        if way == "keep":
            assert wait_until(lambda: balancer.plane.reconciler.settled)
            assert not any(tcp_state(one) == TCP_CLOSE for one in clients)
            return
        wait_closed(balancer, CloseReason.BACKEND_DOWN, 20)
        assert all(read_until_end(one)[1] for one in clients)
        ended = next(event for event in events if event.kind == "sessions_ended")
        assert ended.fields["sessions"] == 20
        delay_s = ended.time - next(event for event in events if event.kind == "backend_down").time
        assert delay_s >= 0.25 if way == "drain" else delay_s < 0.25


def test_a_drained_backend_that_is_up_again_in_time_keeps_its_sessions() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(hold))
        looked_at = Server(hold)
        checks = FAST.model_copy(update={"address": looked_at.address})
        balancer = stack.enter_context(balancing([server.address], health=checks, on_backend_down="drain"))
        assert balancer.wait_ready()
        client = stack.enter_context(connect(address_of(balancer)))
        assert wait_until(lambda: balancer.stats().pools["web"].sessions_active == 1)
        events = events_of(balancer)
        looked_at.stop()
        assert wait_until(lambda: "backend_down" in kinds(events))
        assert wait_until(lambda: len(balancer.plane.cleanup._drains) == 1)
        stack.enter_context(running(Server(hold, port=looked_at.port)))
        assert wait_until(lambda: "backend_up" in kinds(events))
        assert wait_until(lambda: balancer.plane.cleanup._drains == {})
        assert tcp_state(client) != TCP_CLOSE
        assert closed(balancer) == {}


@pytest.mark.parametrize("way", ["keep", "drain", "reset"])
def test_sessions_of_a_backend_that_is_removed(way: str) -> None:
    with named_servers("ab") as servers, contextlib.ExitStack() as stack:
        config = make_config(backends_of(servers), on_backend_removed=way)
        brief = config.global_.model_copy(update={"drain_timeout": 0.3})
        balancer = stack.enter_context(LoadBalancer(config.model_copy(update={"global_": brief})))
        clients = [stack.enter_context(connect(address_of(balancer))) for _ in range(20)]
        assert wait_until(lambda: balancer.stats().pools["web"].sessions_active == 20)
        plane, loop = balancer.plane, balancer._control.loop
        assert loop is not None

        def remove() -> None:
            del plane.state.pools["web"].backends["a"]
            plane.reconciler.request()

        began = time.monotonic()
        loop.call_soon_threadsafe(remove)
        assert wait_until(lambda: plane.state.pools["web"].usable == ("b",))
        if way != "keep":
            wait_closed(balancer, CloseReason.DRAIN if way == "drain" else CloseReason.ADMIN, 10)
            assert (time.monotonic() - began >= 0.25) or way == "reset"
        assert sum(tcp_state(one) == TCP_CLOSE for one in clients) == (0 if way == "keep" else 10)
        assert balancer.stats().pools["web"].backends["b"].sessions_active == 10


# ---- real traffic ----


def test_a_backend_that_refuses_is_ejected_and_returns_by_time() -> None:
    passive = PassiveConfig(failures=3, eject_for="300ms")
    with named_servers("ab") as servers:
        servers["a"].stop()
        with balancing(backends_of(servers), passive=passive) as balancer:
            events = events_of(balancer)
            for _ in range(12):
                assert asked(address_of(balancer)) == "b"
            assert wait_until(lambda: "backend_ejected" in kinds(events))
            ejected = next(event for event in events if event.kind == "backend_ejected")
            assert ejected.fields["backend"] == "a"
            assert ejected.fields["for_s"] == 0.3
            assert ejected.fields["failures"] == 3
            assert wait_until(lambda: "backend_readmitted" in kinds(events))
            for _ in range(12):
                assert asked(address_of(balancer)) == "b"
            assert wait_until(lambda: kinds(events).count("backend_ejected") == 2)
            again = [event for event in events if event.kind == "backend_ejected"][1]
            assert (again.fields["for_s"], again.fields["ejections"]) in ((0.6, 2), (0.3, 1))


def test_resets_before_the_first_byte_eject_and_a_check_brings_back() -> None:
    def cut(sock: socket.socket) -> None:
        if sock.recv(100):  # a check says nothing
            reset(sock)

    checks = FAST.model_copy(update={"rise": 2})
    with contextlib.ExitStack() as stack:
        bad, good = stack.enter_context(serving(cut)), stack.enter_context(serving(named("b")))
        pool = [Backend(address=bad.address, id="a"), Backend(address=good.address, id="b")]
        passive = PassiveConfig(failures=3, eject_for="1h")
        balancer = stack.enter_context(balancing(pool, health=checks, passive=passive))
        assert balancer.wait_ready()
        events = events_of(balancer)
        for _ in range(6):
            with contextlib.suppress(OSError):
                asked(address_of(balancer))
        assert wait_until(lambda: "backend_ejected" in kinds(events))
        shown = status_of(balancer)["a"]
        assert (shown["health"], shown["early_resets"]) == ("up", 3)
        assert wait_until(lambda: "backend_readmitted" in kinds(events))
        readmitted = next(one for one in events if one.kind == "backend_readmitted")
        assert readmitted.fields["reason"] == "2 checks in a row passed"


def test_never_the_last_one_and_never_more_than_the_percentage() -> None:
    passive = PassiveConfig(failures=2, eject_for="1h")
    with named_servers("abc") as servers:
        for name in "ab":
            servers[name].stop()
        with balancing(backends_of(servers), passive=passive) as balancer:
            events = events_of(balancer)
            for _ in range(20):
                assert asked(address_of(balancer)) == "c"
            assert wait_until(lambda: "ejection_withheld" in kinds(events))
            assert kinds(events).count("backend_ejected") == 1
            assert kinds(events).count("ejection_withheld") == 1  # said once
            withheld = next(event for event in events if event.kind == "ejection_withheld")
            assert withheld.fields["reason"] == "max_ejected_percent is 50, and 1 of 3 are ejected"
            out = [one for one in status_of(balancer).values() if one["ejected"]]
            assert len(out) == 1
            assert out[0]["passed_over"].startswith("ejected for 3")


def test_an_ejected_backend_serves_when_nothing_else_is_up() -> None:
    """a was ejected and is fine again; b goes down: at least one is always left."""
    passive = PassiveConfig(failures=2, eject_for="1h")
    checks = FAST.model_copy(update={"rise": 1000, "fall": 5, "initial": Health.UP})
    with named_servers("ab") as servers:
        servers["a"].stop()
        with balancing(backends_of(servers), health=checks, passive=passive) as balancer:
            events = events_of(balancer)
            for _ in range(8):
                asked(address_of(balancer))
            assert wait_until(lambda: "backend_ejected" in kinds(events))
            with running(Server(named("a"), port=servers["a"].port)):
                servers["b"].stop()
                assert wait_until(lambda: status_of(balancer)["b"]["health"] == "down")
                if status_of(balancer)["a"]["health"] == "up":
                    assert wait_until(lambda: status_of(balancer)["a"]["usable"])
                    assert asked(address_of(balancer)) == "a"


# ---- agents ----


class FakeAgent:
    """Answers every connection with the line of the moment, as agents of the protocol do."""

    def __init__(self) -> None:
        self.line = "up 100%"
        self.server = Server(self._answer)

    def _answer(self, sock: socket.socket) -> None:
        sock.sendall(self.line.encode() + b"\n")


def test_an_agent_sets_weight_health_admin_state_and_limit() -> None:
    agent = FakeAgent()
    with running(agent.server), named_servers("ab") as servers:
        pool = [
            Backend(address=servers["a"].address, id="a", weight=4),
            Backend(address=f"127.0.0.2:{servers['b'].port}", id="b", weight=4),
        ]
        settings = AgentConfig(port=agent.server.port, interval="50ms")
        with balancing(pool, agent=settings) as balancer:
            events = events_of(balancer)

            def says(line: str, key: str, value: object) -> None:
                agent.line = line
                assert wait_until(lambda: status_of(balancer)["a"][key] == value), status_of(balancer)["a"]

            says("75%", "effective_weight", 3.0)
            says("100% maxconn:7", "max_sessions", 7)
            says("down # on fire", "passed_over", "agent: down (on fire)")
            says("up", "passed_over", "")
            says("drain", "passed_over", "agent: drain")
            says("ready", "passed_over", "")
            says("0%", "passed_over", "agent: 0%")
            says("100%", "usable", True)
            assert status_of(balancer)["a"]["admin_state"] == AdminState.READY  # the operator's, untouched
            assert status_of(balancer)["a"]["health"] == "up"
            agent.line = "nonsense"
            assert wait_until(lambda: "agent_failed" in kinds(events))
            assert status_of(balancer)["a"]["usable"]
            assert status_of(balancer)["b"]["effective_weight"] == 4.0  # nobody answers there: nothing changes


# ---- a backend that is stopped ----


def test_a_stopped_nginx_is_found_by_http_and_not_by_tcp() -> None:
    """SIGSTOP: the kernel still accepts for it, so that a handshake proves nothing."""
    server = Nginx("a")
    try:
        server.start()
        http = FAST.model_copy(update={"type": "http"})
        with balancing([server.address], health=http) as talking, balancing([server.address], health=FAST) as shaking:
            assert talking.wait_ready()
            assert shaking.wait_ready()
            hang(server.pid)
            try:
                assert wait_until(lambda: status_of(talking)[server.address]["health"] == "down")
                last = status_of(talking)[server.address]["last_check"]
                assert (last["step"], last["reason"]) == ("status", "no answer within 0.2 s")
                assert status_of(shaking)[server.address]["health"] == "up"
            finally:
                os.kill(server.pid, signal.SIGCONT)
            assert wait_until(lambda: status_of(talking)[server.address]["health"] == "up")
    finally:
        server.stop()
