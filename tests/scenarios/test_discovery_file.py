"""A pool's backends from a file that is watched, with real sessions: what becomes of them at each change, reload,
upgrade and restart."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from l4lb import ConfigError
from tests.support import forking
from tests.support.balancing import address_of, make_config
from tests.support.commands import Commands
from tests.support.discovering import discovering
from tests.support.peers import connect, echo, one_answer, serving
from tests.support.programs import free_port, l4lb
from tests.support.waiting import wait_until

A, B, C = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"


def put(path: Path, text: str) -> None:
    """As a careful program does it."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)


def source(path: Path, **options: Any) -> dict[str, Any]:
    return {"type": "file", "path": str(path), **options}


def asked(address: str) -> bytes:
    with connect(address) as sock:
        sock.sendall(b"?")
        return sock.recv(100)


def test_backends_come_and_go_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "backends"
    with serving(one_answer(b"one")) as one, serving(one_answer(b"two")) as two:
        put(file, one.address)
        with discovering(source(file)) as found:
            assert found.backends == [one.address], "in the first snapshot"
            assert asked(address_of(found.balancer)) == b"one"
            put(file, f"{one.address}\n{two.address} weight=3 # the new one\n")
            found.wait_for(one.address, two.address)
            assert {asked(address_of(found.balancer)) for _ in range(8)} == {b"one", b"two"}
            assert found.balancer.pools["web"][two.address].weight == 3
            put(file, two.address)
            found.wait_for(two.address)
            assert asked(address_of(found.balancer)) == b"two"
            assert wait_until(lambda: len(found.of("discovery_changed")) == 2)
            changed = [(one["added"], one["removed"], one["changed"]) for one in found.of("discovery_changed")]
            assert changed == [(1, 0, 0), (0, 1, 1)]


def test_what_is_the_same_is_left_alone(tmp_path: Path) -> None:
    """Another order, another way to say it, the same file again: no snapshot, and counters and health go on."""
    file = tmp_path / "backends"
    with serving(echo) as server:
        put(file, f"{server.address}\n{B}\n")
        with discovering(source(file)) as found, connect(address_of(found.balancer)) as sock:
            sock.sendall(b"1")
            assert sock.recv(10) == b"1"
            version, looks = found.version, found.said["answers"]
            put(file, f"# the same\n{server.address}\n\n  {B}  # too\n")
            assert wait_until(lambda: found.said["answers"] > looks + 2)
            assert (found.version, found.heard) == (version, [])
            put(file, f"{server.address}\n{C}\n")
            found.wait_for(server.address, C)
            assert wait_until(lambda: found.said["changes"] == 1)
            assert found.version == version + 1, "one snapshot for what left and what came"
            sock.sendall(b"2")
            assert sock.recv(10) == b"2"
            assert found.balancer.stats().pools["web"].backends[server.address].sessions_total == 1


def test_sessions_of_a_removed_backend_end_by_the_pools_rule(tmp_path: Path) -> None:
    file = tmp_path / "backends"
    with serving(echo) as one, serving(echo) as two:
        put(file, one.address)
        with discovering(source(file), on_backend_removed="reset") as found:
            with connect(address_of(found.balancer)) as sock:
                sock.sendall(b"1")
                assert sock.recv(10) == b"1"
                put(file, two.address)
                found.wait_for(two.address)
                with pytest.raises(ConnectionResetError):
                    sock.recv(10)
                assert wait_until(lambda: found.of("sessions_ended"))


BROKEN = [
    ("json", '["127.0.0.1:1"', "line 1, column 15: not JSON"),
    ("json", '["127.0.0.1"]', 'backends[0]: address: "127.0.0.1": expected "host:port"'),
    ("toml", "backends = [", "not TOML"),
    ("lines", "127.0.0.1:1\n127.0.0.1:2 weight=99999", "line 2: weight: 99999: expected"),
    ("lines", "127.0.0.1:1\n127.0.0.1:2 wieght=2", 'line 2: wieght: unknown key (did you mean "weight"?)'),
    ("lines", "127.0.0.1:1\n127.0.0.1:1", 'line 2: "127.0.0.1:1": the same as '),
    ("lines", "\udcff", "not UTF-8 (byte 0)"),
]


