from __future__ import annotations

import pytest

from l4lb.net.querying import server_of


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("10.0.0.53", ("10.0.0.53", 53)),
        ("10.0.0.53:5353", ("10.0.0.53", 5353)),
        ("::1", ("::1", 53)),
        ("[::1]", ("::1", 53)),
        ("[fd00::53]:5353", ("fd00::53", 5353)),
    ],
)
def test_servers(text: str, server: tuple[str, int]) -> None:
    assert server_of(text) == server


@pytest.mark.parametrize(
    "text",
    ["", "ns.example", "10.0.0.53:", "10.0.0.53:0", "10.0.0.53:65536", "10.0.0.53:x", "[::1]:-1", "[::1", "10.0.0"],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected the IP address of a name server"):
        server_of(text)
