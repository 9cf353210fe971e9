"""Notes of listeners in tables."""

from __future__ import annotations

from typing import Any

from l4lb.cli.shared.listing import listener_table
from l4lb.model.states import CloseReason

LISTENER: dict[str, Any] = {
    "name": "web",
    "protocol": "tcp",
    "engine": "proxy",
    "addresses": ["127.0.0.1:80"],
    "pool": "web",
    "sessions_active": 0,
    "sessions_total": 9,
    "dropped": {},
    "in_kernel": None,
    "drain": None,
    "refusing": "",
}


def note(**closed: int) -> str:
    every = dict.fromkeys(CloseReason, 0)
    (row,) = listener_table([{**LISTENER, "closed": every | closed}]).rows
    return row.note


def test_who_was_not_served_is_in_the_note_and_nobody_else() -> None:
    assert note() == ""
    assert note(normal=5, client_abort=1, admin=2, drain=3) == ""
    assert note(denied=3, no_backend=1, normal=5) in (
        "not served: 3 denied, 1 no_backend", "not served: 1 no_backend, 3 denied"
    )  # fmt: skip
