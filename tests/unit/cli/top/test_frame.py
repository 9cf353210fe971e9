"""The whole screen, at every size."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4lb.cli.top.frame import frame
from l4lb.cli.top.state.cells import text_of, width_of
from l4lb.cli.top.state.seen import Seen
from l4lb.cli.top.ui import PANES, Ui
from l4lb.control.state.events import Event
from tests.unit.cli.top.samples import backend, ban, down, pool, press, seen, session, source, ui


def full() -> Seen:
    """Something in each list, with names that others may have written."""
    found = seen(pool("web", backend("a"), down("\x1b[2J東京" * 20)), pool("empty"))
    found.set_part("sessions", [session(str(number)) for number in range(300)])
    found.set_part("sources", [source("2001:db8::/64")])
    found.set_part("bans", [ban("192.0.2.0/24")])
    found.happened(Event("backend_down", {"pool": "web", "backend": "a", "reason": "x\ny"}))
    return found


def screen(made: Ui, width: int = 80, height: int = 24) -> str:
    return "\n".join(text_of(line) for line in frame(made, width, height))


@given(
    st.integers(1, 220),
    st.integers(1, 60),
    st.sampled_from([*"1234567"]),
    st.sampled_from([(), ("enter",), ("?",), ("/", "x"), ("d",), ("x",), ("w",), ("i",), ("G",)]),
    st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_it_fits_every_terminal(width: int, height: int, pane: str, keys: tuple[str, ...], lost: bool) -> None:
    found = full()
    if lost:
        found.not_answered("nobody answers " * 20, time.time())
    made = ui(found)
    press(made, pane, "down", *keys)
    lines = frame(made, width, height)
    assert len(lines) == height
    for line in lines:
        assert width_of(text_of(line)) <= width
        assert text_of(line).isprintable()


@pytest.mark.parametrize("pane", range(len(PANES)))
def test_it_fits_before_the_first_answer(pane: int) -> None:
    made = Ui(Seen())
    press(made, str(pane + 1))
    made.arrange()
    assert len(frame(made, 80, 24)) == 24
    assert "connecting" in screen(made) or "nothing has happened" in screen(made)


def test_what_is_wrong_is_on_top() -> None:
    shown = screen(ui())
    assert "1 pool down, 2 backends out; 3 sessions, CPU 10 %" in shown
    assert "web (maglev)" in shown


def test_the_note_of_the_selected_backend_is_below_the_list_or_beside_it() -> None:
    made = ui()
    made.listing.move_to(("backend", "web", "b"))
    lines = screen(made).splitlines()
    assert "connect: connection refused" in lines[-2]
    wide = screen(made, 200).splitlines()
    assert "connect: connection refused" in next(line for line in wide if line.startswith("  b "))


def test_latency_is_shown_where_the_instance_knows_it() -> None:
    assert "P90" not in screen(ui(), 200)
    slow = {"count": 9, "mean_s": 0.2, "p50_s": 0.1, "p90_s": 0.25, "p99_s": 0.3}
    none = {"count": 0, "mean_s": None, "p50_s": None, "p90_s": None, "p99_s": None}
    latency = {"connect": none, "first_byte": slow, "session": none}
    others = backend("b", latency={**latency, "first_byte": none}), backend("c", latency=None)
    made = ui(seen(pool("web", backend("a", latency=latency, slow="first byte"), *others)))
    shown = screen(made).splitlines()
    assert "BYTE P90" in next(line for line in shown if line.startswith("POOL"))
    assert "250ms" in next(line for line in shown if line.startswith("  a "))
    assert "250ms" in next(line for line in shown if "web (maglev)" in line), "that of its slowest"
    assert "CONN P90" in screen(made, 200)
    assert ("   250ms", "yellow") in next(line for line in frame(made, 80, 24) if text_of(line).startswith("  a "))
    press(made, "down", "enter")
    assert "first byte   p50 100ms, p90 250ms, p99 300ms, mean 200ms (9)" in screen(made, 100)
    assert "connect      nothing was measured" in screen(made, 100)


def test_it_says_since_when_nobody_answers() -> None:
    found = seen()
    found.not_answered("connection refused", time.time())
    shown = screen(ui(found))
    assert shown.startswith("not reachable since ")
    assert "retrying: connection refused" in shown.splitlines()[0]
    found.not_answered("word " * 50, time.time())
    assert screen(ui(found)).splitlines()[1].endswith("word…")
    assert "web (maglev)" in shown, "with what was known"


def test_it_says_when_an_answer_takes_long() -> None:
    found = seen()
    found.asked_at = time.monotonic() - 7
    assert "no answer for 7 s; waiting" in screen(ui(found))


def test_more_sessions_than_are_listed() -> None:
    found = full()
    found.set_part("sessions", [session(str(number)) for number in range(200)])
    assert found.status is not None
    found.status = {**found.status, "sessions_active": 100_000}
    made = ui(found)
    press(made, "2")
    assert "sessions: the first 200 of 100000" in screen(made)


def test_the_error_of_a_list_is_its_title() -> None:
    found = full()
    found.set_part("bans", None, "no such thing")
    made = ui(found)
    press(made, "6")
    assert "bans: no such thing" in screen(made)
    assert "192.0.2.0/24" in screen(made)


def test_an_error_of_a_change_is_read_whole() -> None:
    made = ui()
    made.say("this cannot be ended from here: " + "client and backend speak with each other " * 3, "red")
    assert " ".join(screen(made, 40).split()).endswith("each other client and backend speak with each other")


def test_a_question_is_read_whole() -> None:
    made = ui()
    press(made, "down", "d")
    shown = " ".join(screen(made, 40).split())
    assert "Drain a of pool web: it gets no new session, its 3 sessions may go on." in shown
    assert "New clients of the pool will get no backend. y do it any other key no" in shown


def test_the_bottom_line_has_no_key_that_is_refused() -> None:
    assert "d Drain" in screen(ui())
    shown = screen(ui(read_only=True))
    assert "d Drain" not in shown
    assert "read-only" in shown


def test_details_of_a_backend() -> None:
    found = seen(pool("web", down("b", failed={"refused": 4}, tags={"rack": "4"})))
    found.happened(Event("backend_down", {"pool": "web", "backend": "b", "reason": "connect: connection refused"}))
    found.happened(Event("backend_down", {"pool": "web", "backend": "other"}))
    check = {"ok": True, "step": "connect", "reason": "", "latency_ms": 1.5, "at": 1.0}
    found.set_part("pool", pool("web", down("b", failed={"refused": 4}, tags={"rack": "4"}, checks=[check])))
    made = ui(found)
    press(made, "down", "enter")
    shown = screen(made, 100, 50)
    for said in (
        "backend web / b", "why          no new sessions: down for", "connecting   4 refused", "tags         rack=4",
        "passed in 1.5 ms", 'backend down reason="connect: connection refused"',
    ):  # fmt: skip
        assert said in shown, said
    assert "other" not in shown
    found.answered({**(found.status or {}), "pools": []}, 2.0)
    found.forget_other("pool", "another")
    made.arrange()
    shown = screen(made, 100, 50)
    assert "backend web / b gone; this is what was known last" in shown
    assert "connecting   4 refused" in shown


def test_details_of_anything_follow_it() -> None:
    found = seen()
    found.set_part("sessions", [session("7", idle_s=1.0)])
    made = ui(found)
    press(made, "2", "enter")
    assert "idle s           1s" in screen(made, 80, 40)
    found.set_part("sessions", [session("6"), session("7", idle_s=9.0)])
    made.arrange()
    assert "session 7" in screen(made, 80, 40)
    assert "idle s           9s" in screen(made, 80, 40)
    found.set_part("sessions", [])
    made.arrange()
    assert "session 7 gone" in screen(made, 80, 40)


def test_only_rows_on_the_screen_are_drawn() -> None:
    """With ten thousand of them, a screen has as many as it has room for."""
    found = seen()
    asked = []

    class Session(dict[str, object]):
        def __getitem__(self, name: str) -> object:
            asked.append(self.get("id"))
            return super().__getitem__(name)

    found.set_part("sessions", [Session(session(str(number))) for number in range(10_000)])
    made = ui(found)
    press(made, "2", "G")
    asked.clear()
    assert "192.0.2.1:9999" in screen(made)
    assert len(set(asked)) < 24
