"""Daemons that are told by programs: what these are given, and what is made of what they say. The programs are scripts
here that note their arguments; the daemons are in tests/scenarios/test_announce.py."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from l4lb.cli.addresses.engine import EngineError, run
from l4lb.cli.addresses.engines.bird import Bird
from l4lb.cli.addresses.engines.frr import Frr
from l4lb.cli.addresses.engines.gobgp import GoBgp
from l4lb.cli.addresses.hysteresis import Level
from l4lb.cli.addresses.prefixes import Routes, parse_prefixes
from tests.support import forking

ROUTES = Routes(parse_prefixes(["192.0.2.10", "2001:db8::10", "192.0.2.11"]), 100, 1000, ("65001:1", "no-export"),
                ((6, "fd00::1"),))  # fmt: skip


def script(directory: Path, body: str) -> str:
    path = directory / "program"
    path.write_text(f'#!/bin/sh\necho "$@" >>{directory}/asked\n{body}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def asked(directory: Path) -> list[str]:
    file = directory / "asked"
    lines = file.read_text().splitlines()
    file.unlink()
    return lines


def test_a_program_has_a_deadline(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"program was not done within 0\.1 s"):
        run([script(tmp_path, "exec sleep 600")], 0.1)


def test_what_a_program_says_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"program: exit code 3: no \?such thing$"):
        run([script(tmp_path, "printf 'one\\nno \\033such thing\\n\\n' >&2; exit 3")])
    with pytest.raises(EngineError, match="exit code 1: it says nothing"):
        run([script(tmp_path, "exit 1")])
    with pytest.raises(EngineError, match="/nowhere/birdc: No such file or directory"):
        run(["/nowhere/birdc"])


def test_bird_enables_before_it_disables(tmp_path: Path) -> None:
    engine = Bird(script(tmp_path, 'echo "BIRD ready."; echo "$4: $3d"'), "/run/b.ctl", ["v4", "v6"], ["d4"], 1)
    for level, expected in (
        (Level.NORMAL, ["enable v4", "enable v6", "disable d4"]),
        (Level.DRAINING, ["enable d4", "disable v4", "disable v6"]),
        (Level.WITHDRAWN, ["disable v4", "disable v6", "disable d4"]),
    ):
        engine.apply(level)
        assert asked(tmp_path) == [f"-s /run/b.ctl {one}" for one in expected]


def test_a_node_that_drains_is_withdrawn_where_bird_has_nothing_for_it(tmp_path: Path) -> None:
    Bird(script(tmp_path, 'echo "$2: already $1d"'), "", ["v4"], [], 1).apply(Level.DRAINING)
    assert asked(tmp_path) == ["disable v4"]


@pytest.mark.parametrize("said", ["Access denied", "other: enabled", "v4: disabled", "", "v4: enabled?"])
def test_bird_says_no_and_birdc_exits_with_0(tmp_path: Path, said: str) -> None:
    with pytest.raises(EngineError, match="enable v4: BIRD answers"):
        Bird(script(tmp_path, f'echo "{said}"'), "", ["v4"], [], 1).apply(Level.NORMAL)


def test_frr_is_given_all_in_one(tmp_path: Path) -> None:
    engine = Frr(script(tmp_path, ""), "/run/frr", 65001, "l4lb", ROUTES, 1)
    engine.apply(Level.DRAINING)
    assert [word.strip() for word in asked(tmp_path)[0].split("-c ")] == [
        "--vty_socket /run/frr", "configure terminal", "route-map l4lb-drain permit 10", "set metric 1000",
        "set community 65001:1 no-export", "exit", "router bgp 65001", "address-family ipv4 unicast",
        "network 192.0.2.10/32 route-map l4lb-drain", "network 192.0.2.11/32 route-map l4lb-drain", "exit",
        "address-family ipv6 unicast", "network 2001:db8::10/128 route-map l4lb-drain", "exit",
    ]  # fmt: skip


def test_frr_is_asked_one_by_one_where_some_are_not_there(tmp_path: Path) -> None:
    """vtysh stops at the first one that is not there."""
    body = 'case "$*" in *2.10*) echo "% Can\'t find static route specified"; echo line 9; exit 1;; esac'
    Frr(script(tmp_path, body), "", 65001, "l4lb", ROUTES, 1).apply(Level.WITHDRAWN)
    assert [line.count("no network") for line in asked(tmp_path)] == [3, 1, 1, 1]
    failing = Frr(script(tmp_path, "echo '% BGP is already running; AS is 65009'; exit 1"), "", 1, "l4lb", ROUTES, 1)
    with pytest.raises(EngineError, match="AS is 65009"):
        failing.apply(Level.WITHDRAWN)


def test_gobgp_is_told_of_each(tmp_path: Path) -> None:
    engine = GoBgp(script(tmp_path, ""), "127.0.0.1", 50051, ROUTES, 1)
    engine.apply(Level.NORMAL)
    begin, rest = "-u 127.0.0.1 -p 50051 global rib", "origin igp med 100 community 65001:1,no-export"
    assert asked(tmp_path) == [
        f"{begin} add -a ipv4 192.0.2.10/32 {rest}",
        f"{begin} add -a ipv6 2001:db8::10/128 nexthop fd00::1 {rest}",
        f"{begin} add -a ipv4 192.0.2.11/32 {rest}",
    ]
    engine.apply(Level.WITHDRAWN)
    assert asked(tmp_path)[1] == f"{begin} del -a ipv6 2001:db8::10/128"


@pytest.mark.parametrize(
    "arguments",
    [
        ("exabgp",),
        ("exabgp", "192.0.2.10/24"),
        ("exabgp", "192.0.2.10", "--syntax", "5"),
        ("exabgp", "192.0.2.10", "--neighbor", "router1"),
        ("exabgp", "192.0.2.10", "--refresh", "1s"),
        ("exabgp", "192.0.2.10", "--withdraw"),
        ("bird",),
        ("bird", "192.0.2.10", "--protocol", "vip"),
        ("bird", "--protocol", "vip; disable all"),
        ("bird", "--protocol", "all"),
        ("bird", "--protocol", "vip", "--protocol", "v6", "--drain-protocol", "v6"),
        ("bird", "--protocol", "vip", "--med", "5"),
        ("frr", "192.0.2.10"),
        ("frr", "192.0.2.10", "--asn", "0"),
        ("frr", "192.0.2.10", "--asn", "1", "--route-map", "a b"),
        ("frr", "192.0.2.10", "--asn", "1", "--next-hop", "10.0.0.1"),
        ("gobgp", "192.0.2.10", "--port", "0"),
        ("gobgp", "192.0.2.10", "--med", "-1"),
        ("gobgp", "192.0.2.10", "--med", str(2**32)),
        ("gobgp", "192.0.2.10", "--community", "1:1:1"),
        ("gobgp", "192.0.2.10", "--interval", "0"),
        ("gobgp", "192.0.2.10", "--fail-after", "0"),
        ("gobgp", "192.0.2.10", "--admin", "lb.example:1"),
        ("quagga", "192.0.2.10"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    done = forking.run("announce", *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("l4lb: ")
