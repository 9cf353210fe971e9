"""PROXY headers of HAProxy, nginx and curl are read; those that l4lb builds are accepted by HAProxy and nginx."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from socket import AF_INET, AF_INET6

import pytest

from l4lb.model.address import SocketAddress
from l4lb.proxy_protocol import Command, Header, NeedMore, ProxyHeaderError, Transport, Type, build, parse
from tests.support.programs import free_ports, program, require, run, without_preload
from tests.support.proxy_headers import V4, tlv, v2
from tests.support.waiting import wait_until

CLIENT = SocketAddress(AF_INET, "192.0.2.1", 40000)
SERVER = SocketAddress(AF_INET, "198.51.100.7", 443)
CLIENT_V6 = SocketAddress(AF_INET6, "2001:db8::1", 40000)
SERVER_V6 = SocketAddress(AF_INET6, "2001:db8::7", 443)


class Receiver:
    """A plain socket for one sender; what it gets is given to the parser."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(20)
        self.port = self._listening.getsockname()[1]

    def header(self, accept: str = "any") -> tuple[Header, bytes]:
        """Of the next connection that sends one, with all that came with it; fed a byte at a time."""
        peer, _ = self._listening.accept()
        with peer:
            peer.settimeout(20)
            data = b""
            while True:
                piece = peer.recv(1)
                assert piece, data
                data += piece
                with contextlib.suppress(NeedMore):
                    return parse(data, accept), data

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


HAPROXY = """
global
  log stdout format raw local0
defaults
  mode tcp
  timeout connect 5s
  timeout client 5s
  timeout server 5s
{sections}
listen ready
  mode http
  bind 127.0.0.1:{ready}
  http-request return status 200
"""


@contextlib.contextmanager
def haproxy(directory: Path, sections: str, **values: object) -> Iterator[int]:
    """HAProxy with `sections`, in which {port} is what this gives, a free port on 127.0.0.1."""
    ready = free_ports(2)
    config, log = directory / "haproxy.cfg", directory / "haproxy.log"
    config.write_text(HAPROXY.format(sections=sections.format(port=ready + 1, **values), ready=ready))
    with program("haproxy", ["-db", "-f", str(config)], ready, log):
        yield ready + 1


@contextlib.contextmanager
def nginx(directory: Path, sections: str, **values: object) -> Iterator[int]:
    """nginx with `sections`, as `haproxy`."""
    ready = free_ports(2)
    config = directory / "nginx.conf"
    text = sections.format(port=ready + 1, ready=ready, dir=directory, **values)
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"
    loaded = f"load_module {module};\n" if Path(module).exists() else ""
    config.write_text(f"{loaded}daemon off; master_process off; pid {directory}/pid;\nevents {{}}\n{text}")
    arguments = ["-p", str(directory), "-c", str(config), "-e", str(directory / "error.log")]
    with program("nginx", arguments, ready, directory / "nginx.log"):
        yield ready + 1


def tcp(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port), timeout=20)


def named(sock: socket.socket) -> tuple[SocketAddress, SocketAddress]:
    return tuple(SocketAddress(sock.family, *name[:2]) for name in (sock.getsockname(), sock.getpeername()))


# ---- what others send ----

SENDING = "listen web\n  bind {bind}\n  {rules}\n  server one 127.0.0.1:{to} {options}\n"


