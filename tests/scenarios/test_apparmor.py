"""contrib/apparmor: the profile is one for AppArmor's own parser, and allows what l4lb does.

Few kernels of those that run tests have AppArmor. So what a whole life of `l4lb serve` does with files and sockets is
recorded, and looked up in the rules.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb import Client
from l4lb.errors import AdminError
from tests.scenarios.test_upgrade import end, gone, pid_of
from tests.support.apparmor import AS_A_SERVICE, Profile, pattern_of, read_profile
from tests.support.peers import connect, echo, serving
from tests.support.programs import L4lb, free_port, l4lb, require, run
from tests.support.waiting import wait_until

pytestmark = pytest.mark.external

PROFILE = Path("contrib/apparmor/l4lb")
CALLS = "%file,%network,mmap,fcntl,flock,%process"  # those that have to do with files, sockets or programs
UNIT = Path("contrib/systemd/l4lb.service")
SUGGESTED = "/usr/lib/nagios/plugins/check_http rix,"
NOBODY = -1
FILE = """
[global]
workers = 2
log = "{at}/log/l4lb.log"
access_log = "{at}/log/access.log"
state_file = "{at}/state/state.json"
[admin]
bind = "unix:{at}/run/admin.sock"
[listeners.web]
bind = ["127.0.0.1:{port}", "[::1]:{port}", "unix:{at}/run/web.sock"]
pool = "web"
deny = ["file:{at}/etc/deny"]
[listeners.dns]
bind = "127.0.0.1:{port}"
protocol = "udp"
pool = "dns"
[pools.web]
backends = ["localhost:{backend}"]
[pools.web.health]
type = "{check}"
interval = "100ms"
[pools.dns]
backends = ["127.0.0.1:{backend}"]
health = {{ type = "none" }}
"""


def places(at: Path) -> list[tuple[str, str]]:
    """Where the test has things, and where an installation by the package has them; the longest first."""
    python = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}"
    environment = {
        sys.prefix: "/usr/lib/l4lb",
        str(Path.cwd()): f"/usr/lib/l4lb/{python}/site-packages",
        f"{sys.base_prefix}/bin": "/usr/bin",
        f"{sys.base_prefix}/lib": "/usr/lib",
    }
    ours = {"etc": "/etc/l4lb", "run": "/run/l4lb", "log": "/var/log/l4lb", "state": "/var/lib/l4lb"}
    found = environment | {str(at / name): there for name, there in ours.items()}
    return sorted(found.items(), key=lambda pair: -len(pair[0]))


def live(process: L4lb, at: Path, fields: dict[str, object], stack: contextlib.ExitStack) -> None:
    """Sessions, a runtime change, a reload to another check, rotated logs, an upgrade, the end."""
    admin, port = f"unix:{at}/run/admin.sock", fields["port"]
    assert wait_until(lambda: answering(admin) != NOBODY, 60), process.log
    assert wait_until(lambda: "backend up" in logged(at), 60), logged(at)
    for address in (f"127.0.0.1:{port}", f"[::1]:{port}", f"unix:{at}/run/web.sock"):
        with connect(address) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
    with Client(admin) as client:
        client.pools["web"][f"localhost:{fields['backend']}"].set_weight(3)
    (at / "etc/lb.toml").write_text(FILE.format(**{**fields, "check": "http"}))
    old = answering(admin)
    os.kill(old, signal.SIGHUP)
    assert wait_until(lambda: "reloaded" in logged(at), 30)
    (at / "log/l4lb.log").rename(at / "log/l4lb.log.1")
    os.kill(old, signal.SIGUSR1)
    assert wait_until((at / "log/l4lb.log").exists, 30)
    os.kill(old, signal.SIGUSR2)
    assert wait_until(lambda: answering(admin) not in (old, NOBODY), 60), logged(at)
    new = next(pid for pid in iter(lambda: answering(admin), 0) if pid not in (old, NOBODY))
    stack.callback(end, new)
    os.kill(new, signal.SIGTERM)
    assert wait_until(lambda: gone(new), 60)


def answering(admin: str) -> int:
    """The process behind that address."""
    try:
        return pid_of(admin)
    except AdminError:
        return NOBODY


def logged(at: Path) -> str:
    return "".join(file.read_text() for file in (at / "log").glob("l4lb.log*"))


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Every system call of such a life that has to do with files or sockets, and where it took place."""
    at = tmp_path_factory.mktemp("life")
    for name in ("etc", "run", "log", "state"):
        (at / name).mkdir()
    (at / "etc/deny").write_text("192.0.2.0/24\n")
    traced = at / "calls"
    with serving(echo) as backend, contextlib.ExitStack() as stack:
        fields = {"port": free_port(), "at": at, "backend": backend.port}
        (at / "etc/lb.toml").write_text(FILE.format(**fields, check="tcp"))
        tracer = [require("strace"), "-D", "-f", "-y", "-qq", "-s", "200", "--signal=none", "-e", f"trace={CALLS}"]
        environment = {
            "PYTHONDONTWRITEBYTECODE": "1"
        }  # the package's bytecode is there, and not the service's to write
        within = [*AS_A_SERVICE, *tracer, "-o", str(traced)]
        arguments = ("serve", "-c", str(at / "etc/lb.toml"))
        process = stack.enter_context(l4lb(*arguments, admin=True, within=within, environment=environment))
        live(process, at, fields, stack)
    return traced.read_text(errors="replace"), at


