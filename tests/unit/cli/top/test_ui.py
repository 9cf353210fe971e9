"""What each key does."""

from __future__ import annotations

import pytest

from l4lb.cli.top.changes import Change
from l4lb.cli.top.state.seen import Seen
from l4lb.cli.top.ui import PANES, Ui
from l4lb.cli.top.wanted import SESSIONS, Wanted, limit_for
from l4lb.model.sessions import LIMIT_MAX
from tests.unit.cli.top.samples import ban, press, seen, session, source, ui


def at_backend(name: str = "a", read_only: bool = False) -> Ui:
    made = ui(read_only=read_only)
    pool = {"a": "web", "b": "web", "c": "api"}[name]
    assert made.listing.move_to(("backend", pool, name))
    return made


# ---- moving about ----


def test_numbers_and_tab_go_through_all_lists() -> None:
    made = ui()
    for number, pane in enumerate(PANES, 1):
        press(made, str(number))
        assert made.pane is pane
    press(made, "tab")
    assert made.pane is PANES[0]
    press(made, "btab")
    assert made.pane is PANES[-1]
    press(made, "9")
    assert made.pane is PANES[-1]


def test_details_and_back() -> None:
    made = at_backend()
    press(made, "enter")
    assert (made.mode, made.wanted.pool) == ("details", "web")
    press(made, "down", "down", "up")
    assert made.scrolled == 1
    press(made, "escape")
    assert (made.mode, made.wanted.pool) == ("list", "")
    assert press(made, "i", "q") is None
    assert made.mode == "list"
    press(made, "?")
    assert made.mode == "help"
    assert press(made, "q") is None, "q ends the help first"
    assert made.mode == "list"
    assert press(made, "q") == "quit"


def test_enter_folds_a_pool_and_i_has_its_details() -> None:
    made = ui()
    press(made, "enter")
    assert [one.key for one in made.listing.rows][:2] == [("pool", "web"), ("pool", "api")]
    press(made, " ")
    assert len(made.listing.rows) == 5
    press(made, "i")
    assert (made.mode, made.wanted.pool) == ("details", "")


def test_pages_are_as_high_as_the_screen() -> None:
    made = ui()
    made.height = 3
    press(made, "pgdn")
    assert made.listing.index == 2
    press(made, "G")
    assert made.listing.index == 4
    press(made, "pgup")
    assert made.listing.index == 2
    press(made, "home")
    assert made.listing.index == 0


def test_sorting() -> None:
    made = ui()
    press(made, ">")
    assert made.listing.sort == "pool, backend"
    assert [one.key[1] for one in made.listing.rows if one.key[0] == "pool"] == ["api", "web"]
    press(made, "R")
    assert [one.key[1] for one in made.listing.rows if one.key[0] == "pool"] == ["web", "api"]
    press(made, "<")
    assert made.listing.sort == ""


# ---- the filter ----


def test_the_filter_is_applied_while_it_is_typed() -> None:
    made = ui()
    press(made, "/", *"down")
    assert [one.key[-1] for one in made.listing.rows] == ["web", "b", "api", "c"]
    press(made, " ", "c", "backspace", *"web", "enter")
    assert (made.prompt, made.listing.words) == (None, "down web")
    assert [one.key[-1] for one in made.listing.rows] == ["web", "b"]
    press(made, "/", "^U", "x", "escape")
    assert made.listing.words == "down web", "as it was"
    press(made, "escape")
    assert len(made.listing.rows) == 5
    assert press(made, "/", "q") is None, "it is text"
    assert press(made, "^C") == "quit"


def test_of_the_sessions_the_instance_filters_what_it_can() -> None:
    found = seen()
    found.set_part("sessions", [session("1"), session("2", backend="b")])
    made = ui(found)
    press(made, "2", "/", *"pool=web source=192.0.2.0/24 x")
    assert made.wanted.query == (), "not while it is typed"
    press(made, "enter")
    assert made.wanted == Wanted("sessions", (("pool", "web"), ("source", "192.0.2.0/24")), 2000)
    assert made.words == "x"
    assert made.listing.rows == []
    press(made, "escape")
    assert made.wanted == Wanted("sessions")
    assert [one.key[1] for one in made.listing.rows] == ["1", "2"]


@pytest.mark.parametrize(
    ("pane", "key", "words"),
    [
        ("1", ("pool", "web"), "pool=web"),
        ("1", ("backend", "web", "a"), "pool=web backend=a"),
        ("3", ("listener", "front"), "listener=front"),
        ("5", ("source", "front", "192.0.2.7"), "listener=front source=192.0.2.7"),
    ],
)
def test_s_shows_the_sessions_of_anything(pane: str, key: tuple[str, ...], words: str) -> None:
    found = seen()
    found.set_part("sources", [source("192.0.2.7")])
    made = ui(found)
    press(made, pane)
    assert made.listing.move_to(key)
    press(made, "s")
    assert (made.pane.name, made.listing.words) == ("sessions", words)


