"""Flows in the kernel among the sessions: listed with what is known of them, and not ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from l4lb.client import Client
from l4lb.errors import AdminError
from tests.scenarios.test_kernel_listener import World, both, world
from tests.support import forking
from tests.support.namespaces import BACKEND, CLIENT, FRONT, Hosts
from tests.support.waiting import wait_until


def listed(made: World, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(made.command("session", "list", "--json", *words))
    return found


def refused(made: World, *words: str) -> str:
    """What the command says that failed."""
    done = forking.run(*words, "--admin", made.admin)
    assert done.returncode == 1, done
    return done.stderr


def test_flows_are_listed_among_the_sessions(hosts: Hosts, tmp_path: Path) -> None:
    with world(hosts, tmp_path) as made:
        answers = both(made) | both(made, 6)
        names = [f"q{number}" for number in range(5)]
        assert {made.query(name) for name in names} <= {"8001", "8002"}
        assert made.ask("proxied", port=81) == "8001"
        assert wait_until(lambda: len(listed(made)) == 40 + 40 + 5 + 1)
        (proxied,) = listed(made, "--listener", "proxied")
        assert (proxied["engine"], proxied["bytes_up"] > 0) == ("proxy", True)
        for port in ("8001", "8002"):
            count = sum(one == port and name.startswith("4-") for name, one in answers.items())
            assert len(listed(made, "--pool", "web", "--backend", f"{BACKEND[4]}:{port}")) == count
        flows = listed(made, "--listener", "web6")
        assert {(one["engine"], one["pool"], one["local"]) for one in flows} == {("kernel", "web6", f"[{FRONT[6]}]:80")}
        assert all(one["age_s"] is one["bytes_up"] is one["bytes_down"] is None for one in flows)
        first, again = (listed(made, "--source", f"{CLIENT[4]}/32", "--listener", "dns") for _ in range(2))
        assert len(first) == 5
        assert {one["id"] for one in first} == {one["id"] for one in again}
        assert listed(made, "--source", "198.51.100.1") == []
        assert len(listed(made, "--limit", "7")) == 7
        assert 'no pool "nosuch"' in refused(made, "session", "list", "--pool", "nosuch", "--listener", "web")
        assert 'no listener "nosuch"' in refused(made, "session", "list", "--listener", "nosuch")
        table = made.command("session", "list", "--listener", "dns")
        assert "in kernel" in table
        assert " - " in table


def test_flows_are_not_ended_and_that_is_said(hosts: Hosts, tmp_path: Path) -> None:
    with world(hosts, tmp_path) as made:
        answers = both(made)
        assert made.ask("proxied", port=81) == "8001"
        assert wait_until(lambda: len(listed(made, "--listener", "web")) == 40)
        flow = listed(made, "--listener", "web")[0]
        said = refused(made, "session", "kill", flow["id"], "k0000000000000000", "123")
        assert f'"{flow["id"]}" is a flow in the kernel' in said
        assert "l4lb ban add" in said
        assert 'no session "k0000000000000000"' in said
        assert 'no session "123"' in said
        with Client(made.admin) as client:
            with pytest.raises(AdminError) as error:
                client.kill_session(flow["id"])
            assert error.value.code == "conflict"
            assert client.kill_counted(source=CLIENT[4]) == {"sessions": 1, "flows_left": 40}
        assert "40 flows in the kernel, which cannot be ended" in refused(made, "session", "kill", "--pool", "web")
        assert {name: made.ask(name) for name in answers} == answers
