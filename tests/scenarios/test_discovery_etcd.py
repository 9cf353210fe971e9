"""A pool's backends from a real etcd."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

from tests.support.discovering import discovering
from tests.support.etcd import Etcd, etcd
from tests.support.programs import free_port, nginx
from tests.support.servers import certificate
from tests.support.waiting import wait_until

A, B, C = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"


def source(server: Etcd, **options: Any) -> dict[str, Any]:
    return {"type": "etcd", "endpoints": [server.endpoint], "prefix": "/l4lb/web/", "timeout": "2s", **options}


def weights(found: Any) -> dict[str, int]:
    return {one["id"]: one["weight"] for one in found.pool["backends"]}


def test_keys_become_backends_at_once() -> None:
    with etcd() as server:
        server.put("/l4lb/web/one", A)
        server.put("/l4lb/web-other/two", B)
        with discovering(source(server)) as found:
            found.wait_for(A)
            server.put("/l4lb/web/two", f"{B} weight=3")
            server.put(f"/l4lb/web/{C}", '{"weight": 5}')
            found.wait_for(A, B, C)
            assert weights(found) == {A: 1, B: 3, C: 5}
            server.put("/l4lb/web/two", f'{{"address": "{B}", "weight": 4}}')
            assert wait_until(lambda: weights(found) == {A: 1, B: 4, C: 5})
            server.ctl("del", "/l4lb/web/one")
            found.wait_for(B, C)
            found.settle()
            version = found.version
            server.put("/l4lb/web/another", f"{B} weight=9")
            server.put(f"/l4lb/web/{C}", '{ "weight": 5 }')
            looks = found.said["answers"]
            assert wait_until(lambda: found.said["answers"] >= looks)
            server.put("/l4lb/web/one", A)
            found.wait_for(A, B, C)
            found.settle()
            assert wait_until(lambda: weights(found)[B] == 9), "of two keys for one address the first counts"
            assert found.version <= version + 2


def test_a_value_that_is_broken_counts_for_itself_alone() -> None:
    with etcd() as server:
        server.put("/l4lb/web/one", A)
        server.put("/l4lb/web/two", "no address")
        with discovering(source(server)) as found:
            found.wait_for(A)
            assert wait_until(lambda: "key /l4lb/web/two: " in found.said["error"]), found.said
            server.put("/l4lb/web/one", f"{A} weight=99999")
            assert wait_until(lambda: "key /l4lb/web/one: the value: weight: 99999" in found.said["error"]), found.said
            server.put("/l4lb/web/two", B)
            found.wait_for(A, B)
            server.put("/l4lb/web/one", f"{A} weight=9")
            assert wait_until(lambda: found.said["error"] == "")
            assert wait_until(lambda: weights(found) == {A: 9, B: 1})


def test_a_lease_that_ends_removes_its_backend() -> None:
    with etcd() as server:
        server.put("/l4lb/web/one", A)
        lease = re.search(r"lease (\w+) granted", server.ctl("lease", "grant", "3"))
        assert lease is not None
        server.put("/l4lb/web/two", B, lease[1])
        with discovering(source(server)) as found:
            found.wait_for(A, B)
            found.wait_for(A)


def test_stopped_compacted_and_started_again_without_a_flap() -> None:
    with etcd() as server:
        server.put("/l4lb/web/one", A)
        server.put("/l4lb/web/two", B)
        with discovering(source(server)) as found:
            found.wait_for(A, B)
            found.settle()
            version = found.version
            server.stop()
            assert wait_until(lambda: found.of("discovery_failed"))
            assert found.backends == [A, B]
            server.start()
            for number in range(5):
                server.put("/elsewhere", str(number))
            revision = re.search(r'"revision":(\d+)', server.ctl("get", "/elsewhere", "-w", "json"))
            assert revision is not None
            server.ctl("compact", revision[1])
            assert wait_until(lambda: found.of("discovery_recovered"))
            assert (found.backends, found.version) == ([A, B], version)
            server.put("/l4lb/web/three", C)
            found.wait_for(A, B, C)
            server.stop()
            server.start()
            server.ctl("del", "/l4lb/web/three")
            found.wait_for(A, B)


def test_a_server_that_hangs_is_noticed() -> None:
    with etcd() as server:
        server.put("/l4lb/web/one", A)
        with discovering(source(server, timeout="500ms")) as found:
            found.wait_for(A)
            server.hang()
            assert wait_until(lambda: "no answer within 0.5 s" in found.said["error"]), found.said
            assert found.backends == [A]
            server.signal(signal.SIGCONT)
            assert wait_until(lambda: found.of("discovery_recovered"))


def test_the_next_server_is_asked_and_one_that_speaks_no_etcd(tmp_path: Path) -> None:
    with etcd() as server, nginx("other") as other:
        server.put("/l4lb/web/one", A)
        endpoints = [f"http://127.0.0.1:{free_port()}", f"http://{other.address}", server.endpoint]
        with discovering(source(server, endpoints=endpoints)) as found:
            found.wait_for(A)
            assert len(found.of("discovery_failed")) <= 3


def test_with_a_password(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    with etcd() as server:
        server.put("/l4lb/web/one", A)
        server.ctl("user", "add", "root:secret")
        server.ctl("user", "grant-role", "root", "root")
        server.ctl("auth", "enable")
        server.login = "root:secret"
        with discovering(source(server)) as found:
            assert wait_until(lambda: "user name is empty" in found.said["error"]), found.said
        with discovering(source(server, user="root", password_file=str(password))) as found:
            found.wait_for(A)
            server.put("/l4lb/web/two", B)
            found.wait_for(A, B)
            shown = str(found.balancer.status()) + str(found.balancer.config)
            assert "secret" not in shown


def test_over_tls(tmp_path: Path) -> None:
    tls = certificate(tmp_path, "localhost")
    with etcd(tls) as server:
        server.put("/l4lb/web/one", A)
        with discovering(source(server)) as found:
            assert wait_until(lambda: "certificate verify failed" in found.said["error"]), found.said
        with discovering(source(server, ca_file=str(tmp_path / "none"))) as found:
            assert wait_until(lambda: "none: cannot be used: No such file" in found.said["error"]), found.said
        with discovering(source(server, ca_file=tls[0])) as found:
            found.wait_for(A)
            server.put("/l4lb/web/two", B)
            found.wait_for(A, B)
            server.hang()  # it does not end TLS on its side, and nothing waits for that


def test_a_server_that_asks_for_the_clients_certificate(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "localhost")
    both = tmp_path / "both.pem"
    both.write_text(Path(cert).read_text() + Path(key).read_text())
    with etcd((cert, key), mutual=True) as server:
        server.put("/l4lb/web/one", A)
        with discovering(source(server, ca_file=cert)) as found:
            assert wait_until(lambda: re.search("client's certificate|alert", found.said["error"])), found.said
        with discovering(source(server, ca_file=cert, cert_file=cert)) as found:
            assert wait_until(lambda: f"{cert}: cannot be used" in found.said["error"]), found.said
        for own in ({"cert_file": cert, "key_file": key}, {"cert_file": str(both)}):
            with discovering(source(server, ca_file=cert, **own)) as found:
                found.wait_for(A)


def test_five_thousand_keys() -> None:
    """A message of the watch with a hundred events is one change."""
    backends = [f"127.{number >> 8}.{number & 255}.1:80" for number in range(5000)]
    with etcd() as server:
        server.put_many({f"/l4lb/web/{number}": backend for number, backend in enumerate(backends)})
        with discovering(source(server, timeout="20s")) as found:
            found.wait_for(*backends)
            found.settle()
            version = found.version
            server.put_many({f"/l4lb/web/{number}": f"127.200.{number}.1:80" for number in range(100)})
            found.wait_for(*(f"127.200.{number}.1:80" for number in range(100)), *backends[100:])
            found.settle()
            assert found.version == version + 1
