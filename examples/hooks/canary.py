"""Canary by customer: sessions of chosen customers, by server name or address, go to the pool `canary`.

Used by lb.toml beside this file: PYTHONPATH=examples/hooks l4lb serve -c examples/hooks/lb.toml
"""

from __future__ import annotations

import ipaddress

from l4lb.hooks import Decision, SessionInfo, ToPool

NAMES = frozenset({"acme.example.com", "globex.example.com"})
NETWORKS = [ipaddress.ip_network(network) for network in ("192.0.2.0/28", "127.0.0.16/28", "2001:db8:7::/48")]


def is_chosen(session: SessionInfo) -> bool:
    if session.sni in NAMES:
        return True
    if session.client.startswith("unix:"):
        return False
    address = ipaddress.ip_address(session.client)
    return any(address in network for network in NETWORKS)


def on_session(session: SessionInfo) -> Decision:
    return ToPool("canary") if is_chosen(session) else None
