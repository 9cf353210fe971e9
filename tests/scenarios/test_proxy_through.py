"""Real programs on both sides of a running l4lb: HAProxy and nginx as receivers and senders, curl as a client."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l4lb import LoadBalancer
from l4lb.proxy_protocol import Header, Type, build
from tests.scenarios.test_proxy_accepting import LOOPBACK
from tests.scenarios.test_proxy_interop import (
    CLIENT,
    HAPROXY_TELLS,
    NGINX_TELLS,
    PAIRS,
    SENDING,
    SERVER,
    expected,
    haproxy,
    named,
    nginx,
    unmapped,
)
from tests.scenarios.test_proxy_sending import receiving
from tests.support.balancing import address_of, balancing
from tests.support.peers import connect, read_exactly
from tests.support.programs import run

pytestmark = pytest.mark.external

REQUEST = b"GET / HTTP/1.0\r\nHost: x\r\n\r\n"


def port_of(balancer: LoadBalancer) -> int:
    return int(address_of(balancer).rpartition(":")[2])


@contextlib.contextmanager
def before(port: int, **options: Any) -> Iterator[LoadBalancer]:
    """l4lb in front of a server on `port`."""
    with balancing([f"127.0.0.1:{port}"], **options) as balancer:
        yield balancer


def asked(balancer: LoadBalancer, first: bytes = b"") -> tuple[list[str], list[str]]:
    """What a server behind says of a client that begins with `first`, and what is true of its connection."""
    with connect(address_of(balancer)) as client:
        source, destination = named(client)
        client.sendall(first + REQUEST)
        answer = b""
        while piece := client.recv(4096):
            answer += piece
    found = re.search(rb"<(.*)>$", answer, re.DOTALL)
    assert found is not None, answer
    true = [source.host, str(source.port), destination.host, str(destination.port)]
    return found[1].decode().split(" "), true


# ---- receivers ----


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("receiver", ["haproxy", "nginx"])
def test_receivers_learn_the_client(tmp_path: Path, receiver: str, version: str) -> None:
    program, text = (haproxy, HAPROXY_TELLS) if receiver == "haproxy" else (nginx, NGINX_TELLS)
    with program(tmp_path, text) as port, before(port, send_proxy=version) as balancer:
        said, true = asked(balancer)
    assert said[:4] == true


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("receiver", ["haproxy", "nginx"])
def test_receivers_learn_the_client_of_a_received_header(tmp_path: Path, receiver: str, version: str) -> None:
    """Of every pair of families, whichever version it came in."""
    program, text = (haproxy, HAPROXY_TELLS) if receiver == "haproxy" else (nginx, NGINX_TELLS)
    with program(tmp_path, text) as port, before(port, send_proxy=version, listener=LOOPBACK) as balancer:
        for source, destination in PAIRS:
            for came in (1, 2):
                said, _ = asked(balancer, build(Header(came, source=source, destination=destination)))
                assert unmapped(said)[:4] == unmapped(expected(source, destination)), (source, destination, came)
        for nobody in (b"PROXY UNKNOWN\r\n", build(Header(source=None))):
            said, true = asked(balancer, nobody)
            assert said[:4] == true


def test_haproxy_verifies_the_checksum_and_reads_the_unique_id(tmp_path: Path) -> None:
    """HAProxy closes a connection whose CRC32c is wrong: `test_haproxy_refuses_what_l4lb_refuses`."""
    with haproxy(tmp_path, HAPROXY_TELLS) as port:
        tlvs = ["unique_id", "crc32c", {"type": 0xE4, "value": "own"}]
        with before(port, send_proxy="v2", send_proxy_tlvs=tlvs) as balancer:
            said, true = asked(balancer)
            other, _ = asked(balancer)
    assert said[:4] == true
    assert re.fullmatch(r"[0-9a-f]{16}-[1-9][0-9]*", said[4])
    assert said[4] != other[4]


def test_haproxy_reads_received_tlvs(tmp_path: Path) -> None:
    tlvs = ((Type.AUTHORITY, b"a.example"), (Type.UNIQUE_ID, b"theirs-1"), (Type.NOOP, b"xx"))
    header = build(Header(source=CLIENT, destination=SERVER, tlvs=tlvs, crc32c=True))
    with haproxy(tmp_path, HAPROXY_TELLS) as port:
        options = {"send_proxy": "v2", "send_proxy_tlvs": ["received", "crc32c"], "listener": LOOPBACK}
        with before(port, **options) as balancer:
            said, _ = asked(balancer, header)
    assert said[4:] == ["theirs-1", "a.example"]


def certificate(directory: Path) -> Path:
    """A key and a certificate for a.example in one file."""
    subject = ["-subj", "/CN=a.example", "-addext", "subjectAltName=DNS:a.example", "-days", "1"]
    files = ["-keyout", f"{directory}/key", "-out", f"{directory}/certificate"]
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *subject)
    both = directory / "both"
    both.write_text((directory / "certificate").read_text() + (directory / "key").read_text())
    return both


def test_tls_passes_through_and_its_name_is_told(tmp_path: Path) -> None:
    """HAProxy ends the TLS that l4lb has only looked at, and finds the name in the header too."""
    both = certificate(tmp_path)
    text = HAPROXY_TELLS.replace("accept-proxy", f"accept-proxy ssl crt {both}")
    trusting = ssl.create_default_context(cafile=f"{tmp_path}/certificate")
    options = {"send_proxy": "v2", "send_proxy_tlvs": ["authority", "alpn", "unique_id", "crc32c"]}
    with haproxy(tmp_path, text) as port, before(port, **options) as balancer:
        with connect(address_of(balancer)) as plain:
            true = [part for one in named(plain) for part in (one.host, str(one.port))]
            with trusting.wrap_socket(plain, server_hostname="a.example") as client:
                client.sendall(REQUEST)
                answer = b""
                while piece := client.recv(4096):
                    answer += piece
    said = answer.decode().rpartition("<")[2].rstrip(">").split(" ")
    assert (said[:4], said[5]) == (true, "a.example")


def test_curl_through_l4lb_to_nginx(tmp_path: Path) -> None:
    """The header is curl's own, and what nginx is told is curl's address and port."""
    with nginx(tmp_path, NGINX_TELLS) as port:
        options = {"listener": {**LOOPBACK, "accept_proxy": "v1"}, "send_proxy": "v2"}
        with before(port, **options) as balancer:
            command = ["curl", "-s", "--haproxy-protocol", "-w", " %{local_ip} %{local_port}"]
            to_port = port_of(balancer)
            said = run(*command, f"http://127.0.0.1:{to_port}/")
    address, number, *to, host, local_port = said.replace("<", "").replace(">", "").split()
    assert (address, number, to) == (host, local_port, ["127.0.0.1", str(to_port)])


# ---- senders ----


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
def test_haproxy_sends(tmp_path: Path, options: str) -> None:
    """In front of l4lb; the header that the backend gets names HAProxy's client, and has what HAProxy told of it."""
    pool = {"send_proxy": "v2", "send_proxy_tlvs": ["received"]}
    with receiving() as (receiver, server), balancing([server.address], listener=LOOPBACK, **pool) as balancer:
        text = SENDING.replace("{bind}", "127.0.0.1:{port},[::1]:{port}")
        rules = "unique-id-format id-%cp"
        with haproxy(tmp_path, text, rules=rules, to=port_of(balancer), options=options) as port:
            for host in ("127.0.0.1", "::1"):
                with socket.create_connection((host, port), timeout=20) as client:
                    client.sendall(b"hello")
                    assert read_exactly(client, 5) == b"hello"
                    assert (receiver.header.source, receiver.header.destination) == named(client)
                    number = client.getsockname()[1]
                unique = f"id-{number}".encode() if "unique-id" in options else None
                assert receiver.header.unique_id == unique
        assert balancer.stats().listeners["web"].proxy_refused == {}


