"""What a host lets a process do, from files such as it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from l4lb.net.environment import forwarding_ports, forwarding_ports_problem


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ("32768\t60999\n", range(1024, 32768)),
        ("1024\t20000\n", range(20001, 65536)),
        ("1024\t65535\n", range(0)),
        ("1\t1000\n", range(1024, 65536)),
        ("nonsense\n", range(0)),
        (None, range(0)),
    ],
)
def test_ports_for_forwarding_are_none_of_the_hosts_own(local: str | None, expected: range, tmp_path: Path) -> None:
    file = tmp_path / "net" / "ipv4" / "ip_local_port_range"
    file.parent.mkdir(parents=True)
    if local is not None:
        file.write_text(local)
    assert list(forwarding_ports(tmp_path)) == list(expected)
    assert bool(forwarding_ports_problem(tmp_path)) is (len(expected) < 1024)
