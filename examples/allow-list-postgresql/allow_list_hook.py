"""The module of `[hooks]`: clients whose address is in the table go on, others are refused.

A reload loads this module again, but not what it imports: the networks that were read stay.
"""

from __future__ import annotations

from allow_list import ALLOW_LIST

from l4lb.hooks import Decision, Reject, SessionInfo


async def on_session(session: SessionInfo) -> Decision:
    if session.client.startswith("unix:"):
        return None
    networks = await ALLOW_LIST.networks()
    return None if session.client in networks else Reject("not in the allow-list")
