"""Hooks of a program: what they may decide, and that one which sleeps, raises or talks nonsense stalls no other
session."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from l4lb import Backend, ChangeError, Config, EngineError, Listener, LoadBalancer, Pool
from l4lb.config import AdminConfig, GlobalConfig
from l4lb.control.hooks import readers
from l4lb.control.state.events import Event
from l4lb.hooks import Accept, Decision, Reject, SessionInfo, ToBackend, ToPool
from l4lb.model.hooks import HookResult
from l4lb.model.states import CloseReason
from tests.scenarios.test_proxy_accepting import LOOPBACK, V2
from tests.support.balancing import NO_CHECKS, address_of, wait_closed, wait_idle
from tests.support.datagrams import serving_udp
from tests.support.hellos import real
from tests.support.peers import connect, greeting, read_until_end, reset, serving
from tests.support.waiting import wait_until

LONG_S = 50.0


@contextlib.contextmanager
def named(workers: int = 1, **listener: Any) -> Iterator[LoadBalancer]:
    """A listener with two pools: web has backends a and b, of which a goes first, and other has c."""
    with contextlib.ExitStack() as stack:
        at = {name: stack.enter_context(serving(greeting(name.encode()))).address for name in ("a", "b", "c")}
        backends = [Backend(address=at["a"], id="a"), Backend(address=at["b"], priority=1)]
        pools = {
            "web": Pool(backends=backends, health=NO_CHECKS),
            "other": Pool(backends=[at["c"]], health=NO_CHECKS),
        }
        config = Config(
            global_=GlobalConfig(workers=workers),
            admin=AdminConfig(bind="off"),
            listeners={"web": Listener(**{"bind": "127.0.0.1:0", "pool": "web", **listener})},
            pools=pools,
        )
        yield stack.enter_context(LoadBalancer(config))


def second(balancer: LoadBalancer) -> str:
    """The address of web's second backend."""
    return balancer.config.pools["web"].backends[1].address


def answer_of(balancer: LoadBalancer, sent: bytes = b"", at: str = "") -> bytes | None:
    """What a client gets; None: a reset, which may come while it connects."""
    try:
        with connect(at or address_of(balancer)) as client:
            client.sendall(sent)
            said, was_reset = read_until_end(client)
            return None if was_reset else said
    except (ConnectionResetError, BrokenPipeError):
        return None


def results(balancer: LoadBalancer) -> dict[HookResult, int]:
    return balancer.stats().listeners["web"].hooked


@contextlib.contextmanager
def heard(balancer: LoadBalancer, kind: str) -> Iterator[list[Event]]:
    events: list[Event] = []

    def hear(event: Event) -> None:
        if event.kind == kind:
            events.append(event)

    end = balancer.plane.events.subscribe(hear)
    yield events
    end()


DECISIONS: list[tuple[Decision, bytes | None, HookResult]] = [
    (None, b"a", HookResult.ACCEPTED),
    (True, b"a", HookResult.ACCEPTED),
    (Accept(), b"a", HookResult.ACCEPTED),
    (False, None, HookResult.REJECTED),
    (Reject("not today"), None, HookResult.REJECTED),
    (ToPool("other"), b"c", HookResult.POOL),
    (ToBackend("a"), b"a", HookResult.BACKEND),
]


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize(("decision", "said", "result"), DECISIONS)
def test_a_session_is_what_its_hook_decides(
    decision: Decision, said: bytes | None, result: HookResult, is_async: bool
) -> None:
    async def decide(info: SessionInfo) -> Decision:
        await asyncio.sleep(0)
        return decision

    with named() as balancer:
        balancer.on_session(decide if is_async else lambda info: decision, deadline=LONG_S)
        assert answer_of(balancer) == said
        assert results(balancer) == {result: 1}
        if said is None:
            wait_closed(balancer, CloseReason.DENIED)


def test_a_backend_may_be_given_by_its_address() -> None:
    with named() as balancer:
        balancer.on_session(lambda info: ToBackend(second(balancer)), deadline=LONG_S)
        assert answer_of(balancer) == b"b"


def test_a_backend_that_takes_no_new_sessions_is_left_to_the_policy() -> None:
    with named() as balancer:
        address = second(balancer)
        balancer.on_session(lambda info: ToBackend(address), deadline=LONG_S)
        balancer.pools["web"][address].drain(timeout=0)
        assert answer_of(balancer) == b"a"


def test_a_backend_at_max_sessions_is_left_to_the_policy() -> None:
    with named() as balancer:
        address = second(balancer)
        balancer.pools["web"].add(address, max_sessions=1)
        balancer.on_session(lambda info: ToBackend(address), deadline=LONG_S)
        with connect(address_of(balancer)) as first:  # which does not read, and so stays
            assert wait_until(lambda: results(balancer) == {HookResult.BACKEND: 1})
            assert answer_of(balancer) in (b"a", b"b")
            assert read_until_end(first)[0] == b"b"