@pytest.mark.external
@pytest.mark.parametrize(
    ("options", "version"),
    [("send-proxy", 1), ("send-proxy-v2", 2), ("send-proxy-v2 proxy-v2-options crc32c", 2)],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_haproxy_sends(receiver: Receiver, tmp_path: Path, options: str, version: int, host: str) -> None:
    bind = "127.0.0.1:{port},[::1]:{port}"
    with haproxy(tmp_path, SENDING.replace("{bind}", bind), rules="", to=receiver.port, options=options) as port:
        with tcp(port, host) as client:
            header, data = receiver.header(f"v{version}")
            source, destination = named(client)
    assert header == Header(version, source=source, destination=destination, crc32c="crc32c" in options)
    assert build(header) == data


@pytest.mark.external
@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2 proxy-v2-options crc32c"])
def test_haproxy_sends_two_families(receiver: Receiver, tmp_path: Path, options: str) -> None:
    """An IPv6 source and an IPv4 destination: in version 1 with dotted decimals, which are read too."""
    bind, rules = "127.0.0.1:{port}", "tcp-request connection set-src str(2001:db8::1)"
    with haproxy(tmp_path, SENDING.replace("{bind}", bind), rules=rules, to=receiver.port, options=options) as port:
        with tcp(port):
            header, data = receiver.header()
    assert header.destination == SocketAddress(AF_INET6, "::ffff:127.0.0.1", port)
    assert header.source is not None
    assert header.source.host == "2001:db8::1"
    assert (b" ::ffff:127.0.0.1 " in data) == (header.version == 1)


@pytest.mark.external
@pytest.mark.parametrize(("options", "version"), [("send-proxy", 1), ("send-proxy-v2", 2)])
def test_haproxy_sends_for_a_unix_client(receiver: Receiver, tmp_path: Path, options: str, version: int) -> None:
    """It names nobody: UNKNOWN, or LOCAL with TLVs after it."""
    with haproxy(tmp_path, SENDING, bind=f"unix@{tmp_path}/web", rules="", to=receiver.port, options=options):
        assert wait_until((tmp_path / "web").exists)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/web")
            header, _ = receiver.header(f"v{version}")
    assert (header.version, header.source, header.destination) == (version, None, None)


@pytest.mark.external
def test_haproxy_checks_with_local(receiver: Receiver, tmp_path: Path) -> None:
    options = "check inter 100ms send-proxy-v2 check-send-proxy"
    with haproxy(tmp_path, SENDING.replace("{bind}", "127.0.0.1:{port}"), rules="", to=receiver.port, options=options):
        header, _ = receiver.header("v2")
    assert (header.command, header.source) == (Command.LOCAL, None)


@pytest.mark.external
def test_haproxy_sends_tlvs(receiver: Receiver, tmp_path: Path) -> None:
    """Authority, unique id, checksum and all of TLS, for a client over TLS."""
    subject = ["-subj", "/CN=a.example", "-days", "1"]
    files = ["-keyout", f"{tmp_path}/key", "-out", f"{tmp_path}/certificate"]
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *subject)
    (tmp_path / "both").write_text((tmp_path / "certificate").read_text() + (tmp_path / "key").read_text())
    options = "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority,ssl,cert-cn,ssl-cipher,cert-sig,cert-key"
    rules = "unique-id-format l4lb-%cp"
    trusting = ssl.create_default_context(cafile=f"{tmp_path}/certificate")
    bind = "127.0.0.1:{port} ssl crt " + f"{tmp_path}/both"
    with haproxy(tmp_path, SENDING.replace("{bind}", bind), rules=rules, to=receiver.port, options=options) as port:
        with tcp(port) as plain:
            number = plain.getsockname()[1]
            with trusting.wrap_socket(plain, server_hostname="a.example") as client:
                header, data = receiver.header("v2")
                assert header.ssl is not None
                inner = dict(header.ssl.tlvs)
                assert inner[Type.SSL_VERSION].decode() == client.version()
                cipher = client.cipher()
    assert cipher is not None
    assert inner[Type.SSL_CIPHER].decode() == cipher[0]
    assert inner[Type.SSL_KEY_ALG] == b"RSA2048"
    assert (header.ssl.client, header.crc32c, header.length) == (1, True, len(data))
    assert (header.authority, header.unique_id) == ("a.example", f"l4lb-{number}".encode())


@pytest.mark.external
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_nginx_sends(receiver: Receiver, tmp_path: Path, host: str) -> None:
    sections = """stream {{
      server {{ listen {host}:{port}; proxy_pass 127.0.0.1:{to}; proxy_protocol on; }}
      server {{ listen 127.0.0.1:{ready}; return ready; }}
    }}"""
    with nginx(tmp_path, sections, host=host, to=receiver.port) as port:
        with tcp(port, host.strip("[]")) as client:
            header, data = receiver.header("v1")
            source, destination = named(client)
    assert header == Header(1, source=source, destination=destination)
    assert build(header) == data


@pytest.mark.external
def test_curl_sends(receiver: Receiver) -> None:
    command = [require("curl"), "-s", "--haproxy-protocol", f"http://127.0.0.1:{receiver.port}/"]
    with subprocess.Popen(command, env=without_preload()) as curl:
        header, _ = receiver.header("v1")
        curl.kill()
    assert header.source is not None
    assert (header.source.host, header.transport) == ("127.0.0.1", Transport.STREAM)
    assert header.destination == SocketAddress(AF_INET, "127.0.0.1", receiver.port)


# ---- what others accept ----

