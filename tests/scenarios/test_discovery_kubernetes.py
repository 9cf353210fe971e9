"""A pool's backends from a stand-in for Kubernetes, which replays the documented protocol: no cluster can run here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from l4lb import Config
from l4lb.control.changes.preflight import preflight
from l4lb.net.services import kubernetes as api
from l4lb.net.services import kubernetes_watch
from tests.support.discovering import Discovering, discovering
from tests.support.kubernetes import GONE, NOT_READY, TERMINATING, Kubernetes, endpoint, endpoint_slice, kubernetes
from tests.support.programs import free_port
from tests.support.servers import certificate
from tests.support.waiting import wait_until

A, B, C = "127.0.0.1:80", "127.0.0.2:80", "127.0.0.3:80"
ONE, TWO, THREE = endpoint("127.0.0.1"), endpoint("127.0.0.2"), endpoint("127.0.0.3")


def source(server: Kubernetes, **options: Any) -> dict[str, Any]:
    at = {"endpoints": [server.endpoint], "namespace": "shop", "service": "web"}
    return {"type": "kubernetes", "timeout": "2s", **at, **options}


def states(found: Discovering) -> dict[str, str]:
    return {one["id"]: str(one["admin_state"]) for one in found.pool["backends"]}


def lists(server: Kubernetes) -> int:
    return sum("watch" not in one.query and "resourceVersion" not in one.query for one in server.asked)


def watches(server: Kubernetes) -> list[str]:
    return [one.query["resourceVersion"] for one in server.asked if "watch" in one.query]


def test_endpoints_become_backends_at_once() -> None:
    with kubernetes() as server:
        server.put(endpoint_slice("a", ONE), endpoint_slice("other", TWO, service="other"))
        with discovering(source(server)) as found:
            found.wait_for(A)
            server.put(endpoint_slice("a", ONE, TWO))
            found.wait_for(A, B)
            server.put(endpoint_slice("b", THREE), endpoint_slice("c", endpoint("::1"), family="IPv6"))
            found.wait_for(A, B, C, "[::1]:80")
            server.delete("a")
            found.wait_for(C, "[::1]:80")
            assert lists(server) == 1
        wanted = {"watch": "1", "resourceVersion": "102", "allowWatchBookmarks": "true"}
        wanted["labelSelector"] = "kubernetes.io/service-name=web"
        asked = dict(server.asked[1].query)
        assert 60 <= int(asked.pop("timeoutSeconds")) <= 90
        assert asked == wanted


def test_a_pod_that_ends_is_drained_then_removed() -> None:
    with kubernetes() as server:
        server.put(endpoint_slice("a", ONE, endpoint("127.0.0.2", None), endpoint("127.0.0.3", NOT_READY)))
        with discovering(source(server)) as found:
            found.wait_for(A, B)
            server.put(endpoint_slice("a", endpoint("127.0.0.1", TERMINATING), TWO))
            assert wait_until(lambda: states(found) == {A: "drain", B: "ready"}), states(found)
            server.put(endpoint_slice("a", endpoint("127.0.0.1", GONE), TWO))
            found.wait_for(B)
            server.put(endpoint_slice("a", endpoint("127.0.0.2", TERMINATING)))
            looked = found.said["answers"]
            assert wait_until(lambda: found.said["answers"] > looked)
            assert states(found) == {B: "ready"}, "the last one serves to its end"


def test_zones_and_one_endpoint_in_several_slices() -> None:
    with kubernetes() as server:
        zoned = endpoint("127.0.0.1", zone="eu-1a")
        server.put(endpoint_slice("a", endpoint("127.0.0.1", TERMINATING), TWO), endpoint_slice("b", zoned, TWO))
        with discovering(source(server), zone="eu-1a") as found:
            found.wait_for(A, B)
            assert states(found) == {A: "ready", B: "ready"}
            assert {one["id"]: one["zone"] for one in found.pool["backends"]} == {A: "eu-1a", B: ""}


def test_gone_and_back_without_a_flap() -> None:
    with kubernetes() as server:
        server.put(endpoint_slice("a", ONE, TWO))
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
            server.put(endpoint_slice("b", THREE))
            found.wait_for(A, B, C)


def test_a_watch_that_ends_goes_on_from_the_last_bookmark_or_event() -> None:
    with kubernetes() as server:
        server.put(endpoint_slice("a", ONE))
        with discovering(source(server)) as found:
            found.wait_for(A)
            assert wait_until(lambda: watches(server) == ["101"])
            server.end_watches()
            assert wait_until(lambda: watches(server) == ["101", "101"])
            looked = found.said["answers"]
            server.bookmark()
            assert wait_until(lambda: found.said["answers"] > looked)
            server.end_watches()
            assert wait_until(lambda: watches(server)[2:] == ["102"])
            server.put(endpoint_slice("a", ONE, TWO))
            found.wait_for(A, B)
            server.end_watches()
            assert wait_until(lambda: watches(server)[3:] == ["103"])
            assert (lists(server), found.of("discovery_failed")) == (1, [])


@pytest.mark.parametrize("as_status", [False, True])
def test_a_version_that_is_too_old_has_all_listed_again_without_a_flap(as_status: bool) -> None:
    with kubernetes() as server:
        server.gone_as_status = as_status
        server.put(endpoint_slice("a", ONE), endpoint_slice("b", TWO))
        with discovering(source(server)) as found:
            found.wait_for(A, B)
            found.settle()
            version = found.version
            server.compact()
            server.end_watches()
            assert wait_until(lambda: lists(server) == 2)
            assert wait_until(lambda: watches(server)[-1] == "103")
            assert (found.backends, found.version, found.of("discovery_failed")) == ([A, B], version, [])
            server.put(endpoint_slice("a", THREE))
            found.wait_for(B, C)


def test_what_was_removed_while_nobody_watched_is_gone() -> None:
    with kubernetes() as server:
        server.put(endpoint_slice("a", ONE), endpoint_slice("b", TWO))
        with discovering(source(server)) as found:
            found.wait_for(A, B)
            server.stop()
            server.delete("a")
            server.start()
            found.wait_for(B)


def test_a_long_list_in_parts_also_when_the_server_forgets_it() -> None:
    with kubernetes() as server:
        server.put(*(endpoint_slice(f"s{number}", endpoint(f"127.0.1.{number}")) for number in range(1, 8)))
        server.page, server.forgets = 2, 2
        with discovering(source(server)) as found:
            found.wait_for(*(f"127.0.1.{number}:80" for number in range(1, 8)))
            assert (found.of("discovery_failed"), lists(server)) == ([], 2 + 2 + 4)
            assert [one.query.get("continue") for one in server.asked[:3]] == [None, "107/2", None]
            server.forgets = 100
            server.compact()  # has all listed again, also if the watch begins only now
            server.end_watches()
            assert wait_until(lambda: "continue parameter is too old" in found.said["error"]), found.said
            server.forgets = 0
            assert wait_until(lambda: found.of("discovery_recovered"))


def test_a_server_that_hangs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_watch, "CONFIRM_S", 0.5)
    with kubernetes() as server:
        server.put(endpoint_slice("a", ONE))
        with discovering(source(server, timeout="500ms")) as found:
            found.wait_for(A)
            looked = found.said["answers"]
            assert wait_until(lambda: found.said["answers"] > looked), "while it is only quiet it is asked"
            server.hang()
            assert wait_until(lambda: "no answer within 0.5 s" in found.said["error"]), found.said
            assert found.backends == [A]
            server.hang(False)
            assert wait_until(lambda: found.of("discovery_recovered"))


def test_a_watch_that_does_not_end_in_time_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_watch, "CONFIRM_S", 0.2)
    monkeypatch.setattr(kubernetes_watch, "WATCH_S", (1, 1))
    with kubernetes() as server:
        server.put(endpoint_slice("a", ONE))

        async def stuck(request: Any) -> Any:
            """As behind something that has lost the server without a word."""
            response = web.StreamResponse()
            await response.prepare(request)
            await server.next_change(600)
            return response

        with discovering(source(server, timeout="500ms")) as found:
            found.wait_for(A)
            assert wait_until(lambda: len(watches(server)) > 1), "the server ends it itself"
            handled = server.answer
            server.answer = lambda request: (  # type: ignore[method-assign]
                stuck(request) if "watch" in request.query else handled(request)
            )
            before = len(watches(server))
            assert wait_until(lambda: len(watches(server)) > before + 2)
            assert (found.of("discovery_failed"), lists(server)) == ([], 1)


WRONG_LISTS = [
    (b"[]", "not an answer of Kubernetes"),
    (b'{"kind": "PodList", "metadata": {"resourceVersion": "5"}}', "expected an EndpointSliceList"),
    (b'{"kind": "EndpointSliceList", "metadata": {}, "items": []}', "it has no resourceVersion"),
    (b'{"kind": "EndpointSliceList", "metadata": {"resourceVersion": "5"}, "items": 7}', "expected an EndpointSliceL"),
    (
        b'{"kind": "EndpointSliceList", "metadata": {"resourceVersion": "5"}, "items": [{}]}',
        "EndpointSlice with a name",
    ),
    (b'{"kind": "EndpointSli', '{"kind": "EndpointSli'),
]


@pytest.mark.parametrize(("body", "reason"), WRONG_LISTS)
def test_a_list_that_is_none_changes_nothing(body: bytes, reason: str) -> None:
    with kubernetes() as server:
        server.put(endpoint_slice("a", ONE))
        with discovering(source(server)) as found:
            found.wait_for(A)
            assert wait_until(lambda: any("watch" in one.query for one in server.asked))  # its end leads to a list
            server.stop()
            server.lie(body)
            server.start()
            assert wait_until(lambda: any(reason in str(one["reason"]) for one in found.of("discovery_failed")))
            assert wait_until(lambda: found.of("discovery_recovered"))
            assert found.backends == [A]


WRONG_EVENTS: list[tuple[dict[str, Any], str]] = [
    (
        {"type": "ERROR", "object": {"code": 500, "message": "etcdserver: no leader"}},
        "ended: etcdserver: no leader",
    ),
    ({"type": "ERROR", "object": {}}, "the watch was ended: an error without a reason"),
    ({"type": "RENAMED", "object": {}}, 'an event of the unknown type "RENAMED"'),
    ({"type": "ADDED", "object": {"metadata": {"resourceVersion": "7"}}}, "expected an EndpointSlice with a name"),
    ({"type": "BOOKMARK", "object": {}}, "it has no resourceVersion"),
]


@pytest.mark.parametrize(("event", "reason"), WRONG_EVENTS)
def test_an_event_that_is_none_has_all_listed_again(event: dict[str, Any], reason: str) -> None:
    with kubernetes() as server:
        server.put(endpoint_slice("a", ONE))
        with discovering(source(server)) as found:
            found.wait_for(A)
            server.say(event)
            assert wait_until(lambda: any(reason in str(one["reason"]) for one in found.of("discovery_failed")))
            assert wait_until(lambda: found.of("discovery_recovered"))
            assert found.backends == [A]


def test_a_watch_that_ends_in_the_middle_of_a_line() -> None:
    with kubernetes() as server:
        server.put(endpoint_slice("a", ONE))
        with discovering(source(server)) as found:
            found.wait_for(A)
            assert wait_until(lambda: watches(server))
            server.end_watches(cut=b'{"type": "DELETED", "object": {"metadata": {"name": "a"')
            assert wait_until(lambda: lists(server) == 2)
            server.put(endpoint_slice("b", TWO))
            found.wait_for(A, B)


def test_a_slice_that_is_broken_counts_for_itself_alone() -> None:
    with kubernetes() as server:
        named = endpoint_slice("named", endpoint("web.example"), family="FQDN")
        server.put(endpoint_slice("a", ONE), named)
        with discovering(source(server)) as found:
            found.wait_for(A)
            assert "slice named: addressType FQDN: expected IPv4 or IPv6" in found.said["error"]
            server.put(endpoint_slice("a", endpoint("127.0.0.300")), endpoint_slice("b", TWO))
            found.wait_for(A, B)
            assert wait_until(lambda: "slice a: '127.0.0.300' does not appear to be" in found.said["error"]), found.said
            server.put(endpoint_slice("a", THREE))
            server.delete("named")
            found.wait_for(B, C)
            assert wait_until(lambda: found.said["error"] == ""), found.said


def test_what_kubernetes_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")
    with kubernetes() as server:
        server.put(endpoint_slice("a", ONE))
        with discovering(source(server, namespace="other")) as found:
            assert wait_until(lambda: 'User "l4lb" cannot list resource' in found.said["error"]), found.said
        server.token = "secret"
        with discovering(source(server, token_file=str(token))) as found:
            assert wait_until(lambda: "Unauthorized" in found.said["error"]), found.said
            token.write_text("secret\n")
            found.wait_for(A)
            assert "secret" not in str(found.balancer.status()) + str(found.balancer.config)


def test_as_a_pod_without_any_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate(tmp_path, "localhost")
    account = tmp_path / "serviceaccount"
    account.mkdir()
    monkeypatch.setattr(api, "SERVICE_ACCOUNT", str(account))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    here = {"type": "kubernetes", "service": "web"}
    with kubernetes((cert, key)) as server:
        server.token = "secret"
        server.put(endpoint_slice("a", ONE))
        with discovering(here) as found:
            assert wait_until(lambda: "KUBERNETES_SERVICE_HOST is not set: expected endpoints" in found.said["error"])
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "localhost")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        with discovering(here) as found:
            assert wait_until(lambda: "serviceaccount/namespace: cannot be read: No such" in found.said["error"])
        for name, content in (("namespace", "shop"), ("token", "secret\n"), ("ca.crt", Path(cert).read_text())):
            (account / name).write_text(content)
        with discovering(here) as found:
            found.wait_for(A)


def test_with_the_clients_certificate_at_the_next_server(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "localhost")
    with kubernetes((cert, key), mutual=True) as server:
        server.put(endpoint_slice("a", ONE))
        endpoints = [f"https://localhost:{free_port()}", server.endpoint]
        with discovering(source(server, endpoints=endpoints, ca_file=cert, cert_file=cert, key_file=key)) as found:
            found.wait_for(A)


def test_hold_down() -> None:
    with kubernetes() as server:
        server.put(endpoint_slice("a", ONE, TWO))
        with discovering(source(server, hold_down="2s")) as found:
            found.wait_for(A, B)
            server.put(endpoint_slice("a", ONE))
            assert wait_until(lambda: found.said["held"] == 1)
            assert found.backends == [A, B]
            found.wait_for(A)


def test_a_flood_of_changes_that_do_not_matter_makes_no_snapshot() -> None:
    with kubernetes() as server:
        server.put(endpoint_slice("a", ONE))
        with discovering(source(server)) as found:
            found.wait_for(A)
            found.settle()
            version, before = found.version, found.said
            for number in range(500):
                changed = endpoint_slice("a", ONE | {"nodeName": f"node{number}"})
                changed["metadata"]["annotations"] = {"number": str(number)}
                server.put(changed)
            assert wait_until(lambda: found.said["answers"] >= before["answers"] + 500)
            assert (found.version, found.said["changes"]) == (version, before["changes"])


def test_a_server_that_ends_each_watch_at_once_is_asked_at_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    with kubernetes() as server:
        server.put(endpoint_slice("a", ONE))

        async def ended(request: Any) -> Any:
            return web.Response(body=b"")

        handled = server.answer
        server.answer = lambda request: (  # type: ignore[method-assign]
            ended(request) if "watch" in request.query else handled(request)
        )
        begun = time.monotonic()
        with discovering(source(server)) as found:
            found.wait_for(A)
            assert wait_until(lambda: len(watches(server)) >= 8)
            assert time.monotonic() - begun > 2
            assert (lists(server), found.of("discovery_failed")) == (1, [])


def test_five_thousand_endpoints_in_fifty_slices() -> None:
    hosts = [[f"127.{slice_}.{number}.1" for number in range(100)] for slice_ in range(1, 51)]
    with kubernetes() as server:
        server.page = 20
        server.put(*(endpoint_slice(f"s{number}", *map(endpoint, some)) for number, some in enumerate(hosts)))
        with discovering(source(server, timeout="20s")) as found:
            found.wait_for(*(f"{host}:80" for some in hosts for host in some))
            found.settle()
            version = found.version
            server.put(endpoint_slice("s7", *map(endpoint, hosts[7][1:])))
            assert wait_until(lambda: len(found.backends) == 4999)
            found.settle()
            assert found.version == version + 1


def test_l4lb_check_warns_outside_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    file = tmp_path / "lb.toml"
    file.write_text(
        '[listeners.web]\nbind = ":9"\npool = "web"\n[pools.web.discovery]\ntype = "kubernetes"\nservice = "web"\n'
    )
    _, (warning,) = preflight(Config.load(str(file)))
    assert warning.path == "pools.web.discovery.endpoints"
    assert warning.message == "there are none, and here KUBERNETES_SERVICE_HOST is not set"
