from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import pytest

from l4lb.model.snapshot import BackendSpec, ListenerSpec, PoolSpec, Selection
from l4lb.model.states import Protocol
from l4lb.net import limits
from l4lb.net.address import parse_address, resolve_backend
from l4lb.net.cpus import quota_cpus, usable_cpus
from l4lb.net.limits import DEFAULT_PORTS, PortBound, local_ports, raise_file_limit, sessions_for, smaller


def test_sessions_follow_from_descriptors() -> None:
    assert sessions_for(20_000) == 9744
    assert sessions_for(64) == 16
    assert sessions_for(1) == 1
    assert sessions_for(resource.RLIM_INFINITY) == 0


def test_the_limit_is_raised_to_the_hard_one() -> None:
    assert raise_file_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_quota(files: dict[str, str], expected: float, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert quota_cpus(tmp_path) == expected
    assert 1 <= len(usable_cpus(tmp_path)) <= max(1, expected + 1)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("32768\t60999\n", 28232),
        ("40000\t40039\n", 40),
        ("1024 1024", 1),
        *((text, DEFAULT_PORTS) for text in ("", "40000", "60999 32768", "0 100", "a b", "1 70000", "1 2 3")),
    ],
)
def test_the_port_range_is_read_and_odd_contents_are_the_default(text: str, ports: int, tmp_path: Path) -> None:
    (tmp_path / "range").write_text(text)
    assert local_ports(tmp_path / "range") == ports


def test_no_port_range_is_the_default(tmp_path: Path) -> None:
    assert local_ports(tmp_path / "nothing") == local_ports(tmp_path) == DEFAULT_PORTS
    assert local_ports() > 0


def pool(name: str, *backends: str, source: str = "", transparent: bool = False, queue_size: int = 0) -> PoolSpec:
    addresses = [resolve_backend(parse_address(one)) for one in backends]
    specs = tuple(BackendSpec(str(one), one) for one in addresses)
    place = resolve_backend(parse_address(f"{source}:0")) if source else None
    return PoolSpec(name, Selection.FIRST, specs, (), (), source=place, transparent=transparent, queue_size=queue_size)


def bound(*snapshots: list[PoolSpec], protocol: Protocol = Protocol.TCP) -> int:
    found = PortBound(100)
    for pools in snapshots:
        found.see(pools, [ListenerSpec(one.name, (), one.name, protocol) for one in pools])
    return found.sessions


ONE, TWO = "127.0.0.1:1", "127.0.0.1:2"


def test_tcp_ports_serve_once_for_each_source_and_destination() -> None:
    assert bound([pool("p", ONE)]) == 100
    assert bound([pool("p", ONE, TWO)]) == 200
    assert bound([pool("p", ONE), pool("q", ONE)]) == 100
    assert bound([pool("p", ONE), pool("q", ONE, source="127.0.0.9")]) == 200


def test_udp_ports_serve_once_for_each_source() -> None:
    assert bound([pool("p", ONE, TWO)], protocol=Protocol.UDP) == 100
    assert bound([pool("p", ONE), pool("q", TWO, source="127.0.0.9")], protocol=Protocol.UDP) == 200


def test_backends_that_come_and_go_for_years_are_not_all_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WAYS_MAX", 3)
    found = PortBound(100)
    for port in range(1, 5):
        assert found.sessions == 100 * (port - 1)
        found.see([pool("p", f"127.0.0.1:{port}")], [ListenerSpec("l", (), "p")])
    assert found.sessions == 0, "no bound"
    found.see([pool("p", ONE)], [ListenerSpec("l", (), "p")])
    assert (found.sessions, found._ways) == (0, set())


def test_what_was_there_once_counts_for_ever_since_its_sessions_may_go_on() -> None:
    assert bound([pool("p", ONE)], [pool("p", TWO)]) == 200


def test_who_waits_needs_no_port() -> None:
    assert bound([pool("p", ONE, queue_size=7)]) == 107


def test_no_bound_where_ports_are_not_what_ends_first() -> None:
    assert bound([pool("p", ONE), pool("q", "unix:/s")]) == 0
    assert bound([pool("p", ONE, transparent=True)]) == 0
    assert bound([pool("p", "127.0.0.1:0")]) == 0
    assert bound([]) == 0


def test_of_two_bounds_the_smaller_holds_and_0_is_none() -> None:
    assert [smaller(0, 0), smaller(0, 5), smaller(5, 0), smaller(5, 3)] == [0, 5, 5, 3]


def test_what_was_counted_already_counts_anew_from_another_source_and_for_another_protocol() -> None:
    one, elsewhere = pool("p", ONE, TWO), replace(pool("p"), source=resolve_backend(parse_address("127.0.0.9:0")))
    assert bound([one], [replace(elsewhere, backends=one.backends)]) == 400
    assert bound([one], [replace(one, backends=one.backends[:1])], [one]) == 200
    found = PortBound(100)
    found.see([one], [ListenerSpec("l", (), "p", Protocol.UDP)])
    found.see([replace(one, queue_size=1)], [ListenerSpec("l", (), "p", Protocol.TCP)])
    assert found.sessions == 301
