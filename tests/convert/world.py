"""The samples in a world of their own: their backends' 10.x.y.z become 127.x.y.z, and what they listen on becomes an
address of the test's own, with the ports that they have. Backends say who they are, and satisfy the checks."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.peers import Server, read_exactly, running
from tests.support.servers import certificate

_V2 = bytes.fromhex("0d0a0d0a000d0a515549540a")
_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


def haproxy_text(path: Path, front: str) -> str:
    """Without what needs users, directories or a log of this host, or is of HTTP."""
    text = re.sub(r"(?m)^listen stats\n(?:[ ].*\n?)*", "", path.read_text())
    text = re.sub(r"(?m)^ *(user|group|daemon|stats socket|log) .*\n|^ *daemon\n", "", text)
    text = re.sub(r"(bind \"?)(?:\*|0\.0\.0\.0)?:", rf"\g<1>{front}:", text)
    return re.sub(r"(server \S+ \"?)10\.", r"\g<1>127.", text)


def nginx_text(path: Path, front: str, directory: Path) -> str:
    """The same; the parts that stand on a line of their own, or in the block with a certificate."""
    text = re.sub(r"(?m)^(user|pid|load_module|http|worker_processes|error_log) .*\n", "", path.read_text())
    text = re.sub(r"    server \{\n        listen \d+ ssl;[^}]*\}\n", "", text)
    text = re.sub(r"(?m)^ *listen \[::\].*\n", "", text)
    text = re.sub(r"listen (\d)", rf"listen {front}:\1", text)
    text = re.sub(r"((?:server|proxy_pass) )10\.", r"\g<1>127.", text)
    loaded = f"load_module {_MODULE};\n" if _MODULE.exists() else ""
    head = f"daemon off; master_process off; pid {directory}/pid;\n"
    return loaded + head + text


def without_header(sock: socket.socket) -> tuple[str, bytes]:
    """The version of the PROXY header that a connection begins with, and what came with it."""
    data = sock.recv(1 << 16)
    if data.startswith(_V2):
        data += read_exactly(sock, max(0, 16 - len(data)))
        length = 16 + int.from_bytes(data[14:16], "big")
        data += read_exactly(sock, max(0, length - len(data)))
        return "v2", data[length:]
    if data.startswith(b"PROXY "):
        while b"\r\n" not in data:
            data += sock.recv(1 << 16)
        return "v1", data.partition(b"\r\n")[2]
    return "", data


Handle = Callable[[socket.socket], None]


def naming(name: str) -> Handle:
    """Answers each piece by its name, the version of the PROXY header, and the piece."""

    def handle(sock: socket.socket) -> None:
        version, data = without_header(sock)
        while data or version:
            if data:
                sock.sendall(f"{name}{version}|".encode() + data)
            if not (data := sock.recv(1 << 16)):
                break

    return handle


def mail(name: str) -> Handle:
    """Greets behind a PROXY header, and takes every command."""

    def handle(sock: socket.socket) -> None:
        version, _ = without_header(sock)
        sock.sendall(f"220 {name}{version}|\r\n".encode())
        while sock.recv(1 << 16):
            sock.sendall(b"250 ok\r\n")

    return handle


def redis(name: str, role: str) -> Handle:
    """As much of Redis as the check asks for."""

    def handle(sock: socket.socket) -> None:
        while data := sock.recv(1 << 16):
            if data.startswith(b"PING"):
                sock.sendall(b"+PONG\r\n")
            elif data.startswith(b"info"):
                sock.sendall(f"$9\r\nrole:{role}\r\n".encode())
            elif data.startswith(b"QUIT"):
                sock.sendall(b"+OK\r\n")
                return
            else:
                sock.sendall(f"{name}|".encode() + data)

    return handle


def web(path: str) -> Handle:
    """Answers requests for `path` with 200, others with 503."""

    def handle(sock: socket.socket) -> None:
        if request := sock.recv(1 << 16):
            status = "200 OK" if request.split(b" ")[1] == path.encode() else "503 Not Now"
            sock.sendall(f"HTTP/1.0 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    return handle


def tls(name: str, context: ssl.SSLContext) -> Handle:
    """Says its name over TLS."""

    def handle(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True) as wrapped:
            while data := wrapped.recv(1 << 16):
                wrapped.sendall(f"{name}|".encode() + data)

    return handle


def server_context(directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(directory, "api.example.com"))
    return context


@contextlib.contextmanager
def backends(handlers: dict[str, Handle]) -> Iterator[None]:
    """By address."""
    with contextlib.ExitStack() as stack:
        for address, handle in handlers.items():
            host, _, port = address.rpartition(":")
            stack.enter_context(running(Server(handle, host, int(port))))
        yield
