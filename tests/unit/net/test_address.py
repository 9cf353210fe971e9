from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb.model.address import SocketAddress
from l4lb.model.snapshot import InheritedSocket
from l4lb.net.address import Address, parse_address, parse_endpoint, parse_source, resolve_backend, resolve_listener


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:80", Address("ip", "10.0.0.1", (80, 80))),
        ("[2001:DB8::1]:443", Address("ip", "2001:db8::1", (443, 443))),
        (":8080", Address("ip", "", (8080, 8080))),
        ("web-1.example.com:1", Address("ip", "web-1.example.com", (1, 1))),
        ("h:8000-8010", Address("ip", "h", (8000, 8010))),
        ("unix:/run/x.sock", Address("unix", "/run/x.sock")),
        ("unix:@name", Address("unix", "@name")),
        ("fd:web", Address("fd", "web")),
    ],
)
def test_parse(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "wrong",
    ["", "host", "host:", "host:x", "host:65536", "host:9-8", "1.2.3:80", "256.1.1.1:80", "::1:80", "[::1]", "[x]:1",
     "unix:", "unix:relative", "unix:/" + "x" * 200, "fd:", "a b:1", "-h:1", "host:80:90"],
)  # fmt: skip
def test_wrong(wrong: str) -> None:
    with pytest.raises(ValueError):
        parse_address(wrong)


def test_resolve() -> None:
    assert resolve_backend(parse_address("127.0.0.1:5")) == SocketAddress(socket.AF_INET, "127.0.0.1", 5)
    assert resolve_backend(parse_address("localhost:5")).host in ("127.0.0.1", "::1")
    assert resolve_listener(parse_address(":5")) == [SocketAddress(socket.AF_INET6, "::", 5)]
    assert len(resolve_listener(parse_address("127.0.0.1:5-9"))) == 5
    assert resolve_listener(parse_address("fd:x")) == [InheritedSocket("x")]
    with pytest.raises(ValueError, match=r"cannot resolve no-such-host\.invalid"):
        resolve_backend(parse_address("no-such-host.invalid:5"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 0)),
        ("192.0.2.1:5000", ("192.0.2.1", 5000)),
        ("2001:db8::1", ("2001:db8::1", 0)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("[2001:db8::1]:5000", ("2001:db8::1", 5000)),
    ],
)
def test_endpoints(text: str, expected: tuple[str, int]) -> None:
    assert parse_endpoint(text) == expected


@pytest.mark.parametrize(
    "text", ["", "here", "192.0.2.1:", "192.0.2.1:65536", "[::1", "[::1]x", "[::1]:", "[::1]:-1", "[]", "1:²"]
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match="expected an IP address"):
        parse_endpoint(text)


@given(st.ip_addresses(), st.integers(0, 128), st.integers(1, 65535))
def test_sources_as_operators_write_them(address: IPv4Address | IPv6Address, bits: int, port: int) -> None:
    text, version6 = str(address), isinstance(address, IPv6Address)
    network = f"{text}/{bits if version6 else bits % 33}"
    alone = address.ipv4_mapped if isinstance(address, IPv6Address) and address.ipv4_mapped else address
    assert parse_source(text) == (ip_network(alone), 0)
    assert parse_source(f"[{text}]:{port}" if version6 else f"{text}:{port}") == (ip_network(alone), port)
    assert parse_source(network) == (ip_network(network, strict=False), 0)


@pytest.mark.parametrize("text", ["192.0.2.0/33", "10/8", "::/129", "192.0.2.1:80/24", "/", "192.0.2.1/"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match="expected a network"):
        parse_source(text)
