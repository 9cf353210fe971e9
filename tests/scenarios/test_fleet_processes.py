"""Three processes of ``l4lb serve`` that belong to one fleet: what operators, scripts and routers see of them."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l4lb import AdminError, Client
from tests.support import forking
from tests.support.etcd import Etcd, etcd
from tests.support.fleet import BACKENDS, PREFIX, Served, config_text, created, put_config, serving, url
from tests.support.programs import run, signal_to
from tests.support.servers import certificate
from tests.support.waiting import wait_until

A, B, C = *BACKENDS, "127.0.0.1:3"


@contextlib.contextmanager
def three(server: Etcd, directory: Path) -> Iterator[list[Served]]:
    put_config(server, config_text())
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(serving(server, name, directory)) for name in ("a", "b", "c")]
        assert wait_until(lambda: all(alive(one) == ["a", "b", "c"] for one in found))
        yield found


def alive(one: Served) -> list[str]:
    with Client(one.admin) as client:
        return [node["node"] for node in client.fleet()["nodes"]]


def ready(one: Served) -> tuple[int, str]:
    text, _, status = curl(one, "/readyz", "-w", "\\n%{http_code}").rpartition("\n")
    return int(status), text


def curl(one: Served, path: str, *more: str) -> str:
    return run("curl", "-s", *more, "--unix-socket", one.admin.removeprefix("unix:"), f"http://l4lb{path}")


def test_all_go_by_what_is_put_and_say_so(tmp_path: Path) -> None:
    with etcd() as server, three(server, tmp_path) as nodes:
        file = tmp_path / "lb.toml"
        file.write_text(config_text(A, B, C))
        done = forking.run("fleet", "config", "put", str(file), "--wait", "--fleet", url(server))
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "every live node goes by generation 2")
        for one in nodes:
            assert one.known["generation"] == 2
            assert (one.known["connected"], one.known["error"], one.known["draining"]) == (True, "", False)
        with Client(nodes[0].admin) as client:
            found = client.fleet()
            assert [node["digests"] for node in found["nodes"]] == [found["nodes"][0]["digests"]] * 3
            assert found["nodes"][2]["backends"] == {"web": {"usable": 3, "total": 3}}
            assert found["node"] == "a"
        text = curl(nodes[0], "/metrics")
        for line in ("nodes 3.0", "generation 2.0", "newest_generation 2.0", "connected 1.0", "draining 0.0"):
            assert f"\nl4lb_fleet_{line}\n" in text
        assert re.search(r"\nl4lb_fleet_contact_age_seconds [0-9.]+\n", text)
        shown = forking.run("status", "--admin", nodes[1].admin).stdout
        assert f"node b of {PREFIX}/, generation 2" in shown


def test_one_that_is_killed_is_forgotten_after_its_ttl_and_one_that_ends_at_once(tmp_path: Path) -> None:
    with etcd() as server, three(server, tmp_path) as nodes:
        nodes[2].process.signal(signal.SIGKILL)
        assert "c" in alive(nodes[0])
        assert wait_until(lambda: alive(nodes[0]) == ["a", "b"])
        nodes[1].process.signal(signal.SIGTERM)
        assert nodes[1].process.wait() == 0
        assert server.ctl("get", "--prefix", f"{PREFIX}/nodes/b") == ""
        assert wait_until(lambda: alive(nodes[0]) == ["a"])


def test_a_reload_reads_etcd_again(tmp_path: Path) -> None:
    with etcd() as server:
        put_config(server, config_text())
        with serving(server, "a", tmp_path, timeout="500ms") as one, Client(one.admin) as client:
            assert client.reload().backends == (0, 0, 0)
            put_config(server, config_text(more="polcy = 1"))
            assert wait_until(lambda: "generation 2: " in one.known["error"])
            with pytest.raises(AdminError, match="polcy"):
                client.reload()
            one.process.signal(signal.SIGHUP)
            assert wait_until(lambda: len(re.findall("fleet config refused", one.process.log)) == 3)
            server.stop()
            assert wait_until(lambda: not one.known["connected"])
            with pytest.raises(AdminError, match="cannot be read: http"):
                client.reload()
            assert one.known["generation"] == 1


def test_an_upgrade_keeps_the_registration(tmp_path: Path) -> None:
    with etcd() as server:
        put_config(server, config_text())
        with serving(server, "a", tmp_path) as one, serving(server, "b", tmp_path) as other:
            assert record(other, "a") is not None
            made = created(server, "a")
            one.process.signal(signal.SIGUSR2)
            pid = int(one.process.wait_for(r" upgraded pid=(\d+)")[1])
            assert wait_until(lambda: (record(other, "a") or {"pid": 0})["pid"] == pid)
            assert one.process.wait() == 0
            put_config(server, config_text(A, C))
            assert wait_until(lambda: (record(other, "a") or {"generation": 0})["generation"] == 2)
            assert created(server, "a") == made, "the key never went"
            signal_to(pid, signal.SIGTERM, url(server))
            assert wait_until(lambda: record(other, "a") is None)


def record(one: Served, name: str) -> Any:
    with Client(one.admin) as client:
        return next((node for node in client.fleet()["nodes"] if node["node"] == name), None)


def test_a_drained_node_says_so_to_routers(tmp_path: Path) -> None:
    with etcd() as server:
        put_config(server, config_text())
        with serving(server, "a", tmp_path) as one:
            assert ready(one)[0] == 200
            assert forking.run("fleet", "drain", "a", "--fleet", url(server)).returncode == 0
            assert wait_until(lambda: ready(one)[0] == 503)
            assert 'node \\"a\\" is drained' in ready(one)[1]
            assert one.known["draining"]
            server.stop()
            assert wait_until(lambda: not one.known["connected"])
            assert ready(one)[0] == 503
            server.start()
            assert forking.run("fleet", "resume", "a", "--fleet", url(server)).returncode == 0
            assert wait_until(lambda: ready(one)[0] == 200)


def test_an_upgrade_keeps_the_drain_and_a_failed_one_the_registration(tmp_path: Path) -> None:
    """At the upgrade etcd is away: the new process starts with the copy, and is told what the old one knew."""
    with etcd() as server:
        put_config(server, config_text())
        copy = tmp_path / "copy"
        with serving(server, "a", tmp_path, cache=copy, timeout="500ms") as one:
            made = created(server, "a")
            assert forking.run("fleet", "drain", "a", "--fleet", url(server)).returncode == 0
            assert wait_until(lambda: ready(one)[0] == 503)
            assert wait_until(copy.exists)
            kept = copy.read_text()
            server.stop()
            copy.write_text("broken")
            one.process.signal(signal.SIGUSR2)
            one.process.wait_for("upgrade failed reason=.*the copy on this host")
            copy.write_text(kept)
            one.process.signal(signal.SIGUSR2)
            pid = int(one.process.wait_for(r" upgraded pid=(\d+)")[1])
            assert one.process.wait() == 0
            assert ready(one)[0] == 503
            server.start()
            assert wait_until(lambda: (record(one, "a") or {"pid": 0})["pid"] == pid)
            assert created(server, "a") == made
            server.stop()
            server.start()
            server.ctl("del", f"{PREFIX}/drain/a")
            assert wait_until(lambda: ready(one)[0] == 200)
            signal_to(pid, signal.SIGTERM, url(server))
            assert wait_until(lambda: server.ctl("get", f"{PREFIX}/nodes/a") == "")


def test_with_a_password_over_tls(tmp_path: Path) -> None:
    tls = certificate(tmp_path, "localhost")
    password = tmp_path / "password"
    password.write_text("secret\n")
    with etcd(tls) as server:
        put_config(server, config_text())
        for command in (
            "user add root:other", "user grant-role root root", "role add l4lb",
            f"role grant-permission l4lb --prefix=true readwrite {PREFIX}/",
            "user add l4lb:secret", "user grant-role l4lb l4lb", "auth enable",
        ):  # fmt: skip
            server.ctl(*command.split())
        server.login = "root:other"
        options = {"ca_file": tls[0], "user": "l4lb", "password_file": password}
        with serving(server, "a", tmp_path, **options) as one:
            put_config(server, config_text(C))
            assert wait_until(lambda: one.known["generation"] == 2)
            assert wait_until(lambda: not forking.run("fleet", "status", "--fleet", url(server, **options)).returncode)
            assert "secret" not in one.process.log + str(one.status)
            one.process.signal(signal.SIGTERM)
            assert one.process.wait() == 0
            assert server.ctl("get", f"{PREFIX}/nodes/a") == ""
        refused = forking.run("check", url(server, ca_file=tls[0]))
        assert refused.returncode == 2
        assert "user name is empty" in refused.stderr
        assert forking.run("check", url(server, **options)).stdout.endswith("ok (1 listeners, 1 pools, 1 backends)\n")


def test_what_is_wrong_on_the_command_line() -> None:
    for arguments, reason in (
        (["-c", "etcd://127.0.0.1:1"], "the prefix of the keys is missing"),
        (["-c", "etcd://127.0.0.1:1/l4lb?timeout=1s", "--node", "a/b"], '"a/b": expected up to 63 letters'),
        (["-c", "lb.toml", "--node", "a"], "--node goes with a configuration in etcd"),
        (["-c", "etcd://127.0.0.1:1/l4lb?timeout=300ms"], "/l4lb/config: cannot be read: http://127.0.0.1:1: "),
    ):
        done = forking.run("serve", *arguments)
        assert done.returncode == 2
        assert reason in done.stderr, done.stderr