@pytest.mark.parametrize(("format_", "text", "message"), BROKEN)
def test_a_broken_file_changes_nothing_and_says_where(tmp_path: Path, format_: str, text: str, message: str) -> None:
    file = tmp_path / "backends"
    sound = {"json": f'["{A}"]', "toml": f'backends = ["{A}"]', "lines": A}[format_]
    file.write_text(sound)
    with discovering(source(file, format=format_)) as found:
        file.write_bytes(text.encode(errors="surrogateescape"))
        assert wait_until(lambda: message in found.said["error"]), found.said
        assert found.said["error"].startswith(f"{file}: ")
        assert found.backends == [A]
        failed = found.of("discovery_failed")
        assert len(failed) == 1
        assert str(failed[0]["reason"]).endswith(": what was known before stays")
        file.write_text(sound.replace(A, B))
        found.wait_for(B)
        assert wait_until(lambda: found.said["error"] == "")
        assert len(found.of("discovery_recovered")) == 1


def test_a_file_that_is_missing_stops_neither_start_nor_reload(tmp_path: Path) -> None:
    file = tmp_path / "later" / "backends.json"
    with discovering(source(file)) as found:
        assert found.backends == []
        assert found.said["error"] == f"{file}: cannot be read: No such file or directory"
        assert found.said["answered_at"] is None
        assert found.balancer.plane.status.readiness() == ['pool "web" has no usable backend']
        with pytest.raises(ConnectionResetError), connect(address_of(found.balancer)) as sock:
            sock.recv(10)
        found.balancer.reload(make_config([A], discovery=source(file)))
        assert found.backends == [A]
        file.parent.mkdir()
        put(file, f'["{B}"]')
        found.wait_for(A, B)
        file.unlink()
        assert wait_until(lambda: "No such file" in found.said["error"])
        assert found.backends == [A, B], "a source that is down leaves its last answer"
        assert found.said["age_s"] > 0


def test_no_backend_at_all_is_not_believed_at_once(tmp_path: Path) -> None:
    file = tmp_path / "backends"
    file.write_text(f"{A}\n{B}\n")
    with discovering(source(file)) as found:
        file.write_text("")
        assert wait_until(lambda: found.said["held"] == 2)
        assert found.backends == [A, B]
        file.write_text(f"{A}\n{B}\n")
        assert wait_until(lambda: found.said["held"] == 0)
        assert found.backends == [A, B]


def test_the_hold_down(tmp_path: Path) -> None:
    file = tmp_path / "backends"
    file.write_text(f"{A}\n{B}\n{C}\n")
    with discovering(source(file, hold_down="1s")) as found:
        version = found.version
        file.write_text(f"{A}\n{C}\n")
        assert wait_until(lambda: found.said["held"] == 1)
        assert (found.backends, found.version) == ([A, B, C], version)
        found.wait_for(A, C)
        assert wait_until(lambda: found.said["held"] == 0)
        assert found.version == version + 1


def test_changes_of_the_operator_hold(tmp_path: Path) -> None:
    file = tmp_path / "backends"
    put(file, f"{A}\n{B}\n")
    with discovering(source(file), (C,)) as found:
        pool = found.balancer.pools["web"]
        pool[A].drain()
        pool.remove(B)
        put(file, f"{A}\n{B}\n{C} weight=9\n127.0.0.1:4")
        found.wait_for(A, C, "127.0.0.1:4")
        assert pool[A].admin_state == "drain"
        assert pool[C].weight == 1, "the file's own"
        put(file, B)
        found.wait_for(C)


def test_what_conflicts_is_refused_until_it_fits(tmp_path: Path) -> None:
    file = tmp_path / "backends"
    put(file, A)
    with discovering(source(file), source_address="127.0.0.1") as found:
        put(file, f"{A}\n[::1]:1\n")
        assert wait_until(lambda: "cannot be reached from source_address" in found.said["error"]), found.said
        assert found.backends == [A]
        found.balancer.reload(make_config([], discovery=source(file)))
        found.wait_for(A, "[::1]:1")
        assert wait_until(lambda: found.said["error"] == "")


