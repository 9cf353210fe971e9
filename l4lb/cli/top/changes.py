"""What keys change in the instance: what is asked before, what is sent, and what is said afterwards. Pure, but for
`do`, which the loop calls on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from l4lb.cli.shared.connection import sessions
from l4lb.cli.top.state.columns import Item
from l4lb.cli.top.state.seen import Seen
from l4lb.client import Client
from l4lb.remote import RemoteBackend, RemoteListener, RemotePool, drain

WEIGHT_MAX = 65535
_STATE_SAYS = {
    "drain": "Drain {}: it gets no new session",
    "maint": "Take {} out for maintenance: it gets no new session",
    "weight": "Give {} weight 0: it gets no new session",
}


@dataclass(frozen=True, slots=True)
class Change:
    """`question` says what would happen, and is empty for what nobody needs to be asked about; `warning` is the worst
    of it. `done` is what is said afterwards."""

    done: str
    do: Callable[[Client], object]
    question: str = ""
    warning: str = ""


def _named(item: Item) -> str:
    _, pool, id_ = item.key
    return f"{id_} of pool {pool}"


def _change_backend(item: Item, change: Callable[[RemoteBackend], object]) -> Callable[[Client], object]:
    _, pool, id_ = item.key
    return lambda client: change(RemotePool(client, pool).find(id_))


def set_state(seen: Seen, item: Item, state: str) -> Change:
    """Of a backend."""
    question, warning = _going_out(seen, item, state) if state != "ready" else ("", "")
    do = _change_backend(item, lambda backend: backend.set(admin_state=state))
    return Change(f"{_named(item)}: admin state {state}", do, question, warning)


def _going_out(seen: Seen, item: Item, how: str) -> tuple[str, str]:
    """What happens when a backend gets no new session any more."""
    _, pool_name, id_ = item.key
    backend = seen.backend(pool_name, id_) or item.data
    pool = seen.pool(pool_name) or {"backends": ()}
    usable = {one["id"] for one in pool["backends"] if one["usable"]}
    left = len(usable - {id_})
    said = (
        f"{_STATE_SAYS[how].format(_named(item))}, its {sessions(backend['sessions_active'])} may go on. "
        f"Usable backends of the pool: {len(usable)} now, {left} then."
    )
    last = "New clients of the pool will get no backend." if usable and not left else ""
    return said, last


def set_weight(seen: Seen, item: Item, weight: int) -> Change:
    question, warning = _going_out(seen, item, "weight") if weight == 0 else ("", "")
    do = _change_backend(item, lambda backend: backend.set_weight(weight))
    return Change(f"{_named(item)}: weight {weight}", do, question, warning)


def change_weight(item: Item, by: int) -> Change:
    """From what it is when the instance is asked, so that each of several quick key presses counts. Down to 1: weight 0
    takes it out, and is asked about."""

    def change(backend: RemoteBackend) -> None:
        weight = backend.weight
        if weight + by >= 1:
            backend.set_weight(min(weight + by, WEIGHT_MAX))

    return Change(f"{_named(item)}: weight {'up' if by > 0 else 'down'}", _change_backend(item, change))


def end_session(item: Item) -> Change:
    id_, data = item.key[1], item.data
    question = f"End session {id_} of client {data['client']}: both sides get a reset. {_amount(data)}".strip()
    return Change(f"session {id_} was ended", lambda client: client.kill_session(id_), question)


def _amount(session: Mapping[str, Any]) -> str:
    backend = session["backend"]
    return f"Its backend is {backend} of pool {session['pool']}." if backend else ""


def drain_listener(item: Item) -> Change:
    name = item.key[1]
    question = (
        f"Drain listener {name}: it stops accepting clients. Its {sessions(item.data['sessions_active'])} may go on "
        "for drain_timeout, and those left then are reset."
    )
    return Change(f"listener {name} drains", lambda client: drain(client, False, None, name), question)


def resume_listener(item: Item) -> Change:
    name = item.key[1]
    return Change(f"listener {name} accepts", lambda client: RemoteListener(client, name).resume())


def remove_ban(item: Item) -> Change:
    _, cidr, listener = item.key
    where = f"listener {listener}" if listener else "all listeners"
    question = f"Remove the ban of {cidr}: its clients may connect to {where} again."
    return Change(f"{cidr} is no longer banned", lambda client: client.bans.remove(cidr, listener=listener), question)
