"""From what a hook returned to an answer for the session. Any thread: single fields of the state are read."""

from __future__ import annotations

from l4lb.control.state.state import PoolState, State
from l4lb.control.state.tags import checked
from l4lb.model.hints import did_you_mean
from l4lb.model.hooks import Accept, Answer, Ask, HookResult, Reject, SessionInfo, ToBackend, ToPool
from l4lb.model.sessions import session_id_text

_EXPECTED = "expected None, True, False, Accept, Reject, ToPool or ToBackend"


def session_info(ask: Ask) -> SessionInfo:
    return SessionInfo(
        session_id_text(ask.session_id),
        ask.listener,
        ask.pool,
        ask.client,
        ask.client_port,
        ask.local,
        ask.sni,
    )


def decided(ask: Ask, said: object, state: State) -> Answer:
    """ValueError for what cannot be carried out."""
    if said is None or said is True:
        return Answer(ask, HookResult.ACCEPTED)
    if said is False:
        return Answer(ask, HookResult.REJECTED)
    if isinstance(said, Accept):
        return Answer(ask, HookResult.ACCEPTED, "", checked(said.tags))
    if isinstance(said, Reject):
        tags = checked(said.tags)
        return Answer(ask, HookResult.REJECTED, "", checked({**tags, "reason": said.reason}) if said.reason else tags)
    if isinstance(said, ToPool):
        return Answer(ask, HookResult.POOL, _pool(said.pool, state).name, checked(said.tags))
    if isinstance(said, ToBackend):
        backend = _backend_id(said.backend, _pool(ask.pool, state))
        return Answer(ask, HookResult.BACKEND, backend, checked(said.tags))
    raise ValueError(f"returned {said!r:.80}; {_EXPECTED}")


def _pool(name: object, state: State) -> PoolState:
    pool = state.pools.get(name) if isinstance(name, str) else None
    if pool is None:
        hint = did_you_mean(name, list(state.pools)) if isinstance(name, str) else "; expected a name"
        raise ValueError(f"no such pool: {name!r:.80}{hint}")
    return pool


def _backend_id(name: object, pool: PoolState) -> str:
    """By its id, or else by its address."""
    if isinstance(name, str) and name in pool.backends:
        return name
    for one in list(pool.backends.values()):
        if one.config.address == name:
            return one.id
    known = [key for one in list(pool.backends.values()) for key in {one.id, one.config.address}]
    hint = did_you_mean(name, known) if isinstance(name, str) else "; expected an id or an address"
    raise ValueError(f'no such backend in pool "{pool.name}": {name!r:.80}{hint}')
