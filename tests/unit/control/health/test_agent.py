"""What an agent may say, and what it changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb.control.health.agent import parse_agent
from l4lb.control.state.state import AgentState
from l4lb.model.states import AdminState, Health


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("75%", AgentState(percent=75)),
        ("up", AgentState(health=Health.UP)),
        ("down", AgentState(health=Health.DOWN)),
        ("stopped, 10%", AgentState(percent=10, health=Health.DOWN)),
        ("fail # disk full", AgentState(health=Health.DOWN, remark="disk full")),
        ("DRAIN", AgentState(admin_state=AdminState.DRAIN)),
        ("maint", AgentState(admin_state=AdminState.MAINT)),
        ("ready up 100% maxconn:30", AgentState(100, Health.UP, AdminState.READY, 30)),
        ("up\t50%,maxconn:0", AgentState(50, Health.UP, AdminState.READY, 0)),
    ],
)
def test_what_it_may_say(line: str, state: AgentState) -> None:
    """HAProxy's configuration manual, `agent-check`."""
    assert parse_agent(line, AgentState()) == state


def test_what_it_does_not_mention_stays() -> None:
    before = AgentState(20, Health.DOWN, AdminState.DRAIN, 7, "x")
    assert parse_agent("up", before) == AgentState(20, Health.UP, AdminState.DRAIN, 7, "")


@pytest.mark.parametrize("line", ["", "# only a remark", "yes", "50", "%", "-5%", "1001%", "maxconn:", "up sideways"])
def test_what_it_may_not_say(line: str) -> None:
    with pytest.raises(ValueError):
        parse_agent(line, AgentState())


@given(st.text(max_size=60))
def test_any_line_is_understood_or_refused(line: str) -> None:
    try:
        state = parse_agent(line, AgentState())
    except ValueError:
        return
    assert 0 <= state.percent <= 1000
