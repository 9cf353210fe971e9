"""``l4lb fleet`` as operators type it, on a real etcd and nodes that go by it."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support import forking
from tests.support.etcd import Etcd, etcd
from tests.support.fleet import BACKENDS, PREFIX, config_text, node, nodes, put_config, url
from tests.support.peers import connect, echo, serving
from tests.support.waiting import wait_until

A, B, C = *BACKENDS, "127.0.0.1:3"


def run(server: Etcd, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    done = forking.run("fleet", *arguments, environment={"L4LB_FLEET": url(server, timeout="5s")})
    return done.returncode, done.stdout, done.stderr


def ok(server: Etcd, *arguments: str) -> str:
    code, out, err = run(server, *arguments)
    assert code == 0, (arguments, out, err)
    return out


def said(server: Etcd) -> Any:
    return json.loads(run(server, "status", "--json")[1])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lb.toml"


def put(server: Etcd, file: Path, text: str, *arguments: str) -> tuple[int, str, str]:
    file.write_text(text)
    return run(server, "config", "put", str(file), *arguments)


def test_a_configuration_is_put_changed_and_rolled_back(file: Path) -> None:
    with etcd() as server:
        assert put(server, file, config_text(), "--comment", "the first")[:2] == (0, "generation 1 was put\n")
        assert ok(server, "config", "show") == config_text()
        with nodes(server, "a", "b", "c") as three:
            code, out, _ = put(server, file, config_text(A, C), "--wait")
            assert (code, out) == (0, "generation 2 was put\nevery live node goes by generation 2\n")
            assert [one.backends for one in three] == [[A, C]] * 3
            assert put(server, file, config_text(A, C))[1] == "generation 2 has this text already: nothing was put\n"
            assert ok(server, "config", "show", "1") == config_text()
            shown = ok(server, "config", "diff")
            assert "--- generation 1\n+++ generation 2\n" in shown
            assert f'-backends = [{{address = "{A}"}}, {{address = "{B}"}}]' in shown
            assert ok(server, "config", "rollback", "--wait").startswith("generation 3 was put\n")
            assert [one.backends for one in three] == [[A, B]] * 3
            entries = json.loads(ok(server, "config", "history", "--json"))
            assert [(one["generation"], one["comment"]) for one in entries] == [
                (3, "rollback to generation 1"),
                (2, ""),
                (1, "the first"),
            ]
            assert all("@" in one["by"] for one in entries)
            assert re.search(r"3 .*rollback to generation 1", ok(server, "config", "history"))
            assert ok(server, "config", "rollback", "2") == "generation 4 was put\n"
            assert run(server, "config", "rollback", "9")[0] == 1
            assert "no generation 9; there are 1, 2, 3, 4" in run(server, "config", "show", "9")[2]


def test_one_that_is_wrong_is_refused_with_every_error(file: Path) -> None:
    with etcd() as server:
        put_config(server, config_text())
        code, out, err = put(server, file, config_text(more="polcy = 1\nretries = -1"))
        assert (code, out) == (2, "")
        assert re.search(rf"{file}:\d+: pools.web.polcy: .*\n{file}:\d+: pools.web.retries: ", err)
        assert put(server, file, "[pools", "--wait")[0] == 2
        assert ok(server, "config", "show") == config_text()
        code, _, err = run(server, "config", "put", str(file.with_name("none")))
        assert (code, err) == (2, f"{file.with_name('none')}: cannot be read: No such file or directory\n")


def test_what_somebody_else_put_meanwhile_is_not_overwritten(file: Path) -> None:
    """The file is a pipe: it is read after the version that is to be replaced, and not before it has a writer."""
    with etcd() as server:
        put_config(server, config_text())
        os.mkfifo(file)
        results: list[tuple[int, str, str]] = []
        putting = threading.Thread(target=lambda: results.append(run(server, "config", "put", f"{file}")))
        with open(os.open(file, os.O_RDWR), "w") as pipe:
            putting.start()
            assert wait_until(lambda: _readers(file) > 1)
            put_config(server, config_text(C))
            pipe.write(config_text(A))
        putting.join()
        assert results == [(1, "", "l4lb: somebody else has put a configuration meanwhile: nothing was put\n")]
        assert ok(server, "config", "show") == config_text(C)


def _readers(file: Path) -> int:
    """How many descriptors of any process are open at it."""
    count = 0
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            count += link.readlink() == file
        except OSError:
            continue
    return count


def test_a_node_that_cannot_go_by_it_is_named(file: Path) -> None:
    """Its error is of its host: the port is in use there."""
    with etcd() as server, serving(echo) as other:
        put_config(server, config_text())
        with nodes(server, "a", "b"):
            text = config_text().replace("127.0.0.1:0", other.address)
            code, out, err = put(server, file, text, "--wait")
            assert (code, out) == (1, "generation 2 was put\n")
            assert re.search(r"l4lb: node [ab] does not go by generation 2: generation 2: .*in use", err), err
            code, out, err = run(server, "status")
            assert code == 1
            assert "1, not 2" in out
            assert "node a is behind: generation 2: " in err
            found = said(server)
            assert found["generation"] == 2
            assert [(one["node"], one["generation"], one["newest"]) for one in found["nodes"]] == [
                ("a", 1, 2),
                ("b", 1, 2),
            ]
            assert len(found["problems"]) == 2
            assert ok(server, "config", "rollback", "--wait").endswith("goes by generation 3\n")
            assert wait_until(lambda: run(server, "status")[0] == 0)


def test_the_history_ends_after_a_hundred_and_has_what_others_put(file: Path) -> None:
    with etcd() as server:
        for number in range(3):
            put_config(server, config_text(f"127.0.0.1:{number + 1}"))
        assert put(server, file, config_text())[0] == 0
        entries = json.loads(ok(server, "config", "history", "--json"))
        assert [(one["generation"], one["comment"]) for one in entries] == [(4, ""), (3, "put without l4lb")]
        for number in range(97):
            put_config(server, config_text(f"127.0.0.1:{number + 1}"))
        values = {f"{PREFIX}/history/{number:08d}": "{}" for number in range(5, 102)}
        server.put_many(values)
        assert put(server, file, config_text())[1] == "generation 102 was put\n"
        keys = server.ctl("get", "--prefix", f"{PREFIX}/history/", "--keys-only").split()
        assert keys[0].endswith("/00000003")
        assert keys[-1].endswith("/00000102")
        assert len(keys) == 100
        shown = [one["generation"] for one in json.loads(ok(server, "config", "history", "--json"))]
        assert shown == [102, 4, 3], "others' values that are none are left out"
        assert "00000005: at: Field required" in run(server, "config", "show", "5")[2]


def test_a_node_is_drained_until_it_resumes(file: Path) -> None:
    with etcd() as server, serving(echo) as backend:
        put_config(server, config_text(backend.address))
        with nodes(server, "a", "b") as both:
            first = both[0].balancer
            assert 'no node "x" is alive; there are a, b' in run(server, "drain", "x")[2]
            with connect(first.listeners["web"].addresses[0]) as client:
                client.sendall(b"before")
                assert client.recv(100) == b"before"
                code, _, err = run(server, "drain", "a", "--wait", "--timeout", "1s")
                assert code == 1
                assert "l4lb: node a: 1 session left, after 1 s" in err
                assert wait_until(lambda: first.plane.status.readiness())
                assert first.plane.status.readiness() == ['node "a" is drained: `l4lb fleet resume a` ends that']
                assert both[1].balancer.plane.status.readiness() == []
                client.sendall(b"goes on")
                assert client.recv(100) == b"goes on"
            with connect(first.listeners["web"].addresses[0]) as late:
                late.sendall(b"late")
                assert late.recv(100) == b"late", "routers decide, clients are never turned away"
            assert ok(server, "drain", "a", "--wait") == "node a: drained, no session is left\n"
            assert re.search(r"a .*running, drains", run(server, "status")[1])
        with nodes(server, "a", "b") as both:
            first = both[0].balancer
            assert wait_until(lambda: first.plane.status.readiness()), "it survives a restart"
            assert ok(server, "resume", "a") == "node a: no longer drained\n"
            assert wait_until(lambda: not first.plane.status.readiness())
            assert [event["node"] for event in both[0].of("fleet_node_resumes")] == ["a"]
            assert 'node "a" is not drained' in run(server, "resume", "a")[2]


def test_what_differs_between_nodes_is_named() -> None:
    with etcd() as server:
        put_config(server, config_text())
        with nodes(server, "a", "b", "c") as three:
            assert wait_until(lambda: run(server, "status")[0] == 0)
            three[1].balancer.pools["web"][A].maint()
            assert wait_until(lambda: said(server)["problems"] == ["pool web: the tables of a, c and b differ"])
            code, out, _ = run(server, "status")
            assert code == 1
            assert re.search(r"b .*differ: web .*web 1/2", out), out
            server.put(f"{PREFIX}/nodes/x", "[1]")
            server.put(f"{PREFIX}/drain/gone", "")
            found = said(server)
            assert any(line.startswith("key nodes/x: ") for line in found["problems"])
            assert found["drained_absent"] == ["gone"]


def test_what_is_no_text_is_replaced(file: Path) -> None:
    with etcd() as server:
        put_config(server, config_text())
        with node(server, "a") as one:
            server.ctl("put", f"{PREFIX}/config", "\udcff")
            assert wait_until(lambda: one.known.refused == "generation 2: not UTF-8 (byte 0)"), one.known
            assert put(server, file, config_text(C), "--wait")[0] == 0
            assert one.backends == [C]
            assert ok(server, "config", "show", "2") == "\ufffd"


def completed(where: str, words: str) -> list[str]:
    """As bash would ask."""
    count = str(len(words.split(" ")) - 1)
    more = {"L4LB_FLEET": where, "_L4LB_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": count}
    done = forking.run(environment=more)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.removeprefix("plain,") for line in done.stdout.split()]


def test_a_shell_completes_the_names_of_nodes() -> None:
    with etcd() as server:
        put_config(server, config_text())
        with nodes(server, "lb1", "lb2", "other"):
            where = url(server)  # which has a second to answer
            assert wait_until(lambda: completed(where, "l4lb fleet drain ") == ["lb1", "lb2", "other"])
            assert wait_until(lambda: completed(where, "l4lb fleet resume lb") == ["lb1", "lb2"])
            server.stop()
            assert completed(url(server), "l4lb fleet drain ") == []
    assert completed("nonsense", "l4lb fleet drain ") == []


def test_without_etcd_and_with_a_wrong_url() -> None:
    with etcd() as server:
        server.stop()
        code, _, err = run(server, "status")
        assert code == 1
        assert re.match(r"l4lb: etcd://127.0.0.1:\d+/l4lb/test: etcd does not answer: http", err)
    done = forking.run("fleet", "status", "--fleet", "etcd://host")
    assert done.returncode == 2
    assert "the prefix of the keys is missing" in done.stderr
    assert forking.run("fleet", "status").returncode == 2


def test_a_configuration_that_is_too_large_for_etcd(file: Path) -> None:
    with etcd() as server, node_of(server):
        code, _, err = put(server, file, config_text() + "#" * 900_000)
        assert code == 1
        assert "request is too large: etcd --max-request-bytes must be more than twice" in err
        assert ok(server, "config", "show") == config_text()


def node_of(server: Etcd) -> Any:
    put_config(server, config_text())
    return node(server, "a")
