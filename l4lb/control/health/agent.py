"""The agent check: a backend's own agent reports about it, in the text protocol of HAProxy's agent-check. Control loop.

The agent listens on a port of the backend's host and answers each connection with one line: words, separated by spaces
or commas. ``75%`` is a part of the configured weight; ``up``, ``down`` (also ``fail``, ``failed``, ``stopped``) is the
health that the agent sees, in addition to that of the checks; ``ready``, ``drain``, ``maint`` is the agent's admin
state, in addition to the operator's; ``maxconn:N`` replaces max_sessions, but where the kernel forwards. Text after
``#`` is a comment. What a line does not mention stays as it was, and an agent that does not answer changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from l4lb.config import HealthConfig
from l4lb.control.checks.checks import CheckFailed, NotChecked, Target
from l4lb.control.checks.stream import open_stream
from l4lb.control.state.events import Events
from l4lb.control.state.state import AgentState, BackendState, PoolState, State
from l4lb.model.address import SocketAddress
from l4lb.model.states import AdminState, Health

MAX_LINE_BYTES = 1024
TIMEOUT_S = 5.0
MAX_PERCENT = 1000

_HEALTH = dict.fromkeys(("down", "fail", "failed", "stopped"), Health.DOWN) | {"up": Health.UP}
_ADMIN = {"ready": AdminState.READY, "drain": AdminState.DRAIN, "maint": AdminState.MAINT}


def parse_agent(line: str, before: AgentState) -> AgentState:
    """The agent's state after this line. ValueError names an invalid word; the whole line is ignored then."""
    said, _, remark = line.partition("#")
    state = replace(before, remark=remark.strip())
    words = re.split(r"[\s,]+", said.strip().lower())
    if words == [""]:
        raise ValueError("an empty answer")
    for word in words:
        if word in _HEALTH:
            state = replace(state, health=_HEALTH[word])
        elif word in _ADMIN:
            state = replace(state, admin_state=_ADMIN[word])
        elif re.fullmatch(r"\d{1,4}%", word) and int(word[:-1]) <= MAX_PERCENT:
            state = replace(state, percent=int(word[:-1]))
        elif re.fullmatch(r"maxconn:\d{1,9}", word):
            state = replace(state, max_sessions=int(word.partition(":")[2]))
        else:
            raise ValueError(f'"{word[:40]}": expected N%, up, down, ready, drain, maint or maxconn:N')
    return state


async def ask(target: Target) -> str:
    """The agent's line, without its line end. CheckFailed when there is none; the caller bounds the time."""
    data = b""
    async with open_stream(target) as stream:
        while b"\n" not in data and len(data) <= MAX_LINE_BYTES:
            more = await stream.receive()
            if not more:
                break
            data += more
    if len(data) > MAX_LINE_BYTES:
        raise CheckFailed("answer", f"a line of more than {MAX_LINE_BYTES} bytes")
    return data.partition(b"\n")[0].decode("utf-8", "replace").strip()


Changed = Callable[[PoolState, BackendState], None]


