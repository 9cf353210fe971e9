"""What `l4lb status` and the lists print: in a terminal of 80 columns, in a pipe, for scripts, again and again."""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import forking
from tests.support.peers import echo, serving
from tests.support.programs import l4lb
from tests.support.typed import Typed, in_terminal
from tests.support.waiting import wait_until

POOLS, BACKENDS = 50, 20
FILE = """
[global]
workers = 1
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
health = {{ type = "tcp", interval = "200ms", fall = 1 }}
[[pools.web.backends]]
address = "{backend}"
[[pools.web.backends]]
id = "refuses"
address = "127.0.0.1:1"
[[pools.web.backends]]
id = "second"
address = "{backend}"
priority = 1
[[pools.web.backends]]
id = "nothing"
address = "{backend}"
weight = 0
[[pools.web.backends]]
id = "maintained"
address = "{backend}"
admin_state = "maint"
[pools.gone]
health = {{ type = "tcp", interval = "200ms", fall = 1 }}
backends = ["[::1]:1"]
"""


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], str]]:
    """The environment for commands that ask it, and the backend that is up."""
    directory = tmp_path_factory.mktemp("tables")
    with serving(echo) as server:
        admin = f"unix:{directory}/admin.sock"
        (directory / "lb.toml").write_text(FILE.format(backend=server.address))
        with l4lb("serve", "-c", str(directory / "lb.toml"), "--admin", admin) as process:
            process.wait_for("admin listening")
            environment = {"L4LB_ADMIN": admin}
            assert wait_until(lambda: "unknown" not in run(environment, "status"))
            yield environment, server.address


def run(environment: dict[str, str], *arguments: str) -> str:
    done = forking.run(*arguments, environment=environment)
    assert (done.returncode, done.stderr) == (0, ""), (arguments, done)
    return done.stdout


def line_of(text: str, *words: str) -> str:
    found = [line for line in text.splitlines() if all(word in line.split() for word in words)]
    assert len(found) == 1, (words, text)
    return found[0]


def test_in_a_pipe_a_backend_is_a_line_that_says_why(instance: tuple[dict[str, str], str]) -> None:
    environment, address = instance
    shown = run(environment, "status")
    assert shown.isascii(), "nothing is drawn"
    assert re.search(
        r"down .*no new sessions: down for \d+\w+ \(connect: connection refused\)", line_of(shown, "web", "refuses")
    )
    assert line_of(shown, "web", "second", address).endswith("standby: priority 1: 0 goes first")
    assert line_of(shown, "web", "nothing").endswith("no new sessions: weight 0")
    assert line_of(shown, "web", "maintained").endswith("no new sessions: admin state maint")
    assert line_of(shown, "gone", "round_robin").endswith("no usable backend")
    assert shown.splitlines()[-2:] == [
        "pools without a usable backend: 1 of 2: gone",
        "backends that should get new sessions and do not: 2 of 6 (see --unhealthy)",
    ]


def test_a_terminal_of_80_columns_is_wide_enough(instance: tuple[dict[str, str], str]) -> None:
    environment, _ = instance
    for arguments in (("status",), ("status", "web"), ("backend", "list", "web"), ("status", "--unhealthy")):
        shown = in_terminal(*arguments, environment=environment)
        assert max(map(len, shown.splitlines())) <= 80, shown
        assert "refuses" in shown
        assert "\n      no new sessions: down for" in shown
    assert "ZONE" not in in_terminal("status", environment=environment)
    assert "CONNECT FAILURES" in in_terminal("status", "-o", "wide", environment=environment)
    assert "CONNECT FAILURES" in in_terminal("status", columns=250, environment=environment)


def test_unhealthy_summary_and_scripts(instance: tuple[dict[str, str], str]) -> None:
    environment, _ = instance
    out = {line.split()[1] for line in run(environment, "status", "--unhealthy").splitlines()[1:] if "  no new" in line}
    assert out == {"refuses", "nothing", "maintained", "[::1]:1"}
    assert "127.0.0.1:1" not in run(environment, "status", "--summary")
    rows = [line.split("\t") for line in run(environment, "status", "-o", "plain").splitlines()]
    assert [row[:3] for row in rows if row[0] == "gone"] == [["gone", "[::1]:1", "[::1]:1"]]
    assert len(rows) == 6
    assert len({len(row) for row in rows}) == 1
    everything = json.loads(run(environment, "status", "-o", "json"))
    assert everything.keys() == json.loads(run(environment, "status", "--json")).keys()
    assert [one["name"] for one in everything["pools"]] == ["web", "gone"]
    for arguments, said in (
        (("--json", "-o", "wide"), "goes without --json"),
        (("--unhealthy", "--summary"), "--unhealthy shows backends"),
        (("--unhealthy", "--json"), "JSON has all of it"),
        (("--every", "1ms"), "at least 100ms"),
        (("-o", "xml"), "'table', 'wide', 'plain', 'json'"),
    ):
        done = forking.run("status", *arguments, environment=environment)
        assert (done.returncode, said in done.stderr) == (2, True), done


@pytest.mark.parametrize("form", ["table", "wide"])
def test_watch_shows_it_again_until_it_is_interrupted(instance: tuple[dict[str, str], str], form: str) -> None:
    environment, _ = instance
    with Typed("status", "--every", "200ms", "-o", form, lines=12, environment=environment) as terminal:
        terminal.wait_for("lines more")
        while terminal.shown().count("\033[2J") < 3:
            assert terminal.read()
        terminal.process.send_signal(signal.SIGINT)
        code, shown = terminal.end()
    assert code == 130
    last = shown.split("\033[2J\033[3J")[2]
    rows = sum(max(math.ceil(len(line) / 80), 1) for line in last.splitlines())
    assert rows <= 12, "the first lines are those in sight"
    assert last.startswith("l4lb ")


def test_fifty_pools_of_twenty(tmp_path: Path) -> None:
    """One line for each in the summary, and one for each backend, with its pool: for grep."""
    tables = [
        f'[pools.pool-{pool:02}]\nhealth = {{ type = "none" }}\nbackends = ['
        + ", ".join(f'"10.0.{pool}.{number}:8443"' for number in range(1, BACKENDS + 1))
        + "]\n"
        for pool in range(POOLS)
    ]
    file = tmp_path / "lb.toml"
    file.write_text('[listeners.web]\nbind = "127.0.0.1:0"\npool = "pool-00"\n' + "".join(tables))
    environment = {"L4LB_ADMIN": f"unix:{tmp_path}/admin.sock"}
    with l4lb("serve", "-c", str(file), "--workers", "1", "--admin", environment["L4LB_ADMIN"]) as process:
        process.wait_for("admin listening")
        summary = in_terminal("status", "--summary", environment=environment)
        assert max(map(len, summary.splitlines())) <= 80
        assert len(re.findall("^pool-", summary, re.MULTILINE)) == POOLS
        shown = run(environment, "status")
        assert len(re.findall(r"^pool-\d\d +10\.0\.", shown, re.MULTILINE)) == POOLS * BACKENDS
        assert line_of(shown, "pool-49", "10.0.49.20:8443")
