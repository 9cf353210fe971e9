"""A router, which is a real BIRD, and a node beside it, on which a real daemon speaks BGP with the router: each in a
network namespace that is made here and removed again.

    node 10.82.1.1, fd82:1::1, AS 65001 --- router 10.82.1.254, fd82:1::fe, AS 65000
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.namespaces import Host, link, namespaces
from tests.support.programs import require, run, without_preload
from tests.support.waiting import hang, wait_until

NODE, ROUTER = {4: "10.82.1.1", 6: "fd82:1::1"}, {4: "10.82.1.254", 6: "fd82:1::fe"}
V4, V6 = "192.0.2.10/32", "2001:db8::10/128"

ROUTER_CONF = f"""
router id {ROUTER[4]};
protocol device {{}}
protocol bgp node {{
  local {ROUTER[4]} as 65000; neighbor {NODE[4]} as 65001;
  hold time 9; connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 {{ import all; export none; }};
  ipv6 {{ import all; export none; }};
}}
"""


class Daemon:
    """A program in a namespace, in the foreground; what it says is kept in one file over all its lives."""

    def __init__(
        self, host: Host, command: Sequence[str], log: Path, environment: dict[str, str] | None = None
    ) -> None:
        self._command = [*host.command, *command]
        self._log = log
        self._environment = {**without_preload(), **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


class Router:
    """Its table is what the world knows."""

    def __init__(self, host: Host, directory: Path) -> None:
        file = directory / "router.conf"
        file.write_text(ROUTER_CONF)
        self._socket = directory / "router.ctl"
        command = [require("bird"), "-f", "-c", str(file), "-s", str(self._socket), "-P", str(directory / "router.pid")]
        self.daemon = Daemon(host, command, directory / "router.log")

    def start(self) -> None:
        self.daemon.start()
        assert wait_until(lambda: listens(self._socket)), self.daemon.log

    def ask(self, *words: str) -> str:
        return run("birdc", "-s", str(self._socket), *words)

    def learned(self) -> dict[str, int | None]:
        """The MED of each prefix."""
        return {prefix: None if med is None else int(med) for prefix, med in self._found(r"BGP\.med: (\d+)")}

    def communities(self) -> dict[str, str | None]:
        return dict(self._found(r"BGP\.community: (.*)"))

    def _found(self, pattern: str) -> Iterator[tuple[str, str | None]]:
        for part in re.split(r"\n(?=[0-9a-f.:]+/\d+ )", self.ask("show", "route", "all")):
            if prefix := re.match(r"[0-9a-f.:]+/\d+", part):
                match = re.search(pattern, part)
                yield prefix[0], match[1] if match else None

    def wait_for(self, expected: dict[str, int | None], log: str = "") -> None:
        assert wait_until(lambda: self.learned() == expected), (self.learned(), expected, log, self.ask("show", "prot"))


def listens(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        return True
    return False


class Announcing(ABC):
    """A daemon on the node, and `l4lb announce` for it. `more` are arguments of that; `meds` what it is to announce."""

    meds = (100, 1000)

    def __init__(self, host: Host, directory: Path, admin: str, more: Sequence[str]) -> None:
        self.host, self.directory = host, directory
        self.following = ["--admin", admin, *more]
        self.announcer: subprocess.Popen[bytes] | None = None
        self._said = directory / "announce.log"

    @abstractmethod
    def start(self) -> None:
        """The daemon, and the announcer once the daemon takes commands."""

    @abstractmethod
    def restart_daemon(self) -> None:
        """Kill it, and start it again."""

    @property
    @abstractmethod
    def arguments(self) -> list[str]:
        """Those of the engine's command."""

    def normal(self) -> dict[str, int | None]:
        return {V4: self.meds[0], V6: self.meds[0]}

    def draining(self) -> dict[str, int | None]:
        return {V4: self.meds[1], V6: self.meds[1]}

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "l4lb", "announce", *self.arguments, *self.following]

    def start_announcer(self) -> None:
        with self._said.open("ab") as log:
            self.announcer = subprocess.Popen(
                [*self.host.command, *self.command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        """Of the announcer."""
        assert self.announcer is not None
        return self.announcer.pid

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace")

    def wait_said(self, pattern: str) -> None:
        assert wait_until(lambda: re.search(pattern, self.said)), (pattern, self.said)

    def stop_announcer(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.announcer is not None
        self.announcer.send_signal(number)
        code = self.announcer.wait(60)
        self.announcer = None
        return code

    def withdraw(self) -> subprocess.CompletedProcess[str]:
        """As the unit's ExecStopPost= does."""
        command = [*self.host.command, *self.command, "--withdraw"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def stop(self) -> None:
        if self.announcer is not None:
            self.announcer.kill()
            self.announcer.wait()


class WithExaBgp(Announcing):
    """The announcer is ExaBGP's child, and writes where ExaBGP does."""

    @property
    def arguments(self) -> list[str]:
        return ["exabgp", V4, V6, "--next-hop", NODE[6], "--community", "65001:1"]

    def start(self) -> None:
        conf = self.directory / "exabgp.conf"
        text = documented("exabgp.conf")
        ours = f"/usr/local/bin/l4lb announce {' '.join(self.arguments)};"
        assert ours in text, "the documented command is the one that is tested"
        conf.write_text(text.replace(ours, f"{' '.join(self.command)};"))
        environment = {
            "exabgp.daemon.user": "root",
            "exabgp.daemon.drop": "false",
            "exabgp.api.cli": "false",
            "exabgp.log.destination": "stderr",
            "exabgp.tcp.bind": "",
        }
        self._daemon = Daemon(self.host, [require("exabgp"), str(conf)], self._said, environment)
        self._daemon.start()

    @property
    def pid(self) -> int:
        children = Path(f"/proc/{self._daemon.pid}/task/{self._daemon.pid}/children")
        assert wait_until(lambda: children.read_text().split()), self.said
        return int(children.read_text().split()[0])

    def restart_daemon(self) -> None:
        child = os.pidfd_open(self.pid)
        self._daemon.stop(signal.SIGKILL)
        signal_ended(child)
        self._daemon.start()

    def stop(self) -> None:
        self._daemon.stop(signal.SIGKILL)
        super().stop()


def signal_ended(pidfd: int) -> None:
    """Wait until that process has ended, and close its descriptor."""
    ended = select.select([pidfd], [], [], 60)[0]
    os.close(pidfd)
    assert ended


class WithBird(Announcing):
    """The routes and their MEDs are those of the configuration in docs/announce.md."""

    @property
    def arguments(self) -> list[str]:
        return [
            "bird", "--protocol", "vip4", "--protocol", "vip6", "--drain-protocol", "drain4",
            "--drain-protocol", "drain6", "--socket", str(self._socket), "--refresh", "1s",
        ]  # fmt: skip

    @property
    def _socket(self) -> Path:
        return self.directory / "node.ctl"

    def start(self) -> None:
        conf = self.directory / "node.conf"
        conf.write_text(documented("bird.conf"))
        command = [require("bird"), "-f", "-c", str(conf), "-s", str(self._socket), "-P", str(self.directory / "n.pid")]
        self._daemon = Daemon(self.host, command, self.directory / "node.log")
        self._daemon.start()
        assert wait_until(lambda: listens(self._socket)), self._daemon.log
        self.start_announcer()

    def restart_daemon(self) -> None:
        self._daemon.stop(signal.SIGKILL)
        self._daemon.start()

    @contextlib.contextmanager
    def hung_daemon(self) -> Iterator[None]:
        hang(self._daemon.pid)
        try:
            yield
        finally:
            os.kill(self._daemon.pid, signal.SIGCONT)

    def stop(self) -> None:
        super().stop()
        self._daemon.stop(signal.SIGKILL)


class WithFrr(Announcing):
    """Sockets and files of its own: Debian's FRR, if one runs here, is another."""

    @property
    def arguments(self) -> list[str]:
        return [
            "frr", V4, V6, "--asn", "65001", "--community", "65001:1", "--vty-socket", str(self._home),
            "--refresh", "1s",
        ]  # fmt: skip

    @functools.cached_property
    def _home(self) -> Path:
        """Where FRR's user may write: a test's own directory is root's alone."""
        return Path(tempfile.mkdtemp(prefix="l4lb-frr-"))

    def start(self) -> None:
        require("vtysh")
        home = self._home
        (home / "bgpd.conf").write_text(documented("frr.conf"))
        for path in (home, home / "bgpd.conf"):
            shutil.chown(path, "frr", "frr")
        zserv = str(home / "zserv.api")
        common = ["--vty_socket", str(home), "-z", zserv, "-P", "0"]
        zebra = [frr_program("zebra"), *common, "-i", str(home / "zebra.pid"), "-f", "/dev/null"]
        bgpd = [frr_program("bgpd"), *common, "-i", str(home / "bgpd.pid"), "-f", str(home / "bgpd.conf"), "-S"]
        self._zebra = Daemon(self.host, zebra, self.directory / "zebra.log")
        self._bgpd = Daemon(self.host, bgpd, self.directory / "bgpd.log")
        self._zebra.start()
        assert wait_until(lambda: listens(home / "zserv.api")), self._zebra.log
        self._bgpd.start()
        assert wait_until(lambda: listens(home / "bgpd.vty")), self._bgpd.log
        self.start_announcer()

    def restart_daemon(self) -> None:
        self._bgpd.stop(signal.SIGKILL)
        self._bgpd.start()

    def stop(self) -> None:
        super().stop()
        for daemon in (self._bgpd, self._zebra):
            daemon.stop(signal.SIGKILL)
        shutil.rmtree(self._home)


def frr_program(name: str) -> str:
    """Debian keeps FRR's daemons apart."""
    path = Path("/usr/lib/frr", name)
    return str(path) if path.exists() else require(name)


class WithGoBgp(Announcing):
    @property
    def arguments(self) -> list[str]:
        return ["gobgp", V4, V6, "--next-hop", NODE[6], "--community", "65001:1", "--refresh", "1s"]

    def start(self) -> None:
        conf = self.directory / "gobgpd.toml"
        conf.write_text(documented("gobgpd.toml"))
        self._daemon = Daemon(
            self.host, [require("gobgpd"), "-f", str(conf), "--api-hosts", "127.0.0.1:50051"], self.directory / "go.log"
        )
        self._daemon.start()
        self.start_announcer()

    def restart_daemon(self) -> None:
        self._daemon.stop(signal.SIGKILL)
        self._daemon.start()

    def stop(self) -> None:
        super().stop()
        self._daemon.stop(signal.SIGKILL)


ENGINES: dict[str, type[Announcing]] = {"exabgp": WithExaBgp, "bird": WithBird, "frr": WithFrr, "gobgp": WithGoBgp}


def documented(name: str) -> str:
    """A file of docs/announce.md, with the addresses of these hosts, and timers for tests."""
    text = Path("docs/announce.md").read_text(encoding="utf-8")
    found = re.search(rf"`{re.escape(name)}`[^\n]*:\n\n```text\n(.*?)```", text, re.DOTALL)
    assert found is not None, name
    text = found[1]
    for there, here in (("10.0.1.254", ROUTER[4]), ("10.0.1.1", NODE[4]), ("fd00:1::1", NODE[6])):
        text = text.replace(there, here)
    return text


@contextlib.contextmanager
def router_and_node(directory: Path) -> Iterator[tuple[Router, Host]]:
    """The router's BIRD runs. Skips the test, with the reason, where this is impossible."""
    for program in ("bird", "birdc"):
        require(program)
    number = os.getpid() % 100000
    with namespaces(f"l4lb-{os.getpid()}-router", f"l4lb-{os.getpid()}-node") as (router, node):
        link(node, f"l4n{number}", router, f"l4r{number}")
        for host, end, addresses in ((node, f"l4n{number}", NODE), (router, f"l4r{number}", ROUTER)):
            host.ip("addr", "add", f"{addresses[4]}/24", "dev", end)
            host.ip("addr", "add", f"{addresses[6]}/64", "dev", end, "nodad")
            host.ip("link", "set", end, "up")
        for address in (V4, V6):
            node.ip("addr", "add", address, "dev", "lo")
        found = Router(router, directory)
        found.start()
        try:
            yield found, node
        finally:
            found.daemon.stop(signal.SIGKILL)
