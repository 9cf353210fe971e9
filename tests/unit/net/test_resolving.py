"""Look-ups side by side, also where there can be no thread for them."""

from __future__ import annotations

import threading
from typing import NoReturn

import pytest

from l4lb.net.resolving import Answer, Lookups, NotResolved
from tests.support.waiting import wait_until

ANSWER = Answer(((2, "192.0.2.1"),), 1.0)


def no_threads(self: threading.Thread) -> NoReturn:
    raise RuntimeError("can't start new thread")


def test_without_a_thread_a_name_says_so_and_is_looked_up_the_next_time() -> None:
    lookups = Lookups(lambda name: ANSWER)
    heard: list[tuple[str, Answer | NotResolved]] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_threads)
        lookups.begin("one.example", lambda name, found: heard.append((name, found)))
    ((name, found),) = heard
    assert name == "one.example"
    assert "cannot start a thread" in str(found)
    lookups.begin("one.example", lambda name, found: heard.append((name, found)))
    assert wait_until(lambda: heard[1:] == [("one.example", ANSWER)])
    lookups.close()


def test_without_a_second_thread_the_first_sees_to_all() -> None:
    go_on = threading.Event()

    def slow(name: str) -> Answer:
        assert go_on.wait(30)
        return ANSWER

    lookups = Lookups(slow)
    heard: list[str] = []
    lookups.begin("one.example", lambda name, _: heard.append(name))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_threads)
        lookups.begin("two.example", lambda name, _: heard.append(name))
    assert heard == []
    go_on.set()
    assert wait_until(lambda: heard == ["one.example", "two.example"])
    lookups.close()


@pytest.mark.parametrize(("error", "said"), [(KeyError("x"), "KeyError: 'x'"), (SystemExit(3), "SystemExit: 3")])
def test_a_resolver_that_fails_in_its_own_way_is_a_name_that_does_not_resolve(error: BaseException, said: str) -> None:
    def broken(name: str) -> NoReturn:
        raise error

    lookups = Lookups(broken)
    heard: list[Answer | NotResolved] = []
    lookups.begin("one.example", lambda _, found: heard.append(found))
    assert wait_until(lambda: heard)
    assert str(heard[0]) == said
    lookups.close()
