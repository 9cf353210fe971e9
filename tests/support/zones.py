"""Name servers of Debian's with a zone that a test changes: dnsmasq, which has authority, and PowerDNS Recursor before
it, which answers SERVFAIL when that is gone."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.dns import taken
from tests.support.programs import answers, free_port, require
from tests.support.servers import Program, directory_for, running

ZONE = "example"


class Zone:
    """dnsmasq for names below ``example.``; others do not exist. `port` stays the same while it is away."""

    def __init__(self, directory: Path, ttl_s: int) -> None:
        self.directory, self.ttl_s = directory, ttl_s
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._services: list[str] = []
        self._server: Program | None = None

    def put(self, hosts: Mapping[str, Sequence[str]]) -> None:
        """From now on these are the addresses of these names."""
        lines = [f"{address} {name}" for name, addresses in hosts.items() for address in addresses]
        (self.directory / "hosts").write_text("\n".join([*lines, ""]))
        if self._server is not None:
            self._server.process.send_signal(signal.SIGHUP)

    def put_services(self, name: str, *records: str) -> None:
        """From now on these are its SRV records: ``target,port,priority,weight``. It is away for a moment."""
        self._services = [f"--srv-host={name},{record}" for record in records]
        self.stop()
        self.start()

    def start(self) -> None:
        log = ["--log-facility=-", "--no-daemon", f"--pid-file={self.directory}/pid"]
        where = [f"--port={self.port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--user=root"]
        what = ["--no-resolv", "--no-hosts", f"--addn-hosts={self.directory}/hosts", f"--local=/{ZONE}/"]
        ttl = [f"--local-ttl={self.ttl_s}", "--neg-ttl=1"]
        command = [require("dnsmasq"), "--conf-file=/dev/null", *log, *where, *what, *ttl, *self._services]
        self._server = Program(command, self.directory, self.port)
        self._server.wait_for(lambda: answers(self.port) and taken(self.port))

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(signal.SIGTERM)
            self._server = None


@contextlib.contextmanager
def zone(hosts: Mapping[str, Sequence[str]], ttl_s: int = 1) -> Iterator[Zone]:
    with directory_for("dnsmasq") as directory:
        found = Zone(directory, ttl_s)
        found.put(hosts)
        found.start()
        try:
            yield found
        finally:
            found.stop()


RECURSOR = (
    "--daemon=no", "--disable-syslog=yes", "--quiet=yes", "--threads=1", "--dnssec=off", "--security-poll-suffix=",
    "--disable-packetcache=yes", "--max-negative-ttl=1", "--max-cache-ttl=1", "--server-down-max-fails=0",
    "--local-address=127.0.0.1", "--allow-from=127.0.0.0/8", "--network-timeout=500",
    "--dont-throttle-netmasks=127.0.0.0/8",
)  # fmt: skip


@contextlib.contextmanager
def recursor_of(authority: Zone) -> Iterator[Program]:
    program = require("pdns_recursor")

    def command(directory: Path, port: int) -> list[str]:
        where = [f"--local-port={port}", f"--config-dir={directory}", f"--socket-dir={directory}"]
        return [program, *RECURSOR, *where, f"--forward-zones={ZONE}={authority.address}"]

    with running("recursor", command, ready=lambda server: taken(server.port) and answers(server.port)) as server:
        yield server