def test_a_reload_begins_and_ends_sources(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text(A)
    other.write_text(f"{B}\n{C}")
    with discovering(source(one)) as found:
        config = make_config([], discovery=source(one))
        both = {"web": config.pools["web"], "more": make_config([], discovery=source(other)).pools["web"]}
        found.balancer.reload(config.model_copy(update={"pools": both}))
        assert list(found.balancer.pools["more"]) == [B, C], "when the reload returns"
        found.balancer.reload(make_config([], discovery=source(other)))
        found.wait_for(B, C)
        assert list(found.balancer.pools) == ["web"]
        found.balancer.reload(make_config([A]))
        assert (found.backends, found.said) == ([A], None)
        address = address_of(found.balancer)
        other.write_text(address)
        loop = make_config([], discovery=source(other), listener={"bind": address})
        with pytest.raises(ConfigError, match="leads back"):
            found.balancer.reload(loop)
        assert (found.backends, found.said) == ([A], None)


def test_a_link_into_another_directory_is_followed(tmp_path: Path) -> None:
    """As Kubernetes replaces the files of a ConfigMap: nothing happens to the name itself."""
    for name, backend in (("first", A), ("second", B)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "backends").write_text(backend)
    (tmp_path / "data").symlink_to("first")
    (tmp_path / "backends").symlink_to("data/backends")
    with discovering(source(tmp_path / "backends")) as found:
        assert found.backends == [A]
        (tmp_path / "next").symlink_to("second")
        (tmp_path / "next").rename(tmp_path / "data")
        found.wait_for(B)


def test_check_warns_of_a_source_that_would_have_no_answer(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    text = '[listeners.web]\nbind = "127.0.0.1:9"\npool = "web"\n[pools.web.discovery]\ntype = "{}"\n{}\n'
    for type_, option, warned in (
        ("file", f'path = "{tmp_path}/none"', True),
        ("file", f'path = "{file}"', False),
        ("exec", 'command = ["/nowhere/program"]', True),
        ("exec", 'command = ["ls"]', False),
    ):
        file.write_text(text.format(type_, option))
        done = forking.run("check", str(file))
        assert done.returncode == 0, done.stderr
        assert ("is not there, or this user may not" in done.stdout + done.stderr) is warned, done


FILE = """
[global]
workers = 1
state_file = "{directory}/state.json"
[admin]
bind = "unix:{directory}/admin.sock"
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "web"
[pools.web]
health = {{ type = "tcp", interval = "100ms", rise = 1 }}
[pools.web.discovery]
type = "file"
path = "{directory}/backends"
"""


def test_upgrade_and_restart(tmp_path: Path) -> None:
    """The next process starts with what the one before knew, even if the file is gone; after a restart only what the
    operator changed is known, and waits for the first answer."""
    backends, admin, port = tmp_path / "backends", f"unix:{tmp_path}/admin.sock", free_port()
    (tmp_path / "lb.toml").write_text(FILE.format(directory=tmp_path, port=port))

    def pool() -> Any:
        return json.loads(Commands(admin).ok("status", "web", "--json"))

    with serving(one_answer(b"one")) as one, serving(one_answer(b"two")) as two:
        put(backends, f"{one.address}\n{two.address}\n")
        with l4lb("serve", "-c", str(tmp_path / "lb.toml"), admin=True) as process:
            process.wait_for("listening")
            assert wait_until(lambda: pool()["usable"] == 2)
            Commands(admin).ok("backend", "drain", "web", two.address)
            backends.unlink()
            assert wait_until(lambda: "No such file" in pool()["discovery"]["error"])
            process.signal(signal.SIGUSR2)
            new = int(process.wait_for(r" upgraded pid=(\d+)")[1])
            assert process.wait() == 0
            assert wait_until(lambda: pool()["discovery"]["answered_at"] is None)
            shown = Commands(admin).ok("status")
            assert f"discovery by file: 0 backends: {backends}" in " ".join(shown.split()), shown
            found = {item["id"]: item["admin_state"] for item in pool()["backends"]}
            assert found == {one.address: "ready", two.address: "drain"}
            assert asked(f"127.0.0.1:{port}") == b"one"
            os.kill(new, signal.SIGTERM)
            assert wait_until(lambda: not Path(f"/proc/{new}").exists())
        with l4lb("serve", "-c", str(tmp_path / "lb.toml"), admin=True) as process:
            process.wait_for("listening")
            assert pool()["backends"] == []
            put(backends, f"{one.address}\n{two.address}\n")
            assert wait_until(lambda: len(pool()["backends"]) == 2)
            assert {item["id"]: item["admin_state"] for item in pool()["backends"]} == found


def test_an_upgrade_to_another_source(tmp_path: Path) -> None:
    """It may answer while the new process, which knows what the old one's source said, is still starting."""
    one, other, admin, config = (
        tmp_path / "backends",
        tmp_path / "other",
        f"unix:{tmp_path}/admin.sock",
        tmp_path / "lb.toml",
    )
    config.write_text(FILE.format(directory=tmp_path, port=free_port()))
    one.write_text(f"{A}\n{B}\n")
    other.write_text(f"{B}\n{C}\n")
    with l4lb("serve", "-c", str(config), admin=True) as process:
        process.wait_for("listening")
        config.write_text(config.read_text().replace(str(one), str(other)))
        process.signal(signal.SIGUSR2)
        process.wait_for(r" upgraded pid=(\d+)")
        assert process.wait() == 0

        def backends() -> list[str]:
            said = Commands(admin).ok("status", "web", "--json")
            return [item["id"] for item in json.loads(said)["backends"]]

        assert wait_until(lambda: backends() == [B, C]), backends()