@dataclass(slots=True)
class Agent:
    """Asks one backend's agent until cancelled. Calls `changed` when the answer differs from the last one."""

    pool: PoolState
    backend: BackendState
    state: State
    events: Events
    changed: Changed
    trouble: str = ""
    ignored: bool = False  # a max_sessions that cannot be had

    @property
    def target(self) -> Target:
        address = self.backend.address
        place = SocketAddress(address.family, address.host, self.pool.config.agent.port)
        return Target(place, HealthConfig(type="tcp"), self.pool.source)

    async def run(self) -> None:
        interval_s = self.pool.config.agent.interval
        await asyncio.sleep(random.uniform(0, min(interval_s, 1.0)))
        while True:
            await self._once()
            await asyncio.sleep(interval_s * random.uniform(0.95, 1.05))

    async def _once(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                state = parse_agent(await ask(self.target), self.backend.agent)
        except (CheckFailed, NotChecked, ValueError) as error:
            self._troubled(str(error))
        except TimeoutError:
            self._troubled(f"no answer within {TIMEOUT_S:g} s")
        else:
            self.trouble = ""
            state = self._possible(state)
            if state != self.backend.agent:
                self.backend.agent = state
                self._report(state)
                self.changed(self.pool, self.backend)

    def _possible(self, state: AgentState) -> AgentState:
        """Without a max_sessions that cannot be had, which is reported once."""
        if state.max_sessions is None or not self.state.is_in_kernel(self.pool.name):
            self.ignored = False
            return state
        if not self.ignored:
            reason = f'max_sessions {state.max_sessions} cannot be had: a listener with engine = "kernel" uses the pool'
            fields: dict[str, object] = {"pool": self.pool.name, "backend": self.backend.id, "reason": reason}
            self.events.emit("agent_ignored", fields, logging.WARNING)
        self.ignored = True
        return replace(state, max_sessions=None)

    def _troubled(self, reason: str) -> None:
        """Reported once; the agent's last answer stays in force."""
        if not self.trouble:
            fields: dict[str, object] = {"pool": self.pool.name, "backend": self.backend.id, "reason": reason}
            self.events.emit("agent_failed", fields, logging.WARNING)
        self.trouble = reason

    def _report(self, state: AgentState) -> None:
        fields: dict[str, object] = {"pool": self.pool.name, "backend": self.backend.id, "health": state.health}
        fields |= {"admin_state": state.admin_state, "percent": state.percent, "max_sessions": state.max_sessions}
        self.events.emit("agent_said", fields | {"remark": state.remark})


class Agents:
    """All agents: one for each backend of the pools that have agents."""

    def __init__(self, state: State, events: Events, changed: Changed) -> None:
        self._state = state
        self._events = events
        self._changed = changed
        self._agents: dict[str, dict[str, tuple[Agent, Target, float]]] = {}  # with what it was started for
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by the agent's identity
        self._started = False
        for pool in state.pools.values():
            self.update_pool(pool)

    def update_pool(self, pool: PoolState) -> None:
        """From now on ask the agents of the current backends of `pool`. The answers of other agents no longer count."""
        before = self._agents.pop(pool.name, {})
        if pool.config.agent.port:
            there = [(id_, one) for id_, one in pool.backends.items() if not one.unresolved]
            self._agents[pool.name] = {id_: self._of(pool, one, before.get(id_)) for id_, one in there}
        after = self._agents.get(pool.name, {})
        for id_, known in before.items():
            if after.get(id_) is not known:
                self._end(known[0])
                if id_ not in after and (backend := pool.backends.get(id_)) is not None:
                    backend.agent = AgentState()
        self._start_new(after)

    def remove_pool(self, pool: str) -> None:
        """The pool is gone."""
        for agent, _, _ in self._agents.pop(pool, {}).values():
            self._end(agent)

    def start(self) -> None:
        self._started = True
        for agents in self._agents.values():
            self._start_new(agents)

    async def stop(self) -> None:
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _of(
        self, pool: PoolState, backend: BackendState, known: tuple[Agent, Target, float] | None
    ) -> tuple[Agent, Target, float]:
        """The existing agent, if its target and interval are unchanged."""
        agent = Agent(pool, backend, self._state, self._events, self._changed)
        made = (agent, agent.target, pool.config.agent.interval)
        return known if known is not None and known[0].backend is backend and known[1:] == made[1:] else made

    def _start_new(self, agents: Mapping[str, tuple[Agent, Target, float]]) -> None:
        for agent, _, _ in agents.values() if self._started else ():
            if id(agent) not in self._tasks:
                self._tasks[id(agent)] = asyncio.create_task(agent.run())

    def _end(self, agent: Agent) -> None:
        if (task := self._tasks.pop(id(agent), None)) is not None:
            task.cancel()
