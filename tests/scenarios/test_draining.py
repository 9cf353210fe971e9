"""Drains of a listener and of the process, by the library and by the admin API; what survives a restart."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb import ChangeError, Client, LoadBalancer
from l4lb.model.states import CloseReason
from tests.scenarios.test_admin_api import Curl
from tests.support.balancing import address_of, closed, make_config
from tests.support.peers import connect, echo, read_until_end, refused, serving
from tests.support.programs import L4lb, free_port, l4lb
from tests.support.waiting import wait_until


def said(sock: socket.socket, text: bytes = b"x") -> bool:
    """Whether the session still echoes."""
    sock.sendall(text)
    return sock.recv(100) == text


@contextlib.contextmanager
def two_listeners(backend: str) -> Iterator[LoadBalancer]:
    """web, on a port of its own, and other."""
    config = make_config([backend], listener={"bind": f"127.0.0.1:{free_port()}"})
    config.listeners["other"] = config.listeners["web"].model_copy(update={"bind": ["127.0.0.1:0"]})
    with LoadBalancer(config) as balancer:
        yield balancer


def test_a_listener_drains_and_comes_back() -> None:
    with serving(echo) as server, two_listeners(server.address) as balancer:
        web, address, other = balancer.listeners["web"], address_of(balancer), balancer.listeners["other"].addresses[0]
        with connect(address) as kept:
            assert said(kept)
            assert not web.drain(timeout=60)
            assert wait_until(lambda: refused(address))
            assert said(kept)
            with connect(other) as elsewhere:
                assert said(elsewhere)
            status = balancer.status()["listeners"][0]
            assert (status["addresses"], status["sessions_active"], status["sessions_total"]) == ([], 1, 1)
            assert status["drain"] is not None
            assert 50 < status["drain"]["remaining_s"] <= 60
            assert not status["drain"]["over"]
            assert balancer.plane.status.readiness() == ['listener "web" drains']
            balancer.reload(balancer.config.model_copy(deep=True))
            assert refused(address), "a reload of the same file leaves it"
            web.resume()
            assert balancer.plane.status.readiness() == []
            with connect(address) as new:
                assert said(new)
            assert said(kept)
        assert balancer.status()["listeners"][0]["sessions_total"] == 2, "its counters live on"
        with pytest.raises(ChangeError, match='listener "web" does not drain'):
            web.resume()


def test_what_the_deadline_finds_is_reset() -> None:
    with serving(echo) as server, two_listeners(server.address) as balancer:
        other = balancer.listeners["other"].addresses[0]
        with connect(address_of(balancer)) as cut, connect(other) as kept:
            assert said(cut)
            assert said(kept)
            assert not balancer.listeners["web"].drain(wait=True, timeout=0.1)
            assert read_until_end(cut) == (b"", True)
            assert said(kept)
            assert closed(balancer) == {CloseReason.DRAIN: 1}
            drain = balancer.status()["listeners"][0]["drain"]
            assert drain is not None
            assert (drain["over"], drain["sessions_cut"], drain["remaining_s"]) == (True, 1, 0)


def test_who_waits_hears_that_the_listener_is_empty_or_accepts_again() -> None:
    with serving(echo) as server, two_listeners(server.address) as balancer:
        web, results = balancer.listeners["web"], []

        def drain() -> None:
            try:
                results.append(web.drain(wait=True, timeout=60))
            except ChangeError as error:
                results.append(error)

        for ending in ("closed", "resumed"):
            with connect(address_of(balancer)) as client:
                assert said(client)
                thread = threading.Thread(target=drain)
                thread.start()
                assert wait_until(lambda: web.addresses == [])
                assert wait_until(lambda: balancer.status()["listeners"][0]["drain"])
                if ending == "resumed":
                    web.resume()
                    thread.join(20)
            thread.join(20)
            if ending == "closed":
                web.resume()
        assert results[0] is True
        assert "taken back" in str(results[1])


def test_a_file_that_changes_the_listener_has_it_accept() -> None:
    with serving(echo) as server, two_listeners(server.address) as balancer:
        address = address_of(balancer)
        balancer.listeners["web"].drain()
        changed = balancer.config.model_copy(deep=True)
        changed.listeners["web"] = changed.listeners["web"].model_copy(update={"max_sessions": 7})
        balancer.reload(changed)
        with connect(address) as client:
            assert said(client)


def test_a_port_that_was_taken_meanwhile_is_an_error_and_the_listener_stays_drained() -> None:
    with serving(echo) as server, two_listeners(server.address) as balancer:
        address = address_of(balancer)
        balancer.listeners["web"].drain()
        assert wait_until(lambda: refused(address))
        with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
            with pytest.raises(ChangeError, match=r"listeners\.web\.bind: .*Address already in use"):
                balancer.listeners["web"].resume()
            assert balancer.status()["listeners"][0]["drain"] is not None
        balancer.listeners["web"].resume()
        with connect(address) as client:
            assert said(client)


# ---- the process, and what survives it ----

FILE = """
[global]
workers = 1
drain_timeout = "30s"
state_file = "{directory}/state.json"
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "web"
[listeners.other]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = [{{ address = "{backend}", weight = 2 }}, "127.0.0.1:1"]
health = {{ type = "none" }}
"""


@contextlib.contextmanager
def prepared(directory: Path) -> Iterator[tuple[Curl, str]]:
    """The file for `served`, and how its instance is asked; the address that it listens on."""
    with serving(echo) as server:
        port = free_port()
        (directory / "lb.toml").write_text(FILE.format(directory=directory, port=port, backend=server.address))
        yield Curl(directory / "admin.sock"), f"127.0.0.1:{port}"


def served(directory: Path) -> contextlib.AbstractContextManager[L4lb]:
    return l4lb("serve", "-c", str(directory / "lb.toml"), "--admin", f"unix:{directory}/admin.sock")


def test_the_process_drains_and_exits(tmp_path: Path) -> None:
    with prepared(tmp_path) as (curl, address), served(tmp_path) as process:
        process.wait_for("admin listening")
        curl("DELETE", "/v1/pools/web/backends/127.0.0.1:1")
        with connect(address) as client:
            assert said(client)
            status, _, text = curl("POST", "/v1/drain", {"timeout": "20s"})
            assert (status, json.loads(text)["over"], json.loads(text)["sessions_active"]) == (200, False, 1)
            assert wait_until(lambda: refused(address))
            assert said(client)
            drain = json.loads(curl("GET", "/v1/status")[2])["drain"]
            assert 0 < drain["remaining_s"] <= 20
            assert curl("GET", "/readyz")[0] == 503
            for method, route, body in (
                ("POST", "/v1/reload", None),
                ("PUT", "/v1/pools/web/backends/127.0.0.1:1", {}),
                ("POST", "/v1/drain", {"listener": "web"}),
                ("POST", "/v1/upgrade", None),
            ):
                assert curl(method, route, body)[0] == 409, route
            assert curl("POST", "/v1/drain", {"timeout": "25s"})[0] == 200, "another deadline, no second signal"
            assert said(client)
        assert process.wait() == 0
        assert "drained sessions_left=0" in process.log


def test_who_waits_is_told_before_the_process_exits(tmp_path: Path) -> None:
    with prepared(tmp_path) as (curl, address), served(tmp_path) as process:
        process.wait_for("admin listening")
        curl("DELETE", "/v1/pools/web/backends/127.0.0.1:1")
        with connect(address) as client:
            assert said(client)
            status, _, text = curl("POST", "/v1/drain", {"timeout": 0.2, "wait": True})
            assert (status, json.loads(text)["over"], json.loads(text)["sessions_cut"]) == (200, True, 1)
            assert read_until_end(client) == (b"", True)
        assert process.wait() == 0


def test_a_signal_ends_a_drain_that_was_asked_for_at_once(tmp_path: Path) -> None:
    with prepared(tmp_path) as (curl, address), served(tmp_path) as process:
        process.wait_for("admin listening")
        curl("DELETE", "/v1/pools/web/backends/127.0.0.1:1")
        with connect(address) as client:
            assert said(client)
            assert curl("POST", "/v1/drain", {})[0] == 200
            process.wait_for("draining sessions=1 timeout_s=30")
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
            assert read_until_end(client) == (b"", True)


def change(curl: Curl) -> None:
    """One of each kind that survives."""
    addresses = [one["address"] for one in json.loads(curl("GET", "/v1/pools/web/backends")[2])]
    (real,) = set(addresses) - {"127.0.0.1:1"}
    assert curl("PUT", f"/v1/pools/web/backends/{real}", {"weight": 9, "tags": {"by": "hand"}})[0] == 200
    assert curl("PUT", "/v1/pools/web/backends/127.0.0.1:2", {"admin_state": "maint"})[0] == 201
    assert curl("DELETE", "/v1/pools/web/backends/127.0.0.1:1")[0] == 200
    assert curl("POST", "/v1/drain", {"listener": "other", "wait": True})[0] == 200


def changed(curl: Curl) -> bool:
    backends = json.loads(curl("GET", "/v1/pools/web/backends")[2])
    seen = {one["address"]: (one["weight"], one["admin_state"], one["tags"]) for one in backends}
    other = json.loads(curl("GET", "/v1/listeners")[2])[1]
    added = seen.pop("127.0.0.1:2", None)
    rest = [*seen.values()] == [(9, "ready", {"by": "hand"})]
    return rest and added == (1, "maint", {}) and other["addresses"] == [] and other["drain"]["over"]


def test_runtime_changes_survive_a_restart(tmp_path: Path) -> None:
    with prepared(tmp_path) as (curl, address):
        with served(tmp_path) as process:
            process.wait_for("admin listening")
            change(curl)
            assert changed(curl)
            process.signal(signal.SIGKILL)
            process.wait()
        with served(tmp_path) as process:
            process.wait_for("admin listening")
            assert changed(curl)
            with connect(address) as client:
                assert said(client)
            file = tmp_path / "lb.toml"
            file.write_text(file.read_text().replace("weight = 2", "weight = 3"))
            assert curl("POST", "/v1/reload")[0] == 200
            assert not changed(curl), "the file contradicts the weight"
            process.signal(signal.SIGKILL)
            process.wait()
        file.write_text(file.read_text().replace("weight = 3", "weight = 2"))
        with served(tmp_path) as process:
            process.wait_for("admin listening")
            assert not changed(curl), "what was contradicted once does not come back"


def test_runtime_changes_survive_an_upgrade(tmp_path: Path) -> None:
    with prepared(tmp_path) as (curl, _), served(tmp_path) as process:
        process.wait_for("admin listening")
        change(curl)
        new = json.loads(curl("POST", "/v1/upgrade")[2])["pid"]
        try:
            assert process.wait() == 0
            with Client(f"unix:{tmp_path}/admin.sock") as client:
                assert client.status()["pid"] == new
            assert changed(curl)
        finally:
            os.kill(new, signal.SIGKILL)


def test_a_reload_says_what_changed_or_everything_that_is_wrong(tmp_path: Path) -> None:
    with prepared(tmp_path) as (curl, _), served(tmp_path) as process:
        process.wait_for("admin listening")
        file = tmp_path / "lb.toml"
        good = file.read_text()
        more = good.replace('"127.0.0.1:1"', '"127.0.0.1:1", "127.0.0.1:3"').replace("workers = 1", "workers = 2")
        file.write_text(more)
        status, _, text = curl("POST", "/v1/reload")
        counts = {"added": 1, "removed": 0, "changed": 0}
        assert (status, json.loads(text)["backends"]) == (200, counts)
        assert json.loads(text)["needs_restart"] == ["global.workers"]
        file.write_text(good.replace("weight = 2", "weight = -2") + "polcy = 'maglev'\n")
        status, _, text = curl("POST", "/v1/reload")
        error = json.loads(text)["error"]
        assert (status, error["code"], error["path"]) == (422, "invalid", "pools.web.backends[0].weight")
        assert [line.split(":")[1] for line in error["message"].splitlines()] == ["13", "15"]
        assert len(json.loads(curl("GET", "/v1/pools/web/backends")[2])) == 3


def test_a_broken_state_file_starts_nothing_and_says_where(tmp_path: Path) -> None:
    with prepared(tmp_path):
        state = tmp_path / "state.json"
        for text, reason in {
            "{": "line 1, column 2: not JSON",
            '{"format": 1,\n "pools": 3}': "pools: ",
            '{"format": 2}': 'expected an object with "format": 1',
            "[]": 'expected an object with "format": 1',
            '{"format": 1, "pods": {}}': '"pods": unknown',
            '{"format": 1, "pools": {"web": {"a": {"settings": {"weight": 2}}}}}': "pools.web.a.settings.address: ",
            '{"format": 1, "pools": {"web": {"a": {"settings": {"address": "127.0.0.1:1"}}}}}': "web.a.settings: not",
            '{"format": 1, "pools": {"web": {"a": {"settings": {"weight": -2}, "file": {"weight": 1}}}}}': ".weight: ",
            '{"format": 1, "pools": {"web": {"a": {"settings": {"id": "b"}, "file": {"id": ""}}}}}': "settings: not of",
            '{"format": 1, "pools": {"web": {"a": {"removed": "perhaps"}}}}': "pools.web.a.removed: ",
            '{"format": 1, "drained": ["web"]}': "drained: ",
        }.items():
            state.write_text(text)
            with served(tmp_path) as process:
                assert process.wait() == 2
                assert f'lb.toml:5: global.state_file: "{state}": ' in process.log
                assert reason in process.log
            assert state.read_text() == text


def test_a_state_file_that_cannot_be_written(tmp_path: Path) -> None:
    with prepared(tmp_path) as (curl, _):
        file = tmp_path / "lb.toml"
        file.write_text(file.read_text().replace("/state.json", "/none/state.json"))
        with served(tmp_path) as process:
            assert process.wait() == 2
            assert "global.state_file: " in process.log
        (tmp_path / "none").mkdir()
        with served(tmp_path) as process:
            process.wait_for("admin listening")
            (tmp_path / "none").rmdir()
            assert curl("PUT", "/v1/pools/web/backends/127.0.0.1:2", {})[0] == 507, "it is refused"
            process.wait_for("state file failed .*would not survive a restart")