_ERROR = re.compile(r"= -1 (ENOENT|ENOTDIR|EEXIST|EINVAL)")
_OPENED = re.compile(r"\bopen(?:at)?\(.*?\"(?:[^\"]*)\", ([\w|]+).*= \d+<(/[^>]*)>")
_NAMED = re.compile(r"\b(execve|unlink|rename|mkdir|rmdir|chmod|symlink)(?:at2?)?\((?:AT_FDCWD<[^>]*>, )?\"(/[^\"]*)\"")
_SOCKET = re.compile(r"\b(bind|connect|sendto)\(.*sun_path=\"(/[^\"]*)\"")
_MAPPED = re.compile(r"\bmmap\(.*PROT_EXEC.*, \d+<(/[^>]*)>")
_LOCKED = re.compile(r"\b(?:flock\(\d+<(/[^>]*)>|fcntl\(\d+<(/[^>]*)>, F_(?:OFD_)?SETLK)")


def uses(line: str) -> Iterator[tuple[str, str]]:
    """(path, letter of a rule) for what a system call needs; nothing when there was no such file to judge."""
    if _ERROR.search(line):
        return
    if found := _OPENED.search(line):
        writes = "O_WRONLY" in found[1] or "O_RDWR" in found[1]
        # As AppArmor writes that of a directory, also where it is opened as if it were a file (by subprocess: fd).
        path = found[2] + "/" * ("O_DIRECTORY" in found[1] or re.fullmatch(r"/proc/\d+/fd", found[2]) is not None)
        yield from ((path, letter) for letter in ("w" if "O_WRONLY" in found[1] else "rw" if writes else "r"))
    elif found := _NAMED.search(line):
        yield found[2], "x" if found[1] == "execve" else "w"
    elif found := _SOCKET.search(line):
        yield found[2], "w"
    elif found := _MAPPED.search(line):
        yield found[1], "m"
    elif found := _LOCKED.search(line):
        yield found[1] or found[2], "k"


@pytest.fixture(scope="module")
def profile() -> Profile:
    return read_profile(PROFILE)


def test_its_own_parser_takes_it() -> None:
    run("apparmor_parser", "--skip-kernel-load", "--skip-cache", str(PROFILE))


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("/a/*", "/a/b", True),
        ("/a/*", "/a/b/c", False),
        ("/a/**", "/a/b/c", True),
        ("/a/{b,c*}", "/a/cd", True),
        ("/a/{b,c*}", "/a/d", False),
        ("/a.b", "/axb", False),
        ("/[1-9]x", "/5x", True),
    ],
)
def test_patterns_of_rules(glob: str, path: str, matches: bool) -> None:
    assert bool(pattern_of(glob).fullmatch(path)) is matches


