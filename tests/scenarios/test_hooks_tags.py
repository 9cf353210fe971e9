"""Tags that a hook attaches to a session: where they stand, and that none stay when their session is gone."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

import l4lb.control.sessions.tagging as tagging
from l4lb import LoadBalancer
from l4lb.config import GlobalConfig
from l4lb.control.state import tags as tags_module
from l4lb.engine.native import NativeForwarder
from l4lb.hooks import Accept, Decision, Reject, SessionInfo, ToBackend, ToPool
from l4lb.model.hooks import HookResult
from tests.scenarios.test_hooks import LONG_S, answer_of, heard, named, results
from tests.support.balancing import address_of, balancing
from tests.support.peers import connect, hold, read_until_end, serving
from tests.support.waiting import wait_until

TAGS = {"customer": "acme", "plan": "gold plus"}


def log_to(balancer: LoadBalancer, place: str, log_format: Any = "text") -> None:
    settings = GlobalConfig(workers=1, access_log=place, log_format=log_format)
    balancer.reload(balancer.config.model_copy(update={"global_": settings}))


ANSWERS: list[tuple[Decision, HookResult, dict[str, str]]] = [
    (Accept(tags=TAGS), HookResult.ACCEPTED, TAGS),
    (Reject(tags=TAGS), HookResult.REJECTED, TAGS),
    (Reject("not today", tags=TAGS), HookResult.REJECTED, {**TAGS, "reason": "not today"}),
    (Reject("not today"), HookResult.REJECTED, {"reason": "not today"}),
    (ToPool("other", tags=TAGS), HookResult.POOL, TAGS),
    (ToBackend("a", tags=TAGS), HookResult.BACKEND, TAGS),
]
SHOWN = {"customer": "acme", "plan": '"gold plus"', "reason": '"not today"'}


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize(("answer", "result", "tags"), ANSWERS)
def test_they_stand_in_access_log_and_record(
    answer: Decision, result: HookResult, tags: dict[str, str], is_async: bool, tmp_path: Path
) -> None:
    got: list[dict[str, Any]] = []

    async def decide(info: SessionInfo) -> Decision:
        return answer

    with named() as balancer:
        log_to(balancer, str(tmp_path / "log"))
        balancer.on_session(decide if is_async else lambda info: answer, deadline=LONG_S)
        balancer.on_close(got.append)
        answer_of(balancer)
        assert wait_until(lambda: got)
        log_to(balancer, str(tmp_path / "log"), "json")
        answer_of(balancer)
        assert wait_until(lambda: len(got) == 2)
        assert results(balancer) == {result: 2}
        assert wait_until(lambda: len((tmp_path / "log").read_text().splitlines()) == 2)
        assert len(balancer.plane.tags) == 0
    assert [record["tags"] for record in got] == [tags, tags]
    text, as_json = (tmp_path / "log").read_text().splitlines()
    assert text.endswith("".join(f" tags.{key}={SHOWN[key]}" for key in tags))
    assert json.loads(as_json)["tags"] == tags


def test_sessions_without_tags_have_none(tmp_path: Path) -> None:
    got: list[dict[str, Any]] = []
    with named() as balancer:
        log_to(balancer, str(tmp_path / "log"))
        balancer.on_session(lambda info: None, deadline=LONG_S)
        balancer.on_close(got.append)
        answer_of(balancer)
    assert [record["tags"] for record in got] == [{}]
    assert "tags" not in (tmp_path / "log").read_text()


def test_they_stand_in_the_list_of_sessions() -> None:
    with serving(hold) as server:
        with balancing([server.address], workers=2) as balancer:
            customers = iter(("acme", "other"))
            balancer.on_session(lambda info: Accept(tags={"customer": next(customers)}), deadline=LONG_S)
            with connect(address_of(balancer)) as one:
                assert wait_until(lambda: len(results(balancer)) == 1)
                with connect(address_of(balancer)) as two:
                    assert wait_until(lambda: results(balancer) == {HookResult.ACCEPTED: 2})
                    listed = {session["client"]: session["tags"] for session in balancer.sessions()}
                    assert listed == {text(one): {"customer": "acme"}, text(two): {"customer": "other"}}


def text(client: socket.socket) -> str:
    host, port = client.getsockname()
    return f"{host}:{port}"


SIXTEEN = {f"k{number}": "v" for number in range(16)}
NONSENSE = [
    ({1: "x"}, "tag 1: expected a name of letters, digits and _"),
    ({"k": 1}, 'tag "k": expected a str, not 1'),
    ({f"k{number}": "v" for number in range(17)}, "17 tags, at most 16"),
    (None, "tags: expected a dict of str by str, not None"),
]


@pytest.mark.parametrize("on_error", ["accept", "reject"])
@pytest.mark.parametrize(("tags", "reason"), NONSENSE, ids=range(len(NONSENSE)))
def test_what_are_no_tags_is_no_answer(tags: Any, reason: str, on_error: Any) -> None:
    got: list[dict[str, Any]] = []
    with named() as balancer, heard(balancer, "hook_failed") as events:
        balancer.on_session(lambda info: ToPool("other", tags=tags), on_error=on_error, deadline=LONG_S)
        balancer.on_close(got.append)
        assert answer_of(balancer) == (b"a" if on_error == "accept" else None)
        assert results(balancer) == {HookResult.FAILED: 1}
        assert wait_until(lambda: events)
        assert events[0].fields["reason"] == reason
        assert wait_until(lambda: got)
        assert got[0]["tags"] == {}


REASONS = [(Reject(3), 'tag "reason": expected a str, not 3'), (Reject("why", tags=SIXTEEN), "17 tags, at most 16")]  # type: ignore[arg-type]


@pytest.mark.parametrize(("answer", "reason"), REASONS, ids=["no text", "one too many"])
def test_what_is_no_reason_is_no_answer(answer: Decision, reason: str) -> None:
    with named() as balancer, heard(balancer, "hook_failed") as events:
        balancer.on_session(lambda info: answer, deadline=LONG_S)
        assert answer_of(balancer) == b"a"
        assert wait_until(lambda: events)
        assert events[0].fields["reason"] == reason


def test_those_of_a_late_answer_are_not_kept() -> None:
    release, got = threading.Event(), list[dict[str, Any]]()

    def late(info: SessionInfo) -> Decision:
        release.wait(LONG_S)
        return Accept(tags=TAGS)

    with named() as balancer:
        balancer.on_session(late, deadline=0.05)
        balancer.on_close(got.append)
        with connect(address_of(balancer)) as client:
            assert wait_until(lambda: results(balancer) == {HookResult.LATE: 1})
            release.set()
            assert wait_until(lambda: balancer.plane.forwarder.hook_counts().dropped == 1)
            assert [one["tags"] for one in balancer.sessions()] in ([], [{}])
            assert read_until_end(client) == (b"a", False)
        assert wait_until(lambda: got)
        assert got[0]["tags"] == {}


def test_when_there_is_no_room_for_them_the_session_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags_module, "KEPT_MAX_CHARS", 10)
    got: list[dict[str, Any]] = []
    with named() as balancer, heard(balancer, "hook_failed") as events:
        balancer.on_session(lambda info: ToPool("other", tags=TAGS), deadline=LONG_S)
        balancer.on_close(got.append)
        assert answer_of(balancer) == b"c"
        assert wait_until(lambda: events)
        assert "its tags are not kept" in str(events[0].fields["reason"])
        assert wait_until(lambda: got)
        assert got[0]["tags"] == {}


@pytest.mark.parametrize("lost", [False, True], ids=["unread", "lost"])
def test_of_sessions_without_a_record_they_are_forgotten_too(lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads records, or they were lost on their way. But not those of sessions that are there."""
    monkeypatch.setattr(tagging, "KEPT_UNASKED", 0)
    monkeypatch.setattr(NativeForwarder, "take_records", lambda self, limit: [])
    with serving(hold) as server, balancing([server.address]) as balancer, contextlib.ExitStack() as stack:
        balancer.on_session(lambda info: Accept(tags={"port": str(info.client_port)}), deadline=LONG_S)
        if lost:
            balancer.on_close(lambda record: None)
        stay = [stack.enter_context(connect(address_of(balancer))) for _ in range(5)]
        for number in range(40):
            with connect(address_of(balancer)):
                assert wait_until(lambda: server.accepted == 6 + number)  # noqa: B023
        kept = len(balancer.plane.tags)
        assert wait_until(lambda: balancer.plane.tagging.look_soon() or len(balancer.plane.tags) == 5, 20), kept
        ports = {str(client.getsockname()[1]) for client in stay}
        assert {session["tags"]["port"] for session in balancer.sessions()} == ports


def test_many_sessions_have_their_own() -> None:
    got: list[dict[str, Any]] = []
    with named(workers=2) as balancer:
        balancer.on_session(lambda info: Accept(tags={"port": str(info.client_port)}), deadline=LONG_S)
        balancer.on_close(got.append)

        def come() -> None:
            for _ in range(500):
                answer_of(balancer)

        clients = [threading.Thread(target=come) for _ in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert wait_until(lambda: len(got) == 2000)
        assert len(balancer.plane.tags) == 0
    assert all(record["tags"] == {"port": str(record["client_port"])} for record in got)
