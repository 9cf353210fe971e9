"""Routes: the rules, and the native twin held to them."""

from __future__ import annotations

import ipaddress
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb._native import routes as native
from l4lb.engine.fields import route_fields
from l4lb.model.snapshot import RouteSpec
from l4lb.net.access import united_ranges
from l4lb.routing.routes import LATER, Facts, find, target
from tests.support import hello_twin
from tests.support.hellos import alpn, message, records, server_name

ONE = (("one", 1.0),)
NAMES = ["example.com", "a.example.com", "b.a.example.com", "xample.com", "a.test", "A.Example.COM", "a.example.com."]
SOURCES = ["192.0.2.1", "192.0.2.200", "2001:db8::1", "2001:db8:1::1", ""]
POOLS = ["one", "two", "three"]
SLOTS = {"one": 0, "two": 1, "three": 2}


@pytest.mark.parametrize(
    ("wanted", "name", "taken"),
    [
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com", True),
        ("example.com", "example.com.", True),
        ("example.com", "a.example.com", False),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "b.a.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", ".example.com", False),
        ("*.example.com", "aexample.com", False),
        ("*.example.com", "", False),
    ],
)
def test_names(wanted: str, name: str, taken: bool) -> None:
    route = RouteSpec(ONE, sni=(wanted,))
    assert find([route], Facts(sni=name)) == (0 if taken else None)
    if name:
        first = records(message(server_name(name.encode())))
        assert (made([route]).find(b"", first, True)[0] == 0) == taken


def test_the_first_that_takes_a_client_decides() -> None:
    routes = [RouteSpec(ONE, sni=("a.test",), alpn=(b"h2",)), RouteSpec(ONE, sni=("a.test",)), RouteSpec(ONE)]
    assert find(routes, Facts(sni="a.test", alpn=(b"http/1.1", b"h2"))) == 0
    assert find(routes, Facts(sni="a.test", alpn=(b"http/1.1",))) == 1
    assert find(routes, Facts()) == 2
    assert find(routes[:2], Facts()) is None


def test_what_has_not_come_is_waited_for_unless_nothing_depends_on_it() -> None:
    ssh, tls, near = (
        RouteSpec(ONE, starts_with=(b"SSH-",)),
        RouteSpec(ONE, sni=("a.test",)),
        united_ranges(["10.0.0.0/8"]),
    )
    begun = Facts(first=b"SS", known=False, complete=False)
    assert find([ssh], begun) is LATER
    assert find([ssh], Facts(first=b"SX", complete=False)) is None
    assert find([tls, ssh], Facts(known=False, complete=False)) is LATER
    assert find([tls], Facts(known=False, complete=True)) is None
    far = RouteSpec(ONE, source=near, sni=("a.test",))
    assert find([far], Facts(source="192.0.2.1", known=False, complete=False)) is None


def made(routes: list[RouteSpec]) -> native.Routes:
    return native.Routes([route_fields(one, SLOTS) for one in routes])


specs = st.builds(
    RouteSpec,
    targets=st.lists(st.tuples(st.sampled_from(POOLS), st.integers(1, 100).map(float)), min_size=1, max_size=3,
                     unique_by=lambda one: one[0]).map(tuple),
    sni=st.lists(st.sampled_from(["example.com", "*.example.com", "*.a.example.com", "a.test"]), max_size=2).map(tuple),
    alpn=st.lists(st.sampled_from([b"h2", b"http/1.1", b"postgresql"]), max_size=2).map(tuple),
    starts_with=st.lists(st.sampled_from([b"SSH-", b"\x16\x03", b"GET ", b"S"]), max_size=2).map(tuple),
    source=st.none() | st.sampled_from(["192.0.2.0/25", "2001:db8::/48", "::/0"]).map(lambda one: united_ranges([one])),
)  # fmt: skip
hellos = st.builds(
    lambda name, offered: records(message((server_name(name.encode()) if name else b"") + alpn(*offered))),
    st.sampled_from(["", *NAMES]),
    st.lists(st.sampled_from([b"h2", b"http/1.1", b"h3"]), min_size=1, max_size=3),
)
firsts = st.one_of(hellos, st.sampled_from([b"", b"SSH-2.0-x", b"SX", b"GET / HTTP/1.0\r\n", b"\x16\x03\x01"]))


def facts_of(source: str, first: bytes, complete: bool) -> Facts:
    judged = hello_twin.judge(first)
    if isinstance(judged, str):
        return Facts(source, first, known=judged == "not_tls", complete=complete)
    return Facts(source, first, judged[0].decode(), tuple(judged[1]), complete=complete)


@given(
    routes=st.lists(specs, min_size=1, max_size=4),
    source=st.sampled_from(SOURCES),
    first=firsts,
    length=st.integers(0, 600),
    complete=st.booleans(),
)
def test_native_equals_python(routes: list[RouteSpec], source: str, first: bytes, length: int, complete: bool) -> None:
    first = first[:length]
    packed = ipaddress.ip_address(source).packed if source else b""
    index, slot = made(routes).find(packed, first, complete)
    expected = find(routes, facts_of(source, first, complete))
    assert {-1: None, -2: LATER}.get(index, index) == expected
    if isinstance(expected, int) and source:
        assert POOLS[slot] == target(routes[expected], source)


def test_a_split_goes_by_weight_and_sticks_to_the_source() -> None:
    def shares(**weights: float) -> dict[str, str]:
        route = RouteSpec(tuple(weights.items()))
        return {source: target(route, source) for source in sources}

    sources = [f"10.{i // 250}.{i % 250}.1" for i in range(20_000)]
    first = shares(one=95, two=5)
    counts = Counter(first.values())
    assert 0.04 < counts["two"] / len(sources) < 0.06
    assert shares(two=5, one=95) == first, "the order does not matter"
    more = shares(one=90, two=10)
    moved = [source for source in sources if first[source] != more[source]]
    assert all(more[source] == "two" for source in moved)
    assert 0.04 < len(moved) / len(sources) < 0.065
    three = shares(one=95, two=5, three=100)
    assert all(three[source] in (first[source], "three") for source in sources)


def test_one_ipv6_network_is_one_source() -> None:
    route = RouteSpec((("one", 1.0), ("two", 1.0)))
    for network in range(50):
        assert len({target(route, f"2001:db8:0:{network:x}::{host:x}") for host in range(20)}) == 1
