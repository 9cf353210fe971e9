"""`l4lb events`, `config`, `pool` and `listener`, against `l4lb serve` as a process, as operators type them."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Commands
from tests.support.peers import echo, serving
from tests.support.programs import L4lb, l4lb
from tests.support.typed import Typed
from tests.support.waiting import wait_until

FILE = """
[global]
workers = 1
[admin]
bind = "{admin}"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[listeners.side]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = ["{backend}"]
health = {{ type = "none" }}
[pools.found]
health = {{ type = "none" }}
discovery = {{ type = "file", path = "{found}" }}
"""


class Instance(Commands):
    def __init__(self, file: Path, process: L4lb, backend: str) -> None:
        super().__init__(f"unix:{file.parent}/admin.sock")
        self.file = file
        self.process = process
        self.backend = backend


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    file, found = tmp_path / "lb.toml", tmp_path / "found"
    found.write_text("127.0.0.1:7\n")
    with serving(echo) as server:
        file.write_text(FILE.format(backend=server.address, found=found, admin=f"unix:{tmp_path}/admin.sock"))
        with l4lb("serve", "-c", str(file), admin=True) as process:
            process.wait_for("admin listening")
            running = Instance(file, process, server.address)
            assert wait_until(lambda: '"127.0.0.1:7"' in running.ok("status", "--json"))
            yield running


# ---- events ----


def test_events_end_with_the_latest_one_or_go_on(instance: Instance) -> None:
    instance.ok("backend", "add", "web", "127.0.0.1:9", "--admin-state", "maint")
    shown = instance.ok("events", "--pool", "web").splitlines()
    pattern = (
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info    backend set admin_state=maint pool=web backend=127\.0\.0\.1:9"
    )
    assert re.match(pattern, shown[-1]), shown
    assert all("pool=web" in line for line in shown)
    assert re.search(r'by="\S+ \(pid \d+\)"$', shown[-1]), "who did it"
    assert instance.ok("events", "--level", "error") == ""
    assert instance.ok("events", "--last", "0") == ""
    last = [json.loads(line) for line in instance.ok("events", "-n", "1", "--json").splitlines()]
    assert [(one["kind"], one["level"], one["backend"]) for one in last] == [("backend_set", "info", "127.0.0.1:9")]
    with Typed("events", "--follow", "--last", "0", columns=300, environment=instance.environment) as following:
        assert wait_until(lambda: _followed(instance, following))


def test_who_follows_is_told_when_the_instance_ends(instance: Instance) -> None:
    with Typed("events", "--follow", columns=300, environment=instance.environment) as following:
        following.wait_for("admin listening")
        instance.process.signal(signal.SIGTERM)
        code, shown = following.end()
    assert (code, "l4lb: the instance has ended the stream" in shown) == (1, True), shown
    assert "draining" in shown


def _followed(instance: Instance, following: Typed) -> bool:
    """Something happens until the reader, which may come late, hears of it."""
    instance.ok("backend", "weight", "web", "127.0.0.1:9", "2")
    instance.ok("backend", "weight", "web", "127.0.0.1:9", "3")
    return following.read(0.2) and "backend set weight=2 pool=web backend=127.0.0.1:9" in following.shown()


def test_events_of_wrong_arguments_and_of_no_instance(instance: Instance) -> None:
    assert "'debug', 'info', 'warning', 'error'" in instance.run("events", "--level", "all")[2]
    assert instance.run("events", "--last", "201")[0] == 2
    code, out, err = instance.run("events", "--admin", "unix:/none.sock")
    assert (code, out, err.startswith("l4lb: ")) == (1, "", True), err


# ---- config ----


def test_the_configuration_in_use(instance: Instance) -> None:
    whole = instance.ok("config", "show")
    assert "[pools.web]" in whole
    assert f'address = "{instance.backend}"' in whole
    assert instance.ok("config", "show", "listeners.side").startswith("[listeners.side]\n")
    assert json.loads(instance.ok("config", "show", "pools.web", "--json"))["policy"] == "round_robin"
    code, out, err = instance.run("config", "show", "pools.wbe")
    assert (code, out) == (2, "")
    assert '"wbe": no such table; there are web, found' in err


def test_how_the_file_differs_from_what_runs(instance: Instance) -> None:
    assert instance.ok("config", "diff") == "", "what discovery has found is no difference"
    instance.ok("backend", "weight", "web", instance.backend, "3")
    instance.ok("backend", "add", "web", "127.0.0.1:9")
    instance.file.write_text(
        instance.file.read_text().replace('pool = "web"\n[pools', 'pool = "web"\nmax_sessions = 5\n[pools')
        + '[pools.new]\nbackends = ["127.0.0.1:1"]\n'
    )
    code, out, err = instance.run("config", "diff")
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        f"listeners.side.max_sessions: runs with 0, {instance.file} has 5",
        f"pools.web.backends[{instance.backend}].weight: runs with 3, {instance.file} has 1",
        f"pools.web.backends[127.0.0.1:9]: runs, and is not in {instance.file}",
        f"pools.new: does not run, and is in {instance.file}",
    ]
    found = json.loads(instance.run("config", "diff", str(instance.file), "--json")[1])
    assert found[0] == {"path": "listeners.side.max_sessions", "runs": 0, "file": 5}
    assert "runs" not in found[3]
    instance.file.write_text("[pools")
    code, out, err = instance.run("config", "diff")
    assert (code, out) == (2, "")
    assert err.startswith(f"{instance.file}:1: not TOML")


# ---- pools and listeners ----


def test_pools_and_listeners(instance: Instance) -> None:
    pools = instance.ok("pool", "list").splitlines()
    assert [line.split()[:4] for line in pools] == [
        ["POOL", "POLICY", "USABLE", "BACKENDS"],
        ["web", "round_robin", "1", "1"],
        ["found", "round_robin", "1", "1"],
    ]
    assert [one["name"] for one in json.loads(instance.ok("pool", "list", "--json"))] == ["web", "found"]
    assert instance.ok("listener", "drain", "side", "--wait") == "listener side: drained, no session was left\n"
    rows = [line.split("\t") for line in instance.ok("listener", "list", "-o", "plain").splitlines()]
    assert [(row[0], row[-1]) for row in rows] == [("web", ""), ("side", "drained")]
    assert instance.ok("listener", "resume", "side") == "listener side: accepts\n"
    assert instance.run("listener", "resume", "side")[0] == 1
    assert 'no listener "none"' in instance.run("listener", "drain", "none")[2]
    assert instance.ok("listener", "drain", "side", "--dry-run").startswith(
        "dry run: listener side, with 0 sessions, would refuse new clients"
    )
    assert "drain" not in instance.ok("listener", "list")