def test_more_sessions_are_asked_for_at_their_end() -> None:
    found = seen()
    found.set_part("sessions", [session(str(number)) for number in range(SESSIONS)])
    made = ui(found)
    press(made, "2", "down")
    assert made.wanted.limit == SESSIONS
    press(made, "G")
    assert made.wanted.limit == 2 * SESSIONS
    press(made, "g")
    assert made.wanted.limit == SESSIONS
    assert limit_for(150, 150) == SESSIONS, "there are no more"
    assert limit_for(10**6, 10**6) == LIMIT_MAX


def test_the_order_of_sources_is_the_instances() -> None:
    made = ui()
    press(made, "5")
    orders = []
    for _ in range(9):
        orders.append(made.wanted.by)
        press(made, ">")
    assert orders == ["sessions"] * 4 + ["rate"] + ["sessions"] * 2 + ["bytes"] * 2


# ---- changes ----


def test_drain_asks_and_says_what_happens() -> None:
    made = at_backend()
    assert press(made, "d") is None
    assert made.question is not None
    assert made.question.question == (
        "Drain a of pool web: it gets no new session, its 3 sessions may go on. Usable backends of the pool: 1 now, "
        "0 then."
    )
    assert made.question.warning == "New clients of the pool will get no backend."
    assert press(made, "n") is None
    assert (made.question, made.message[0]) == (None, "nothing was done")
    change = press(made, "d", "y")
    assert isinstance(change, Change)
    assert made.question is None


@pytest.mark.parametrize("answer", ["enter", "escape", "q", "d", " ", "down"])
def test_only_y_is_yes(answer: str) -> None:
    made = at_backend()
    assert press(made, "d", answer) is None
    assert made.question is None


def test_what_takes_nothing_away_is_not_asked_about() -> None:
    for key in ("r", "+", "-"):
        assert isinstance(press(at_backend(), key), Change), key
    made = at_backend("b")
    press(made, "d")
    assert made.question is not None
    assert not made.question.warning, "it is down: a is left"


def test_maintenance_asks_too() -> None:
    made = at_backend()
    assert press(made, "m") is None
    assert made.question is not None


def test_a_weight_is_typed() -> None:
    made = at_backend()
    change = press(made, "w", "1", "2", "enter")
    assert isinstance(change, Change)
    assert change.done == "a of pool web: weight 12"
    for wrong in ("x", "-1", "65536", ""):
        assert press(made, "w", *wrong, "enter") is None
        assert "expected a weight from 0 to 65535" in made.message[0]
    assert press(made, "w", "0", "enter") is None
    assert made.question is not None, "weight 0 takes it out"
    press(made, "escape")
    assert press(made, "w", "3", "escape") is None


def test_a_pool_cannot_be_drained() -> None:
    made = ui()
    assert press(made, "d") is None
    assert (made.question, made.message[0]) == (None, "move to a backend first")


def test_sessions_and_bans_are_ended_after_a_question() -> None:
    found = seen()
    found.set_part("sessions", [session("77")])
    found.set_part("bans", [ban("192.0.2.0/24")])
    made = ui(found)
    assert press(made, "2", "x") is None
    assert made.question is not None
    assert made.question.question.startswith("End session 77 of client 192.0.2.1:77: both sides get a reset.")
    assert isinstance(press(made, "y"), Change)
    assert press(made, "6", "x") is None
    assert made.question is not None
    assert "192.0.2.0/24" in made.question.question


def test_a_flow_in_the_kernel_is_not_ended() -> None:
    found = seen()
    found.set_part("sessions", [session("k77", engine="kernel", age_s=None, bytes_up=None, bytes_down=None)])
    made = ui(found)
    assert press(made, "2", "x") is None
    assert made.question is None
    assert "cannot be ended from here" in made.message[0]


def test_listeners_are_drained_after_a_question_and_resumed() -> None:
    made = ui()
    assert press(made, "3", "d") is None
    assert made.question is not None
    assert made.question.question.startswith("Drain listener front: it stops accepting clients. Its 3 sessions may")
    press(made, "n")
    assert isinstance(press(made, "r"), Change)


@pytest.mark.parametrize("keys", ["d", "m", "r", "+", "-", "w", "2x", "6x", "3d", "3r"])
def test_who_only_reads_changes_nothing(keys: str) -> None:
    found = seen()
    found.set_part("sessions", [session("77")])
    found.set_part("bans", [ban("192.0.2.0/24")])
    for by_token in (True, False):
        found.read_only = by_token
        made = ui(found, read_only=not by_token)
        made.listing.move_to(("backend", "web", "a"))
        assert press(made, *keys) is None
        assert (made.question, made.prompt) == (None, None)
        assert "read-only" in made.message[0]


def test_the_question_is_about_the_backend_it_was_asked_for() -> None:
    """Rows may move meanwhile."""
    made = at_backend()
    press(made, "d")
    made.listing.move_to(("backend", "web", "b"))
    assert press(made, "y").done == "a of pool web: admin state drain"


def test_no_key_fails_on_an_empty_screen() -> None:
    keys = ["enter", "i", "d", "r", "m", "+", "-", "w", "x", "s", " ", "f", "<", ">", "R", "G", "pgdn", "escape", "/"]
    for number in range(1, len(PANES) + 1):
        for key in keys:
            made = Ui(Seen())
            made.arrange()
            press(made, str(number), key)
