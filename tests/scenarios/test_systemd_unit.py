"""contrib/systemd: what systemd itself says of the units, and that l4lb does nothing that they forbid.

systemd has to be process 1 to run a unit, so the forbidden is looked for in what a whole life of `l4lb serve` asks of
the kernel: start, sessions of all kinds, checks, reload, upgrade, drain.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.scenarios.test_upgrade import end, gone, pid_of, upgraded
from tests.support.peers import connect, echo, read_all, serving
from tests.support.programs import L4lb, free_port, l4lb, require, run
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external

UNITS = Path("contrib/systemd")
INSTALLED = ("l4lb.service", "l4lb.socket", "l4lb-announce.service")


def settings(unit: str, section: str) -> dict[str, list[str]]:
    """The words of each key; a key that stands again adds a line of them."""
    found: dict[str, list[str]] = {}
    at = ""
    for line in (UNITS / unit).read_text().splitlines():
        if line.startswith("["):
            at = line.strip("[]")
        elif at == section and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def installed(tmp_path: Path) -> list[Path]:
    """The units as an administrator has them, with the l4lb of this environment."""
    program = Path(sys.executable).with_name("l4lb")
    for name in INSTALLED:
        text = re.sub(r"^(Exec\w+)=l4lb ", rf"\1={program} ", (UNITS / name).read_text(), flags=re.MULTILINE)
        (tmp_path / name).write_text(text)
    return [tmp_path / name for name in INSTALLED]


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    run("systemd-analyze", "verify", "--man=no", *map(str, installed(tmp_path)))


@pytest.mark.parametrize("name", ["l4lb.service", "l4lb-announce.service"])
def test_little_is_exposed(tmp_path: Path, name: str) -> None:
    installed(tmp_path)
    said = run("systemd-analyze", "security", "--offline=yes", "--threshold=30", str(tmp_path / name))
    match = re.search(rf"exposure level for {re.escape(name)}: ([\d.]+)", said)
    assert match, said
    assert float(match[1]) <= {"l4lb.service": 2.0, "l4lb-announce.service": 3.0}[name]


def test_what_announces_also_withdraws() -> None:
    """The command after the end is that of the start, and both are ones that l4lb takes."""
    service = settings("l4lb-announce.service", "Service")
    start, after = service["ExecStart"][0], service["ExecStopPost"][0]
    assert after == f"{start} --withdraw"
    announce = service["Environment"][0].strip('"').partition("=")[2]
    for line in (start, after):
        program, *arguments = line.replace("$ANNOUNCE", announce).split()
        assert program == "l4lb"
        with l4lb(*arguments, "--help") as process:
            assert process.wait() == 0
            assert "--withdraw" in process.process.stdout.read()  # type: ignore[union-attr]


def test_the_commands_are_ours() -> None:
    service = settings("l4lb.service", "Service")
    for line in [*service["ExecStart"], *service["ExecReload"][:1]]:
        program, command, *_ = line.split()
        assert program == "l4lb"
        with l4lb(command, "--help") as process:
            assert process.wait() == 0
    assert settings("l4lb.socket", "Socket")["FileDescriptorName"] == ["web"]
    assert 'bind = "fd:web"' in (UNITS / "l4lb.socket").read_text()


@functools.cache
def _group(name: str) -> frozenset[str]:
    """The system calls of a group such as @io-event."""
    calls: set[str] = set()
    for line in run("systemd-analyze", "syscall-filter", name).splitlines()[1:]:
        word = line.strip()
        if word and not word.startswith("#"):
            calls |= _group(word) if word.startswith("@") else {word}
    return frozenset(calls)


def allowed_calls() -> set[str]:
    allowed: set[str] = set()
    for line in settings("l4lb.service", "Service")["SystemCallFilter"]:
        words = line.removeprefix("~").split()
        calls = {call for word in words for call in (_group(word) if word.startswith("@") else {word})}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


FILE = """
[global]
workers = 2
worker_affinity = true
[listeners.web]
bind = ["127.0.0.1:{port}", "unix:{directory}/web.sock"]
pool = "web"
keepalive = {{ idle = "60s" }}
user_timeout = "30s"
total_bandwidth_up = "1GiB/s"
[listeners.bulk]
bind = "127.0.0.1:{bulk}"
pool = "web"
splice = "always"
[pools.web]
source_address = "127.0.0.1"
backends = ["localhost:{backend}"]
[pools.web.health]
type = "{check}"
interval = "100ms"
{more}
"""


def live(process: L4lb, file: Path, fields: dict[str, object], stack: contextlib.ExitStack) -> None:
    """From the start to the end of the process that took over."""
    admin = f"unix:{file.parent}/admin.sock"
    process.wait_for("backend up")
    for address in (f"127.0.0.1:{fields['port']}", f"127.0.0.1:{fields['bulk']}", f"unix:{file.parent}/web.sock"):
        with connect(address) as sock:
            for _ in range(4):
                sock.sendall(bytes(1 << 18))
                left = 1 << 18
                while left:
                    left -= len(sock.recv(left))
            sock.shutdown(1)
            assert read_all(sock) == b""
    file.write_text(FILE.format(**{**fields, "check": "exec", "more": 'command = ["/bin/true"]'}))
    old = pid_of(admin)
    os.kill(old, signal.SIGHUP)
    process.wait_for("reloaded")
    new = upgraded(process, old, admin)
    stack.callback(end, new)
    process.wait_for(rf"upgraded pid={new}\n(.*\n)*.*drained")
    with connect(f"127.0.0.1:{fields['port']}") as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    os.kill(new, signal.SIGTERM)
    assert wait_until(lambda: gone(new), 30)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Every system call of such a life."""
    directory = tmp_path_factory.mktemp("trace")
    file, traced = directory / "lb.toml", directory / "calls"
    with serving(echo) as backend, contextlib.ExitStack() as stack:
        more = "timeout = '5s'"
        fields = {"port": free_port(), "bulk": free_port(), "directory": directory, "backend": backend.port}
        file.write_text(FILE.format(**fields, check="tcp", more=more))
        tracer = [require("strace"), "-D", "-f", "-qq", "--signal=none", "-o", str(traced)]
        arguments = ("serve", "-c", str(file), "--admin", f"unix:{directory}/admin.sock")
        environment = {"NOTIFY_SOCKET": f"{directory}/notify", "WATCHDOG_USEC": "500000"}
        process = stack.enter_context(l4lb(*arguments, environment=environment, within=tracer))
        live(process, file, fields, stack)
    return traced.read_text(errors="replace")


def test_no_system_call_is_asked_for_that_the_unit_forbids(trace: str) -> None:
    asked = set(re.findall(r"^\d+ +(\w+)\(", trace, re.MULTILINE))
    assert {"epoll_wait", "splice", "accept4", "connect", "sendmsg"} <= asked, "the trace is of a whole life"
    assert asked - allowed_calls() == set()


def test_no_address_family_is_asked_for_that_the_unit_forbids(trace: str) -> None:
    families = set(re.findall(r"socket(?:pair)?\((AF_\w+)", trace))
    allowed = settings("l4lb.service", "Service")["RestrictAddressFamilies"][0].split()
    assert families <= set(allowed)
    assert "AF_INET" in families


def test_no_memory_is_writable_and_executable(trace: str) -> None:
    """What MemoryDenyWriteExecute forbids: systemd.exec(5)."""
    for line in trace.splitlines():
        if " mmap(" in line or " mprotect(" in line or " pkey_mprotect(" in line:
            assert not ("PROT_WRITE" in line and "PROT_EXEC" in line), line
            assert not ("mprotect(" in line and "PROT_EXEC" in line), line