def test_a_hook_sees_what_is_known_of_the_session() -> None:
    seen: list[SessionInfo] = []
    route = {"sni": ["*.example"], "pool": "other"}
    with named(**LOOPBACK, routes=[route]) as balancer:
        balancer.on_session(seen.append, deadline=LONG_S)
        assert answer_of(balancer, V2 + real("shop.example")) == b"c"
        (info,) = seen
        assert (info.client, info.client_port, info.sni) == ("192.0.2.1", 40000, "shop.example")
        assert (info.listener, info.pool, info.local) == ("web", "other", address_of(balancer))
        assert info.id.isdecimal()


def test_hooks_given_before_the_start_hold_from_the_first_session_on() -> None:
    with serving(greeting(b"a")) as server:
        pools = {"web": Pool(backends=[server.address], health=NO_CHECKS)}
        listeners = {"web": Listener(bind=["127.0.0.1:0"], pool="web")}
        balancer = LoadBalancer(Config(admin=AdminConfig(bind="off"), listeners=listeners, pools=pools))
        balancer.on_session(lambda info: False, deadline=LONG_S)
        for _ in range(2):  # and when it is started anew
            with balancer:
                assert answer_of(balancer) is None


def test_a_hook_for_one_listener_is_not_asked_about_others() -> None:
    with named() as balancer:
        with pytest.raises(ChangeError, match=r'no such listener \(did you mean "web"\?\)'):
            balancer.on_session(lambda info: None, listeners=["wbe"])
        balancer.on_session(lambda info: False, listeners=["web"], deadline=LONG_S)
        balancer.on_session(lambda info: ToPool("other"), deadline=LONG_S)
        assert answer_of(balancer) is None
        with pytest.raises(ChangeError, match="it has a hook already"):
            balancer.on_session(lambda info: None, listeners=["web"])
        with pytest.raises(ChangeError, match="for all listeners already"):
            balancer.on_session(lambda info: None)
        balancer.on_session(None, listeners=["web"])
        assert answer_of(balancer) == b"c"
        balancer.on_session(None)
        assert answer_of(balancer) == b"a"
        assert balancer.status()["listeners"][0]["hook"] is None


def test_status_and_metrics_show_the_hook() -> None:
    with named() as balancer:
        balancer.on_session(lambda info: False, on_error="reject", deadline=2.5)
        assert answer_of(balancer) is None
        hook = balancer.status()["listeners"][0]["hook"]
        assert hook is not None
        assert (hook["deadline_s"], hook["on_error"], hook["sessions"]) == (2.5, "reject", {"rejected": 1})
        assert "<lambda>" in hook["name"]


@pytest.mark.parametrize(
    "arguments",
    [{"callback": "print"}, {"deadline": 0}, {"deadline": 61}, {"on_error": "ignore"}],
    ids=lambda one: next(iter(one)),
)
def test_what_is_no_hook_is_refused(arguments: dict[str, Any]) -> None:
    with named() as balancer:
        with pytest.raises(ChangeError, match="expected"):
            balancer.on_session(**{"callback": lambda info: None, **arguments})