HAPROXY_TELLS = """listen web
  mode http
  bind 127.0.0.1:{port} accept-proxy
  http-request return status 200 content-type text/plain lf-string "<%[src] %[src_port] %[dst] %[dst_port] \
%[fc_pp_unique_id] %[fc_pp_authority]>"
"""
NGINX_TELLS = """http {{
  access_log off; client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;
  uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
  server {{ listen 127.0.0.1:{port} proxy_protocol; location / {{ default_type text/plain; return 200
    "<$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port>"; }} }}
  server {{ listen 127.0.0.1:{ready}; }}
}}"""


def told(port: int, header: bytes) -> list[str]:
    """What a server says of a client that begins with `header`; nothing when it ends the connection instead."""
    answer = b""
    with tcp(port) as client, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        client.sendall(header + b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
        while piece := client.recv(4096):
            answer += piece
    found = re.search(rb"<(.*)>$", answer, re.DOTALL)
    return found[1].decode().split(" ") if found and answer.startswith(b"HTTP/1.1 200") else []


PAIRS = [(CLIENT, SERVER), (CLIENT_V6, SERVER_V6), (CLIENT, SERVER_V6), (CLIENT_V6, SERVER)]


def expected(source: SocketAddress, destination: SocketAddress) -> list[str]:
    mixed = source.family != destination.family
    hosts = [f"::ffff:{one.host}" if mixed and one.family == AF_INET else one.host for one in (source, destination)]
    return [hosts[0], str(source.port), hosts[1], str(destination.port)]


def unmapped(words: list[str]) -> list[str]:
    """Addresses in their usual text, however they are written; v4-mapped ones as IPv4."""
    return [_unmapped(word) if ":" in word else word for word in words]


def _unmapped(text: str) -> str:
    ip = ipaddress.IPv6Address(text)
    return str(ip.ipv4_mapped or ip)


@pytest.mark.external
def test_haproxy_accepts(tmp_path: Path) -> None:
    tlvs = ((Type.AUTHORITY, b"a.example"), (Type.UNIQUE_ID, b"l4lb-1"), (Type.NOOP, b""), (0xE4, b"own"))
    with haproxy(tmp_path, HAPROXY_TELLS) as port:
        for source, destination in PAIRS:
            wanted = unmapped(expected(source, destination))
            for header in [
                Header(1, source=source, destination=destination),
                Header(source=source, destination=destination),
                Header(source=source, destination=destination, crc32c=True),
            ]:
                assert unmapped(told(port, build(header)))[:4] == wanted, header
            full = Header(source=source, destination=destination, tlvs=tlvs, crc32c=True)
            assert unmapped(told(port, build(full))) == [*wanted, "l4lb-1", "a.example"]
        for nobody in [Header(1), Header(command=Command.LOCAL)]:
            assert told(port, build(nobody))[::2][:2] == ["127.0.0.1", "127.0.0.1"]


@pytest.mark.external
def test_nginx_accepts(tmp_path: Path) -> None:
    tlvs = ((Type.AUTHORITY, b"a.example"), (Type.UNIQUE_ID, b"l4lb-1"))
    with nginx(tmp_path, NGINX_TELLS) as port:
        for source, destination in PAIRS:
            for header in [
                Header(1, source=source, destination=destination),
                Header(source=source, destination=destination, tlvs=tlvs, crc32c=True),
            ]:
                assert unmapped(told(port, build(header))) == unmapped(expected(source, destination)), header
        for nobody in [Header(1), Header(), Header(command=Command.LOCAL)]:
            assert told(port, build(nobody)) != []


@pytest.mark.external
def test_haproxy_refuses_what_l4lb_refuses(tmp_path: Path) -> None:
    """Malformed in the eyes of both: no client of either gets through with it."""
    right = build(Header(source=CLIENT, destination=SERVER, crc32c=True))
    wrong = [
        right[:-1] + bytes([right[-1] ^ 1]),
        v2(0x11, V4 + b"\x02\0\7"),
        v2(0x11, V4[:11]),
        v2(0x11, V4, version_command=0x31),
        v2(0x11, V4, version_command=0x22),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
        b"",
    ]
    with haproxy(tmp_path, HAPROXY_TELLS) as port:
        assert told(port, right) != []
        for data in wrong:
            with pytest.raises(ProxyHeaderError):
                parse(data + b"GET / HTTP/1.0\r\n\r\n")
            assert told(port, data) == [], data


@pytest.mark.external
def test_haproxy_accepts_what_l4lb_passes_on_from_clouds(tmp_path: Path) -> None:
    with haproxy(tmp_path, HAPROXY_TELLS) as port:
        header = parse(v2(0x11, V4 + tlv(0xEA, b"\x01vpce-08d2bf15fac5001c9")))
        assert told(port, build(header))[:4] == ["192.0.2.1", "40000", "198.51.100.7", "443"]
