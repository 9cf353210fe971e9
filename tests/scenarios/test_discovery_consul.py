"""A pool's backends from a stand-in for Consul, which replays the documented protocol: Consul cannot be had here."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from l4lb import Config
from l4lb.control.changes.preflight import preflight
from tests.support.consul import PATH, Consul, consul, instance
from tests.support.discovering import Discovering, discovering
from tests.support.programs import free_port
from tests.support.servers import certificate
from tests.support.waiting import wait_until

A, B, C = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"


def source(server: Consul, **options: Any) -> dict[str, Any]:
    return {"type": "consul", "endpoints": [server.endpoint], "service": "web", "timeout": "2s", **options}


def weights(found: Discovering) -> dict[str, int]:
    return {one["id"]: one["weight"] for one in found.pool["backends"]}


def test_instances_become_backends_at_once() -> None:
    with consul() as server:
        server.put(instance(A))
        with discovering(source(server, wait="10m")) as found:
            found.wait_for(A)
            server.put(instance(A), instance(B, weights=(3, 1)), instance(":3", node_address="127.0.0.1"))
            found.wait_for(A, B, C)
            assert weights(found) == {A: 1, B: 3, C: 1}
            server.put(instance(B, weights=(4, 1)))
            found.wait_for(B)
            assert wait_until(lambda: weights(found) == {B: 4})
            server.put(instance("[::1]:1"), instance("localhost:2"), instance(B, "first"), instance(B, "second"))
            found.wait_for("[::1]:1", "localhost:2", B)


def test_checks_decide_who_serves_and_how_much() -> None:
    with consul() as server:
        some = [
            instance(A, checks=["passing", "warning"], weights=(10, 2)),
            instance(B, checks=["warning", "critical"]),
            instance(C, weights=(10, 2)),
        ]
        server.put(*some)
        with discovering(source(server)) as found:
            found.wait_for(A, C)
            assert weights(found) == {A: 2, C: 10}
        with discovering(source(server, passing=True)) as found:
            found.wait_for(C)


def test_what_is_asked_for() -> None:
    with consul() as server:
        server.put(instance(A, tags=["v2", "eu"]), instance(B, tags=["v2"]))
        asked = {"tags": ["eu", "v2"], "datacenter": "dc1", "namespace": "team", "partition": "part", "stale": True}
        with discovering(source(server, wait="30s", **asked)) as found:
            found.wait_for(A)
            assert wait_until(lambda: len(server.asked) >= 2)
        first, second = (sorted(one.query.items()) for one in server.asked[:2])
        wanted = [("dc", "dc1"), ("ns", "team"), ("partition", "part"), ("stale", "true"), ("tag", "eu"), ("tag", "v2")]
        assert first == wanted
        assert second == sorted([*wanted, ("index", "11"), ("wait", "30000ms")])


def test_gone_and_back_without_a_flap() -> None:
    with consul() as server:
        server.put(instance(A), instance(B))
        with discovering(source(server)) as found:
            found.wait_for(A, B)
            found.settle()
            version = found.version
            server.stop()
            assert wait_until(lambda: found.of("discovery_failed"))
            assert found.backends == [A, B]
            server.start()
            assert wait_until(lambda: found.of("discovery_recovered"))
            assert (found.backends, found.version) == ([A, B], version)
            server.put(instance(A), instance(B), instance(C))
            found.wait_for(A, B, C)


def test_a_server_that_hangs_is_noticed() -> None:
    with consul() as server:
        server.put(instance(A))
        with discovering(source(server, wait="1s", timeout="500ms")) as found:
            found.wait_for(A)
            server.hang()
            assert wait_until(lambda: re.search(r"no answer within (0\.5|1\.5625) s", found.said["error"])), found.said
            assert found.backends == [A]
            server.hang(False)
            assert wait_until(lambda: found.of("discovery_recovered"))


WRONG = [
    (b'{"a": 1}', {"X_Consul_Index": "5"}, "not an answer of Consul, expected a list of instances"),
    (b"[5]", {"X_Consul_Index": "5"}, "not an answer of Consul, expected a list of instances"),
    (b"[]", {}, "not an answer of Consul, it has no X-Consul-Index"),
    (b"[]", {"X_Consul_Index": "-1"}, "not an answer of Consul, it has no X-Consul-Index"),
    (b"[]", {"X_Consul_Index": "9" * 5000}, "not an answer of Consul, it has no X-Consul-Index"),
    (b"[{", {"X_Consul_Index": "5"}, "[{"),
    (
        b"[]",
        {"X_Consul_Index": "5", "X_Consul_Results_Filtered_By_ACLs": "true"},
        "the token may not read this service",
    ),
]


@pytest.mark.parametrize(("body", "headers", "reason"), WRONG)
def test_an_answer_that_is_none_changes_nothing(body: bytes, headers: dict[str, str], reason: str) -> None:
    with consul() as server:
        server.put(instance(A))
        with discovering(source(server, wait="1s")) as found:
            found.wait_for(A)
            server.lie(body, **headers)
            assert wait_until(lambda: found.of("discovery_failed"))
            assert f"{server.endpoint}: {reason}" in str(found.of("discovery_failed")[0]["reason"])
            assert wait_until(lambda: found.of("discovery_recovered"))
            assert found.backends == [A]


def test_what_consul_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    token = tmp_path / "token"
    with consul() as server:
        server.put(instance(A))
        with discovering(source(server, datacenter="dc9")) as found:
            assert wait_until(lambda: "No path to datacenter" in found.said["error"]), found.said
        server.token = "secret"
        with discovering(source(server)) as found:
            assert wait_until(lambda: "Permission denied: anonymous token lacks" in found.said["error"]), found.said
        with discovering(source(server, token_file=str(token))) as found:
            assert wait_until(lambda: f"{token}: cannot be read: No such file" in found.said["error"]), found.said
            token.write_text("old\n")
            assert wait_until(lambda: "ACL not found" in found.said["error"]), found.said
            token.write_text("secret\n")
            found.wait_for(A)
            assert "secret" not in str(found.balancer.status()) + str(found.balancer.config)


def test_an_instance_that_is_broken_counts_for_itself_alone() -> None:
    with consul() as server:
        server.put(instance(A), instance(":0", "two"))
        with discovering(source(server)) as found:
            found.wait_for(A)
            assert "instance two on node1: 0: expected a port" in found.said["error"]
            server.put(instance(A, weights=("many", 1)), instance(B, "two"))
            found.wait_for(A, B)
            assert wait_until(lambda: f"instance {A} on node1: weight: " in found.said["error"]), found.said
            nothing: dict[str, Any] = {"Node": None, "Service": {"ID": 5, "Port": 5}, "Checks": [3]}
            server.put(instance(A), instance("no host:5", "two"), {}, nothing)
            wanted = r"instance \d: not an instance of a service"  # they come in any order
            assert wait_until(lambda: len(re.findall(wanted, found.said["error"])) == 2), found.said
            assert "instance two on node1: address: " in found.said["error"]
            assert found.backends == [A, B]
            server.put(instance(A), instance(B, "two"))
            assert wait_until(lambda: found.said["error"] == "")


def test_a_partial_answer_and_one_without_a_leader_say_so() -> None:
    with consul() as server:
        server.put(instance(A))
        with discovering(source(server, wait="1s")) as found:
            found.wait_for(A)
            server.headers = {"X-Consul-Results-Filtered-By-ACLs": "true"}
            assert wait_until(lambda: "may not read all instances" in found.said["error"]), found.said
            server.headers = {"X-Consul-KnownLeader": "false"}
            assert wait_until(lambda: "knows no leader" in found.said["error"]), found.said
            server.headers = {}
            assert wait_until(lambda: found.said["error"] == ""), found.said


def test_an_index_that_goes_back_begins_anew() -> None:
    """As after a snapshot was restored. A query with the old index waits in vain, and once more it would never learn of
    a change."""
    with consul() as server:
        server.put(instance(A), index=1000)
        with discovering(source(server, wait="1s")) as found:
            found.wait_for(A)
            assert wait_until(lambda: server.asked[-1].query.get("index") == "1000")
            server.put(instance(A), instance(B), index=5)
            assert wait_until(lambda: server.asked[-1].query.get("index") == "5")
            found.wait_for(A, B)
            assert [one.query.get("index") for one in server.asked].count(None) == 2, "at first, and anew"
            server.put(instance(B), index=6)
            found.wait_for(B)


def test_a_service_that_does_not_exist_yet() -> None:
    """Its index may be 0; asked for with 0, no query would wait."""
    with consul() as server:
        server.lie(b"[]", X_Consul_Index="0")
        server.index = 0
        with discovering(source(server, wait="10m")) as found:
            assert wait_until(lambda: server.asked[-1].query.get("index") == "1")
            server.put(instance(A), index=2)
            found.wait_for(A)


def test_an_index_that_spins_is_asked_at_a_pace() -> None:
    """And what changes nothing makes no snapshot."""
    with consul() as server:
        server.put(instance(A))
        with discovering(source(server, wait="10m")) as found:
            found.wait_for(A)
            found.settle()
            version, asked, begun = found.version, len(server.asked), time.monotonic()
            while len(server.asked) < asked + 7:
                server.put(instance(A))
            assert len(server.asked) - asked <= 7 + (time.monotonic() - begun)
            assert time.monotonic() - begun > 1
            assert found.version == version
            server.put(instance(A), instance(B))
            found.wait_for(A, B)


def test_hold_down_and_no_instance_at_all() -> None:
    with consul() as server:
        server.put(instance(A), instance(B))
        with discovering(source(server, hold_down="2s")) as found:
            found.wait_for(A, B)
            server.put(instance(A))
            assert wait_until(lambda: found.said["held"] == 1)
            assert found.backends == [A, B]
            found.wait_for(A)
            server.put()
            assert wait_until(lambda: found.said["held"] == 1)
            assert (found.backends, found.said["backends"]) == ([A], 0)


def test_the_next_server_is_asked() -> None:
    with consul() as server:
        server.put(instance(A))
        endpoints = [f"http://127.0.0.1:{free_port()}", server.endpoint]
        with discovering(source(server, endpoints=endpoints)) as found:
            found.wait_for(A)


def test_over_tls_with_the_clients_certificate(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "localhost")
    with consul((cert, key), mutual=True) as server:
        server.put(instance(A))
        with discovering(source(server)) as found:
            assert wait_until(lambda: "certificate verify failed" in found.said["error"]), found.said
        with discovering(source(server, ca_file=cert, cert_file=cert, key_file=key)) as found:
            found.wait_for(A)
            server.put(instance(A), instance(B))
            found.wait_for(A, B)


def test_a_server_that_ends_in_the_middle() -> None:
    with consul() as server:
        server.put(instance(A))
        with discovering(source(server)) as found:
            found.wait_for(A)
            server.lie(b'[{"Node"', Content_Length="500", X_Consul_Index="50")
            server.put(instance(A), instance(B))
            found.wait_for(A, B)


def test_five_thousand_instances_and_one_change() -> None:
    backends = [f"127.{number >> 8}.{number & 255}.1:80" for number in range(5000)]
    with consul() as server:
        server.put(*(instance(one) for one in backends))
        with discovering(source(server, timeout="20s")) as found:
            found.wait_for(*backends)
            found.settle()
            version = found.version
            server.put(*(instance(one) for one in backends[1:]))
            found.wait_for(*backends[1:])
            found.settle()
            assert found.version == version + 1


def test_l4lb_check_warns_of_files_that_are_not_there(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text(
        '[listeners.web]\nbind = ":9"\npool = "web"\n[pools.web.discovery]\ntype = "consul"\nservice = "web"\n'
        'token_file = "/none/token"\nca_file = "/none/ca"\ncert_file = "/none/cert"\nkey_file = "/none/key"\n'
    )
    _, warnings = preflight(Config.load(str(file)))
    assert [one.path.rpartition(".")[2] for one in warnings] == ["token_file", "ca_file", "cert_file", "key_file"]
    assert PATH.endswith("/")