def test_haproxys_checks_are_local(tmp_path: Path) -> None:
    """A check of HAProxy's is a session of its own, not of a client."""
    pool = {"send_proxy": "v2"}
    with receiving() as (receiver, server), balancing([server.address], listener=LOOPBACK, **pool) as balancer:
        text = SENDING.replace("{bind}", "127.0.0.1:{port}")
        options = "check inter 100ms send-proxy-v2 check-send-proxy"
        with haproxy(tmp_path, text, rules="", to=port_of(balancer), options=options):
            assert receiver.header.source is not None
            assert receiver.header.source.host == "127.0.0.1"
        assert balancer.stats().listeners["web"].proxy_refused.keys() <= {"truncated"}


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_nginx_sends(tmp_path: Path, host: str) -> None:
    sections = """stream {{
      server {{ listen {host}:{port}; proxy_pass 127.0.0.1:{to}; proxy_protocol on; }}
      server {{ listen 127.0.0.1:{ready}; return ready; }}
    }}"""
    with receiving() as (receiver, server):
        with balancing([server.address], listener=LOOPBACK, send_proxy="v2") as balancer:
            with nginx(tmp_path, sections, host=host, to=port_of(balancer)) as port:
                with socket.create_connection((host.strip("[]"), port), timeout=20) as client:
                    client.sendall(b"hello")
                    assert read_exactly(client, 5) == b"hello"
                    assert (receiver.header.source, receiver.header.destination) == named(client)


def test_a_chain_of_four(tmp_path: Path) -> None:
    """curl, HAProxy, l4lb, nginx: at its end nginx knows curl's address."""
    (tmp_path / "nginx").mkdir()
    with nginx(tmp_path / "nginx", NGINX_TELLS) as last:
        with before(last, listener=LOOPBACK, send_proxy="v1") as balancer:
            text = SENDING.replace("{bind}", "127.0.0.1:{port}")
            options = "send-proxy-v2 proxy-v2-options crc32c"
            with haproxy(tmp_path, text, rules="", to=port_of(balancer), options=options) as port:
                said = run("curl", "-s", "-w", " %{local_ip} %{local_port}", f"http://127.0.0.1:{port}/")
    address, number, _, to_port, host, local_port = said.replace("<", "").replace(">", "").split()
    assert (address, number, to_port) == (host, local_port, str(port))