def expect_all_allowed(profile: Profile, calls: str, moved: list[tuple[str, str]]) -> set[str]:
    """The paths that are used, of which `moved` says where an installation has them."""
    found = {use for line in calls.splitlines() for use in uses(line)}
    refused: set[tuple[str, str]] = set()
    for path, letter in found:
        there = next((to + path[len(of) :] for of, to in moved if path.startswith(f"{of}/")), path)
        refused |= set() if profile.allows(there, letter) else {(there, letter)}
    assert not refused, "\n".join(f"{letter} {path}" for path, letter in sorted(refused))
    return {path for path, _ in found}


def test_it_allows_every_file_that_is_used(profile: Profile, trace: tuple[str, Path]) -> None:
    calls, at = trace
    used = expect_all_allowed(profile, calls, places(at))
    assert {str(at / "state/state.json"), str(at / "log/access.log"), str(at / "run/web.sock")} - used == set()


def test_it_allows_the_programs_that_run_beside_it(profile: Profile, tmp_path: Path) -> None:
    """Those of the unit, whose AppArmorProfile= holds for each Exec line; and `systemctl`, which l4lb asks over D-Bus
    whether it is being restarted."""
    programs = {"systemctl", *re.findall(r"^Exec\w+=(\w+) ", UNIT.read_text(), re.MULTILINE)} - {"l4lb"}
    assert programs == {"systemctl", "kill"}
    for name in programs:
        tracer = [require("strace"), "-f", "-y", "-qq", "-e", "trace=%file,mmap", "-o", str(tmp_path / name)]
        run(*tracer, require(name), "--version")
        assert require(name) in expect_all_allowed(profile, (tmp_path / name).read_text(), [])
    assert profile.allows("/run/dbus/system_bus_socket", "w")


def test_it_allows_what_is_locked_in_a_bpffs(profile: Profile) -> None:
    """By kernel_pin: l4lb/engine/kernel/pinning.py."""
    for letter in "rwk":
        assert profile.allows("/sys/fs/bpf/l4lb-0123456789abcdef/", letter), letter


def test_no_program_leaves_the_profile(profile: Profile) -> None:
    """NoNewPrivileges= of the unit has the kernel refuse all transitions but `ix`."""
    assert "\nNoNewPrivileges=yes\n" in UNIT.read_text()
    assert [rule for rule in profile.files if set(rule[1]) & set("uUpPcC")] == []
    assert re.findall(r"^\S+ \w*x,$", Path("docs/packages.md").read_text(), re.MULTILINE) == [SUGGESTED]


def expect_sockets_allowed(profile: Profile, calls: str) -> set[tuple[str, str]]:
    found = {(one.lower(), kind.lower()) for one, kind in re.findall(r"\bsocket(?:pair)?\(AF_(\w+), SOCK_(\w+)", calls)}
    assert found - profile.networks == set()
    return found


def test_it_allows_every_socket_that_is_used(profile: Profile, trace: tuple[str, Path]) -> None:
    found = expect_sockets_allowed(profile, trace[0])
    assert {("inet", "stream"), ("inet6", "stream"), ("inet", "dgram"), ("unix", "stream")} <= found


def test_it_does_not_allow_what_l4lb_never_does(profile: Profile) -> None:
    for path in ("/etc/l4lb/lb.toml", "/usr/lib/l4lb/bin/l4lb", "/etc/passwd", "/usr/bin/python3"):
        assert not profile.allows(path, "w"), path
    for path in ("/etc/shadow", "/root/.ssh/id_rsa", "/home/a/b"):
        assert not profile.allows(path, "r"), path
    assert not profile.allows("/bin/sh", "x")


def test_it_allows_the_capabilities_that_the_unit_names_and_those_to_become_a_user(profile: Profile) -> None:
    named = {name.lower() for name in re.findall(r"CAP_(\w+)", UNIT.read_text())}
    assert {"net_bind_service", "net_raw", "net_admin"} <= named
    assert profile.capabilities == named | {"setuid", "setgid", "setpcap", "chown"}
