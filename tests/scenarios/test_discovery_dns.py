"""A pool's backends from DNS: dnsmasq, with a recursor in front of it where failures are wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.balancing import address_of
from tests.support.discovering import discovering
from tests.support.names import dns_answering
from tests.support.peers import connect, echo, one_answer, serving
from tests.support.programs import free_port
from tests.support.waiting import wait_until
from tests.support.zones import Zone, recursor_of, zone

NAME = "web.example"
ONE, TWO, THREE = "127.0.0.1", "127.0.0.2", "127.0.0.3"


def source(servers: Any, **options: Any) -> dict[str, Any]:
    return {"type": "dns", "name": NAME, "port": 80, "servers": servers, "timeout": "3s", **options}


def at(*hosts: str, port: int = 80) -> list[str]:
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]


def asked(address: str) -> bytes:
    with connect(address) as sock:
        sock.sendall(b"?")
        return sock.recv(100)


def test_all_addresses_of_both_families_serve() -> None:
    port = free_port()
    with zone({NAME: [ONE, TWO, "::1"]}) as names, serving(one_answer(b"one"), ONE, port):
        with serving(one_answer(b"two"), TWO, port), serving(one_answer(b"six"), "::1", port):
            with discovering(source([names.address], port=port)) as found:
                found.wait_for(*at(ONE, TWO, "::1", port=port))
                said = {asked(address_of(found.balancer)) for _ in range(12)}
                assert said == {b"one", b"two", b"six"}


@pytest.mark.parametrize(("family", "hosts"), [("ipv4", [ONE, TWO]), ("ipv6", ["::1"])])
def test_one_family(family: str, hosts: list[str]) -> None:
    with zone({NAME: [ONE, TWO, "::1"]}) as names, discovering(source([names.address], family=family)) as found:
        found.wait_for(*at(*hosts))
        assert wait_until(lambda: found.said["error"] == "")


def test_the_ttl_is_respected_and_the_same_answer_changes_nothing() -> None:
    """dnsmasq turns the order with each answer."""
    with zone({NAME: [ONE, TWO, THREE]}) as names, discovering(source([names.address], hold_down=0)) as found:
        found.wait_for(*at(ONE, TWO, THREE))
        found.settle()
        version, looks = found.version, found.said["answers"]
        assert wait_until(lambda: found.said["answers"] > looks + 2)
        assert found.version == version
        names.put({NAME: [ONE, TWO, "127.0.0.4"]})
        found.wait_for(*at(ONE, TWO, "127.0.0.4"))
    with zone({NAME: [ONE]}, ttl_s=3600) as names, discovering(source([names.address], family="ipv4")) as found:
        found.wait_for(*at(ONE))
        looks = found.said["answers"]
        assert not wait_until(lambda: found.said["answers"] > looks, 3), "not before its TTL has ended"


def test_sessions_stay_while_their_backend_is_held() -> None:
    port = free_port()
    with zone({NAME: [ONE, TWO]}) as names, serving(echo, ONE, port), serving(echo, TWO, port):
        with discovering(source([names.address], port=port, hold_down="2s"), on_backend_removed="reset") as found:
            found.wait_for(*at(ONE, TWO, port=port))
            found.settle()
            socks = [connect(address_of(found.balancer)) for _ in range(2)]
            for sock in socks:
                sock.sendall(b"1")
                assert sock.recv(10) == b"1"
            names.put({NAME: [ONE]})
            assert wait_until(lambda: found.said["held"] == 1)
            assert len(found.backends) == 2
            for sock in socks:
                sock.sendall(b"2")
                assert sock.recv(10) == b"2"
            found.wait_for(*at(ONE, port=port))
            assert wait_until(lambda: found.balancer.stats().sessions_left == 1)
            for sock in socks:
                sock.close()


def gone(names: Zone) -> None:
    names.put({"other.example": [ONE]})  # NXDOMAIN


def empty(names: Zone) -> None:
    names.put({NAME: ["::1"]})  # for IPv4: no record of the type


@pytest.mark.parametrize(("change", "reason"), [(gone, "NXDOMAIN"), (empty, "it has no A records")])
def test_no_such_name_and_no_record_count_after_the_hold_down(change: Any, reason: str) -> None:
    with zone({NAME: [ONE, TWO]}) as names:
        with discovering(source([names.address], family="ipv4", hold_down="12s")) as found:
            found.wait_for(*at(ONE, TWO))
            found.settle()
            version = found.version
            change(names)
            assert wait_until(lambda: found.said["held"] == 2)
            assert found.said["error"] == f"{NAME}: {reason}"
            assert (found.backends, found.version) == (at(ONE, TWO), version)
            names.put({NAME: [ONE, TWO]})
            assert wait_until(lambda: (found.said["held"], found.said["error"]) == (0, "")), found.said
            assert found.version == version
            change(names)
            found.wait_for()


def test_servfail_and_silence_remove_nothing() -> None:
    with zone({NAME: [ONE, TWO]}) as names, recursor_of(names) as server:
        with discovering(source([server.address], family="ipv4", hold_down=0)) as found:
            found.wait_for(*at(ONE, TWO))
            names.stop()
            assert wait_until(lambda: "SERVFAIL" in found.said["error"]), found.said
            assert found.backends == at(ONE, TWO)
            failed = found.of("discovery_failed")
            assert str(failed[0]["reason"]).endswith("what was known before stays")
            names.put({NAME: [THREE]})
            names.start()
            found.wait_for(*at(THREE))
            assert wait_until(lambda: found.of("discovery_recovered"))
    with zone({NAME: [ONE]}) as names, discovering(source([names.address], timeout="500ms", hold_down=0)) as found:
        found.wait_for(*at(ONE))
        names.stop()
        assert wait_until(lambda: found.said["error"])
        answered_at = found.said["answered_at"]
        assert wait_until(lambda: found.said["failures"] >= 2)
        assert found.backends == at(ONE)
        assert found.said["answered_at"] == answered_at


def test_the_next_server_is_asked_when_one_is_away() -> None:
    with zone({NAME: [ONE]}) as names:
        with discovering(source([f"127.0.0.1:{free_port()}", names.address], timeout="10s")) as found:
            found.wait_for(*at(ONE))


def test_a_thousand_records_come_by_tcp() -> None:
    hosts = [f"127.0.{number >> 8}.{number & 255}" for number in range(1, 1001)]
    with zone({NAME: hosts}) as names, discovering(source([names.address], family="ipv4")) as found:
        found.wait_for(*at(*hosts))
        assert found.said["backends"] == 1000
        names.put({NAME: [*hosts[:500], "127.1.0.1", *hosts[501:]]})
        assert wait_until(lambda: "127.1.0.1:80" in found.backends)
        assert len(found.backends) == 1001, "the one that left is held"


def test_one_kind_of_record_that_fails_keeps_its_last_answer() -> None:
    """From a server of our own, since no real one fails so to order."""
    import dns.rcode
    import dns.rdatatype

    with dns_answering() as server:
        server.records[NAME] = [ONE, "::1"]
        with discovering(source([server.host], hold_down=0)) as found:
            found.wait_for(*at(ONE, "::1"))
            answer = server._answer

            def failing(question: Any) -> Any:
                said = answer(question)
                if question.question[0].rdtype == dns.rdatatype.AAAA and said is not None:
                    said.answer.clear()
                    said.set_rcode(dns.rcode.SERVFAIL)
                return said

            server._answer = failing  # type: ignore[method-assign]
            server.records[NAME] = [TWO]
            found.wait_for(*at(TWO, "::1"))
            assert wait_until(lambda: found.said["error"] == f"{NAME}: AAAA: SERVFAIL"), found.said
            server._answer = answer  # type: ignore[method-assign]
            found.wait_for(*at(TWO))


def test_a_source_that_has_never_answered_stops_nothing(tmp_path: Path) -> None:
    with discovering(source([f"127.0.0.1:{free_port()}"], timeout="200ms"), (f"{ONE}:9",)) as found:
        assert found.backends == [f"{ONE}:9"]
        assert wait_until(lambda: found.said["error"].startswith(f"{NAME}: A: ")), found.said
        assert found.said["answered_at"] is None


SERVICE = "_http._tcp.example"


def service(names: Zone, **options: Any) -> dict[str, Any]:
    return {"type": "srv", "name": SERVICE, "servers": [names.address], "family": "ipv4", "hold_down": 0, **options}


def shares(found: Any) -> dict[str, tuple[int, int]]:
    return {one["id"]: (one["priority"], one["weight"]) for one in found.pool["backends"]}


def test_services_with_weights_and_priorities() -> None:
    with zone({"a.example": [ONE], "b.example": [TWO, THREE]}) as names:
        names.put_services(SERVICE, "a.example,8080,0,5", "b.example,8081,1,0")
        with discovering(service(names)) as found:
            found.wait_for("127.0.0.1:8080", "127.0.0.2:8081", "127.0.0.3:8081")
            assert shares(found) == {"127.0.0.1:8080": (0, 5), "127.0.0.2:8081": (1, 1), "127.0.0.3:8081": (1, 1)}
            found.settle()
            version = found.version
            names.put_services(SERVICE, "b.example,8081,1,0", "a.example,8080,0,5")
            looks = found.said["answers"]
            assert wait_until(lambda: found.said["answers"] > looks + 2)
            assert found.version == version
            names.put_services(SERVICE, "a.example,8080,0,7", "a.example,9090,0,1")
            assert wait_until(lambda: shares(found) == {"127.0.0.1:8080": (0, 7), "127.0.0.1:9090": (0, 1)})
            names.put({"a.example": [TWO]})
            assert wait_until(lambda: shares(found) == {"127.0.0.2:8080": (0, 7), "127.0.0.2:9090": (0, 1)})


def test_a_service_that_is_away() -> None:
    with zone({"a.example": [ONE]}) as names:
        names.put_services(SERVICE, "a.example,8080,0,5", "none.example,8080,0,5")
        with discovering(service(names, timeout="1s")) as found:
            found.wait_for("127.0.0.1:8080")
            assert wait_until(lambda: found.said["error"] == "none.example: NXDOMAIN")
            names.stop()
            assert wait_until(lambda: found.of("discovery_failed")), found.said
            names.start()
            assert wait_until(lambda: found.of("discovery_recovered")), found.said
            assert found.backends == ["127.0.0.1:8080"]
            names.put_services(SERVICE)
            assert wait_until(lambda: found.said["held"] == 1), found.said
            assert found.said["error"] == f"{SERVICE}: NXDOMAIN"
            assert found.backends == ["127.0.0.1:8080"], "no backend at all is not believed at once"
