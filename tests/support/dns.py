"""DNS servers and proxies of Debian's that speak the PROXY protocol over UDP, and what asks them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.support.programs import answers, require, run
from tests.support.servers import Program, running


def taken(port: int) -> bool:
    """Whether somebody has that UDP port of loopback."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def dig(address: str, *question: str, source: str = "127.0.0.1") -> str:
    host, _, port = address.rpartition(":")
    return run("dig", "-b", source, f"@{host}", "-p", port, "+tries=1", "+timeout=10", *question)


RECURSOR = (
    "--daemon=no", "--disable-syslog=yes", "--quiet=no", "--threads=1", "--dnssec=off", "--security-poll-suffix=",
    "--disable-packetcache=yes",
    "--local-address=127.0.0.1", "--allow-from=127.0.0.0/8", "--proxy-protocol-from=127.0.0.0/8",
)  # fmt: skip


@contextlib.contextmanager
def recursor(authority: Program) -> Iterator[Program]:
    """PowerDNS Recursor, which asks `authority` for example., takes nothing without a PROXY header, and logs who asked
    it."""
    program = require("pdns_recursor")

    def command(directory: Path, port: int) -> list[str]:
        where = [f"--local-port={port}", f"--config-dir={directory}", f"--socket-dir={directory}"]
        return [program, *RECURSOR, *where, f"--forward-zones=example={authority.address}"]

    with running("recursor", command, ready=lambda server: taken(server.port) and answers(server.port)) as server:
        yield server


@contextlib.contextmanager
def dnsdist(configuration: str) -> Iterator[Program]:
    program = require("dnsdist")

    def command(directory: Path, port: int) -> list[str]:
        file = directory / "conf"
        file.write_text(
            f'setLocal("127.0.0.1:{port}")\nsetACL("127.0.0.0/8")\nsetSecurityPollSuffix("")\n{configuration}'
        )
        return [program, "--supervised", "--disable-syslog", "-C", str(file)]

    with running("dnsdist", command, ready=lambda server: taken(server.port)) as server:
        yield server
