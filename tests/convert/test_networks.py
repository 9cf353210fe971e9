"""Lists in which the longest prefix decides let the same clients in as rules of which the first decides."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from l4lb.config.options.access import Access
from l4lb.convert.drafting.draft import Place
from l4lb.convert.drafting.networks import Rule, lists_of, network_of

HERE = Place("file", 1)
NETWORKS = ["0.0.0.0/0", "::/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.1.1.1", "10.2.0.0/16", "2001:db8::/32"]
CLIENTS = ["10.1.1.1", "10.1.1.2", "10.1.2.1", "10.2.0.1", "10.3.0.1", "192.0.2.1", "2001:db8::1", "2001:db9::1"]


def first_match(rules: list[tuple[str, bool]], client: str, rest: bool) -> bool:
    address = ipaddress.ip_address(client)
    return next((allow for network, allow in rules if address in network_of(network)), rest)


def longest_prefix(allow: list[str], deny: list[str], client: str) -> bool:
    """As lb.toml says: the longest prefix that matches decides, deny wins a tie; else whom allow names."""
    address = ipaddress.ip_address(client)
    found = [(network_of(text).prefixlen, wins) for wins, texts in enumerate((allow, deny)) for text in texts
             if address in network_of(text)]  # fmt: skip
    return not max(found)[1] if found else not allow


@given(st.lists(st.tuples(st.sampled_from(NETWORKS), st.booleans()), max_size=8), st.booleans())
def test_the_same_clients_are_let_in(rules: list[tuple[str, bool]], rest: bool) -> None:
    allow, deny = lists_of([Rule(network_of(network), one, HERE) for network, one in rules], rest)
    Access.of(allow, deny)
    for client in CLIENTS:
        assert longest_prefix(allow, deny, client) == first_match(rules, client, rest), (client, allow, deny)
