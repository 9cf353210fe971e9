"""A real etcd of one server, and its own client."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.programs import answers, free_port, require, run
from tests.support.servers import Program, directory_for
from tests.support.waiting import hang

_PATIENT = ("--heartbeat-interval=300", "--election-timeout=3000")  # a busy machine is no reason for another leader


class Etcd:
    """`port` and data stay the same while it is away. `login`: NAME:PASSWORD for the client. `tls`: a certificate of
    localhost and its key, which with `mutual` clients have to show too. `quota_bytes` 0: etcd's default."""

    def __init__(
        self, directory: Path, tls: tuple[str, str] | None = None, *, mutual: bool = False, quota_bytes: int = 0
    ) -> None:
        self._directory, self._tls, self._mutual, self._quota_bytes = directory, tls, mutual, quota_bytes
        self.name, self.members = "one", ""  # of its cluster
        self.port, peers = free_port(), free_port()
        self.peers = f"http://127.0.0.1:{peers}"
        self.endpoint = f"https://localhost:{self.port}" if tls else f"http://127.0.0.1:{self.port}"
        self.login = ""
        self._server: Program | None = None

    def start(self) -> None:
        self.launch()
        self.wait()

    def launch(self) -> None:
        peers, clients = self.peers, self.endpoint.replace("localhost", "127.0.0.1")
        tls = [f"--cert-file={self._tls[0]}", f"--key-file={self._tls[1]}"] if self._tls else []
        if self._tls and self._mutual:
            tls += ["--client-cert-auth", f"--trusted-ca-file={self._tls[0]}"]
        command = [
            require("etcd"), f"--name={self.name}", f"--data-dir={self._directory}/data", "--logger=zap",
            f"--listen-client-urls={clients}", f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster={self.members or f'{self.name}={peers}'}",
            *tls, f"--quota-backend-bytes={self._quota_bytes}",
            *(_PATIENT if self.members else ()),
        ]  # fmt: skip
        self._server = Program(command, self._directory, self.port)

    def wait(self) -> None:
        """Until it answers: in a cluster, once most of its servers are there."""
        assert self._server is not None
        self._server.wait_for(lambda: answers(self.port))

    def stop(self, end: signal.Signals = signal.SIGKILL) -> None:
        if self._server is not None:
            self._server.stop(end)
            self._server = None

    def signal(self, number: signal.Signals) -> None:
        assert self._server is not None
        self._server.process.send_signal(number)

    def hang(self) -> None:
        """Until SIGCONT, as a hung host looks."""
        assert self._server is not None
        hang(self._server.process.pid)

    def ctl(self, *words: str) -> str:
        login = [f"--user={self.login}"] if self.login else []
        tls = [f"--cacert={self._tls[0]}"] if self._tls else []
        tls += [f"--cert={self._tls[0]}", f"--key={self._tls[1]}"] if self._tls and self._mutual else []
        patient = ("--command-timeout=60s", "--dial-timeout=60s")  # of its own it waits for 5 s, and 2 s
        return run("etcdctl", f"--endpoints={self.endpoint}", *patient, *login, *tls, *words, timeout_s=90)

    def has_leader(self) -> bool:
        """Whether it can be asked for what holds now, which in a cluster the leader alone knows."""
        try:
            self.ctl("get", "/")
        except AssertionError:
            return False
        return True

    def put(self, key: str, value: str, lease: str = "") -> None:
        self.ctl("put", *([f"--lease={lease}"] if lease else []), key, value)

    def put_many(self, values: Mapping[str, str]) -> None:
        """A hundred at once, by the JSON gateway."""
        puts = [{"requestPut": {"key": _base64(key), "value": _base64(value)}} for key, value in values.items()]
        for first in range(0, len(puts), 100):
            self._ask("/v3/kv/txn", {"success": puts[first : first + 100]})

    def delete(self, key: str) -> None:
        """By the JSON gateway."""
        self._ask("/v3/kv/deleterange", {"key": _base64(key)})

    def _ask(self, path: str, what: object) -> None:
        with urllib.request.urlopen(f"{self.endpoint}{path}", json.dumps(what).encode(), timeout=60) as answer:
            assert answer.status == 200


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@contextlib.contextmanager
def etcd(tls: tuple[str, str] | None = None, *, mutual: bool = False, quota_bytes: int = 0) -> Iterator[Etcd]:
    with directory_for("etcd") as directory:
        server = Etcd(directory, tls, mutual=mutual, quota_bytes=quota_bytes)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def cluster(count: int) -> Iterator[list[Etcd]]:
    """So many servers of one etcd."""
    with contextlib.ExitStack() as stack:
        servers = [Etcd(stack.enter_context(directory_for("etcd"))) for _ in range(count)]
        for number, server in enumerate(servers):
            server.name = f"n{number}"
        for server in servers:
            server.members = ",".join(f"{one.name}={one.peers}" for one in servers)
            stack.callback(server.stop)
            server.launch()
        for server in servers:
            server.wait()
        yield servers
