"""What an agent may say, and what it changes."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb.config import Config
from l4lb.control.health.agent import Agents, parse_agent
from l4lb.control.state.events import Events
from l4lb.control.state.state import AgentState, initial_state
from l4lb.model.states import AdminState, Health
from tests.support.peers import serving


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


FILE = """
[listeners.web]
bind = "192.0.2.1:80"
pool = "web"
engine = "{engine}"
[pools.web]
policy = "maglev"
backends = ["127.0.0.1:80"]
agent = {{ port = {port}, interval = "20ms" }}
"""


@pytest.mark.parametrize("engine", ["kernel", "proxy"])
def test_a_limit_that_the_kernel_cannot_keep_is_ignored_and_reported_once(engine: str) -> None:
    asked = 0

    def answer(sock: socket.socket) -> None:
        nonlocal asked
        asked += 1
        sock.sendall(b"50%% maxconn:%d\n" % asked)

    async def main() -> None:
        with serving(answer) as server:
            state = initial_state(Config.loads(FILE.format(engine=engine, port=server.port)))
            events, changed = Events(), []
            agents = Agents(state, events, lambda pool, backend: changed.append(backend.agent.percent))
            agents.start()
            async with asyncio.timeout(20):
                while asked < 5:
                    await asyncio.sleep(0.01)
            await agents.stop()
        (backend,) = state.pools["web"].backends.values()
        ignored = [one.fields for one in events.recent if one.kind == "agent_ignored"]
        assert backend.agent.percent == 50
        if engine == "proxy":
            assert (backend.max_sessions > 1, ignored) == (True, [])
            return
        assert (backend.max_sessions, backend.agent.max_sessions, changed) == (0, None, [50])
        assert [(one["pool"], one["backend"]) for one in ignored] == [("web", "127.0.0.1:80")]
        assert str(ignored[0]["reason"]).startswith("max_sessions 1 cannot be had")

    asyncio.run(main())