def test_a_hook_that_cannot_be_published_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither now nor with the next change."""

    async def fails(pools: object) -> None:
        raise EngineError("no memory for a snapshot")

    with named() as balancer:
        with monkeypatch.context() as patch:
            patch.setattr(balancer.plane.reconciler, "carry_out", fails)
            with pytest.raises(EngineError, match="no memory for a snapshot"):
                balancer.on_session(lambda info: False)
        balancer.pools["web"].add("127.0.0.1:1", weight=0)
        assert answer_of(balancer) == b"a"
        assert results(balancer) == {}


def test_a_hook_that_is_given_while_a_reload_fails_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    reloading, may_fail = threading.Event(), threading.Event()

    async def fails(*wanted: object) -> None:
        reloading.set()
        await asyncio.to_thread(may_fail.wait, 20)
        raise EngineError("broken")

    with named() as balancer, ThreadPoolExecutor() as threads:
        monkeypatch.setattr(balancer.plane.applying, "reload", fails)
        reload = threads.submit(balancer.reload, balancer.config)
        assert reloading.wait(20)
        given = threads.submit(balancer.on_session, lambda info: ToPool("other"), deadline=LONG_S)
        may_fail.set()
        with pytest.raises(EngineError, match="broken"):
            reload.result()
        given.result()
        assert answer_of(balancer) == b"c"


def test_udp_listeners_can_have_no_hook() -> None:
    with serving_udp() as server:
        pool = Pool(backends=[server.address])
        listener = Listener(bind=["127.0.0.1:0"], pool="dns", protocol="udp")
        config = Config(admin=AdminConfig(bind="off"), listeners={"dns": listener}, pools={"dns": pool})
        with LoadBalancer(config) as balancer:
            with pytest.raises(ChangeError, match="on_session is for TCP"):
                balancer.on_session(lambda info: None, listeners=["dns"])


# ---- hooks that misbehave ----


def failing_sleep(info: SessionInfo) -> Decision:
    raise SystemExit("out of here")


async def failing_async(info: SessionInfo) -> Decision:
    raise TimeoutError("the database is slow")


NONSENSE = [
    (lambda info: 1 / 0, "ZeroDivisionError: division by zero"),
    (failing_sleep, "SystemExit: out of here"),
    (failing_async, "TimeoutError: the database is slow"),
    (lambda info: "yes", "returned 'yes'; expected None, True, False, Accept, Reject, ToPool or ToBackend"),
    (lambda info: ToPool("othr"), "no such pool: 'othr' (did you mean \"other\"?)"),
    (lambda info: ToPool(["other"]), "no such pool: ['other']; expected a name"),
    (lambda info: ToBackend("z"), "no such backend in pool \"web\": 'z'"),
]


@pytest.mark.parametrize("on_error", ["accept", "reject"])
@pytest.mark.parametrize(("hook", "reason"), NONSENSE, ids=range(len(NONSENSE)))
def test_a_hook_that_fails_is_reported_and_on_error_holds(hook: Any, reason: str, on_error: Any) -> None:
    with named() as balancer, heard(balancer, "hook_failed") as events:
        balancer.on_session(hook, on_error=on_error, deadline=LONG_S)
        for _ in range(3):
            assert answer_of(balancer) == (b"a" if on_error == "accept" else None)
        assert results(balancer) == {HookResult.FAILED: 3}
        assert wait_until(lambda: events)
        assert len(events) < 3 or events[1].time - events[0].time >= 0.9  # not one for each
        assert events[0].fields["reason"] == reason
        assert events[0].fields["listener"] == "web"
        assert "test_hooks" in str(events[0].fields["hook"])


def test_a_hook_that_hangs_delays_no_other_session() -> None:
    """As many hang as there may be threads but one: the others are served meanwhile."""
    release = threading.Event()

    def hook(info: SessionInfo) -> Decision:
        if info.client == "127.0.0.2":
            release.wait(LONG_S)
            return ToPool("other")
        return None

    def slow_client() -> socket.socket:
        host, _, port = address_of(balancer).rpartition(":")
        return socket.create_connection((host, int(port)), source_address=("127.0.0.2", 0), timeout=LONG_S)

    with named(workers=2) as balancer, contextlib.ExitStack() as stack:
        stack.callback(release.set)
        balancer.on_session(hook, deadline=LONG_S)
        slow = [stack.enter_context(slow_client()) for _ in range(readers.THREADS_MAX - 1)]
        for _ in range(20):
            assert answer_of(balancer) == b"a"
        assert results(balancer) == {HookResult.ACCEPTED: 20}
        release.set()
        assert [read_until_end(client) for client in slow] == [(b"c", False)] * len(slow)


def test_when_all_threads_hang_on_error_holds_at_once() -> None:
    release = threading.Event()
    with named() as balancer, contextlib.ExitStack() as stack:
        stack.callback(release.set)
        balancer.on_session(lambda info: release.wait(LONG_S) and None, deadline=LONG_S)
        slow = [stack.enter_context(connect(address_of(balancer))) for _ in range(readers.THREADS_MAX + 5)]
        assert wait_until(lambda: results(balancer) == {HookResult.FULL: 5})
        release.set()
        assert [read_until_end(client) for client in slow] == [(b"a", False)] * len(slow)
        assert wait_until(lambda: results(balancer)[HookResult.ACCEPTED] == readers.THREADS_MAX)
        assert answer_of(balancer) == b"a"  # they are free again


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_a_late_answer_is_none(is_async: bool) -> None:
    release = threading.Event()

    def hook(info: SessionInfo) -> Decision:
        release.wait(LONG_S)
        return False

    async def async_hook(info: SessionInfo) -> Decision:
        await asyncio.sleep(LONG_S)
        return False

    with named() as balancer, contextlib.ExitStack() as stack:
        stack.callback(release.set)
        balancer.on_session(async_hook if is_async else hook, deadline=0.05)
        assert answer_of(balancer) == b"a"
        assert results(balancer) == {HookResult.LATE: 1}
        release.set()
        dropped = 0 if is_async else 1  # an async hook is cancelled
        assert wait_until(lambda: balancer.plane.forwarder.hook_counts().dropped == dropped)


def test_an_async_hook_waits_beside_others() -> None:
    """All of them wait at the same time, and one that answers at once is not behind them."""
    waiting, release = [], threading.Event()

    async def hook(info: SessionInfo) -> Decision:
        waiting.append(info)
        while not release.is_set():
            await asyncio.sleep(0.01)
        return ToPool("other")

    with named() as balancer, contextlib.ExitStack() as stack:
        balancer.on_session(hook, deadline=LONG_S)
        clients = [stack.enter_context(connect(address_of(balancer))) for _ in range(200)]
        assert wait_until(lambda: len(waiting) == 200)
        release.set()
        assert {read_until_end(client) for client in clients} == {(b"c", False)}


def test_a_hook_that_does_not_return_does_not_keep_the_process() -> None:
    release = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.callback(release.set)
        with named() as balancer:
            balancer.on_session(lambda info: release.wait(LONG_S) and None, deadline=LONG_S)
            with connect(address_of(balancer)) as client:
                assert wait_until(lambda: balancer.sessions()[0]["state"] == "asking")
                balancer.close()
                assert read_until_end(client) == (b"", True)


# ---- the life of a session that waits ----


def test_what_an_async_hook_began_ends_with_the_balancer() -> None:
    """A task that goes on after the answer, such as one that keeps a cache fresh, can put its things in order."""
    ended: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def go_on() -> None:
        try:
            await asyncio.sleep(LONG_S)
        finally:
            await asyncio.sleep(0)
            ended.append("in order")

    async def hook(info: SessionInfo) -> Decision:
        tasks.append(asyncio.create_task(go_on()))
        return None

    with named() as balancer:
        balancer.on_session(hook, deadline=LONG_S)
        assert answer_of(balancer) == b"a"
        assert not ended
    assert ended == ["in order"]


def test_a_client_that_leaves_frees_its_places() -> None:
    release = threading.Event()
    with named() as balancer, contextlib.ExitStack() as stack:
        stack.callback(release.set)
        balancer.on_session(lambda info: release.wait(LONG_S) and None, deadline=LONG_S)
        client = connect(address_of(balancer))
        assert wait_until(lambda: [one["state"] for one in balancer.sessions()] == ["asking"])
        reset(client)
        wait_closed(balancer, CloseReason.CLIENT_ABORT)
        wait_idle(balancer)
        assert results(balancer) == {}


def test_a_session_that_waits_can_be_killed() -> None:
    release = threading.Event()
    with named() as balancer, contextlib.ExitStack() as stack:
        stack.callback(release.set)
        balancer.on_session(lambda info: release.wait(LONG_S) and None, deadline=LONG_S)
        with connect(address_of(balancer)) as client:
            assert wait_until(lambda: [one["state"] for one in balancer.sessions()] == ["asking"])
            assert balancer.kill_sessions() == 1
            assert read_until_end(client) == (b"", True)


def test_draining_waits_for_the_answer() -> None:
    release = threading.Event()
    with named() as balancer, contextlib.ExitStack() as stack:
        stack.callback(release.set)
        balancer.on_session(lambda info: release.wait(LONG_S) and None, deadline=LONG_S)
        with connect(address_of(balancer)) as client:
            assert wait_until(lambda: [one["state"] for one in balancer.sessions()] == ["asking"])
            assert not balancer.drain(timeout=0.1)
            release.set()
            assert read_until_end(client) == (b"a", False)
        assert balancer.drain(timeout=LONG_S)


@pytest.mark.slow
def test_thousands_of_sessions_pass_a_quick_hook() -> None:
    counted = 0

    def hook(info: SessionInfo) -> Decision:
        nonlocal counted
        counted += 1
        return None

    with named(workers=2) as balancer:
        balancer.on_session(hook, deadline=LONG_S)
        failed: list[object] = []

        def come() -> None:
            failed.extend(said for said in (answer_of(balancer) for _ in range(1250)) if said != b"a")

        clients = [threading.Thread(target=come) for _ in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert failed == []
        assert counted == 5000
        assert results(balancer) == {HookResult.ACCEPTED: 5000}


def test_a_reload_keeps_the_hook_and_new_listeners_get_it() -> None:
    with named() as balancer:
        balancer.on_session(lambda info: False, deadline=LONG_S)
        config = balancer.config
        more = {**config.listeners, "more": Listener(bind=["127.0.0.1:0"], pool="web")}
        balancer.reload(config.model_copy(update={"listeners": more}))
        for name in ("web", "more"):
            assert answer_of(balancer, at=balancer.listeners[name].addresses[0]) is None
