"""The Debian package as a server has it: in a clean root with systemd as process 1.

    python3 -m tests.deb_test dist      as root; `make deb-test`

`apt install ./l4lb_*.deb`, all that the package brings, a configuration of an administrator's, the upgrade to a package
built again, remove, purge. Each step is printed once it has passed. The root is of the Debian release that the package
is built for, and kept in `build/roots`; the machine is a copy of it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from l4lb.cli.addresses.keepalived import TRACK_FILE
from tests.support.machine import Machine, cannot_boot, copy, in_root, machine, server_root
from tests.support.roots import missing
from tests.support.waiting import wait_until

SOURCE = Path(__file__).resolve().parent.parent
ROOTS = SOURCE / "build/roots/packages"
# /root has the packages, /etc/apt this test's settings.
NOT_OURS = ("/proc", "/sys", "/run/systemd", "/root", "/etc/apt", "/var/lib/apt", "/var/cache/apt", "/var/cache/man")
SUITES = {"deb12": "bookworm", "deb13": "trixie"}
PROGRAMS = ("nsenter", "dpkg-deb")
UNITS = ("l4lb.service", "l4lb-announce.service")
ANNOUNCER = "etc/systemd/system/l4lb-announce.service.d"

ECHO = """
import asyncio
async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()
async def main():
    await (await asyncio.start_server(echo, "127.0.0.1", 9001)).serve_forever()
asyncio.run(main())
"""
CLIENT = """
import socket, sys
sock = socket.create_connection(("127.0.0.1", 443), 60)
for line in sys.stdin.buffer:
    sock.sendall(line)
    got = b""
    while not got.endswith(b"\\n"):
        more = sock.recv(65536)
        if not more:
            sys.exit("closed")
        got += more
    sys.stdout.buffer.write(got)
    sys.stdout.flush()
"""
# What an administrator makes of the file that comes with the package.
FILE = """
[global]
log = "/var/log/l4lb/l4lb.log"
access_log = "/var/log/l4lb/access.log"
state_file = "/var/lib/l4lb/state.json"
[listeners.web]
bind = ":80"
pool = "web"
[listeners.echo]
bind = ":443"
pool = "echo"
[pools.web]
backends = ["127.0.0.1:9000"]
[pools.echo]
backends = ["127.0.0.1:9001"]
"""


def expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise SystemExit(f"deb-test: {what}: {found!r}, expected {expected!r}")


def passed(step: str) -> None:
    print(f"  {step}", flush=True)


def again(package: Path, folder: Path) -> Path:
    """The same package with a version that is newer."""
    tree = folder / "again"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^(Version: .*)$", r"\1+again", control.read_text(), flags=re.MULTILINE))
    target = folder / "l4lb_again.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, target], check=True, stdout=subprocess.DEVNULL)
    return target


def lint(package: Path) -> None:
    if shutil.which("lintian") is None:
        passed("lintian is not installed, and says nothing")
        return
    done = subprocess.run(["lintian", "--fail-on=error,warning", package], capture_output=True, text=True)
    expect(f"lintian, which says\n{done.stdout}{done.stderr}", done.returncode, 0)
    passed("lintian finds no error and has no warning")


def install(server: Machine) -> None:
    server.run("apt-get", "install", "-y", "/root/l4lb.deb")
    check_service(server)
    expect("`l4lb status`", "127.0.0.1:8080" in server.run("l4lb", "status"), True)
    server.run("l4lb", "check", "/etc/l4lb/lb.toml")
    conffiles = server.run("dpkg-query", "--show", "--showformat=${Conffiles}", "l4lb").split()[::2]
    expect("configuration files", sorted(conffiles), ["/etc/l4lb/lb.toml", "/etc/logrotate.d/l4lb"])
    announcing = server.run("systemctl", "is-enabled", "l4lb-announce.service", check=False).strip()
    expect("l4lb-announce is-enabled", announcing, "disabled")
    expect("l4lb-announce is-active", server.is_active("l4lb-announce.service"), False)
    passed("apt installs it; the service runs, as its user, by the first configuration")


def check_service(server: Machine) -> None:
    expect("is-active", server.is_active("l4lb.service"), True)
    expect("is-enabled", server.run("systemctl", "is-enabled", "l4lb.service").strip(), "enabled")
    user = server.run("stat", "--format=%U:%G", f"/proc/{server.shows('l4lb.service', 'MainPID')}").strip()
    expect("user", user, "l4lb:l4lb")
    expect("shell of the user", server.run("getent", "passwd", "l4lb").strip().rpartition(":")[2], "/usr/sbin/nologin")


def read_manual(server: Machine) -> None:
    for page in ("l4lb", "l4lb-serve", "lb.toml"):
        text = server.run("man", "--warnings=all", page)
        expect(f"man {page}", "NAME" in text and page in text, True)
    expect("whatis", "l4lb (1)" in server.run("whatis", "l4lb"), True)
    server.shell("zcat /usr/share/doc/l4lb/changelog.gz | grep -q 0.1.0; grep -q Apache /usr/share/doc/l4lb/copyright")
    passed("man pages and documents are there")


def complete(server: Machine) -> None:
    """Each shell finds its file by itself."""
    bash = """
        set +eu
        . /usr/share/bash-completion/bash_completion
        _completion_loader l4lb
        complete -p l4lb | grep -q _l4lb_completion || exit 3
        COMP_LINE="l4lb stat" COMP_POINT=9
        _l4lb_completion l4lb stat
        echo "${COMPREPLY[@]}"
    """
    expect("bash", server.shell(bash).strip(), "status")
    zsh = "autoload -Uz compinit && compinit -u -D && print $_comps[l4lb]"
    expect("zsh", server.run("zsh", "-f", "-c", zsh).strip(), "_l4lb")
    fish = server.run("fish", "-c", 'complete --do-complete "l4lb stat"')
    expect("fish", fish.split("\t")[0].strip(), "status")
    passed("bash, zsh and fish complete")


def configure(server: Machine) -> None:
    """Backends, the administrator's file by a reload, curl; a broken file changes nothing."""
    (server.root / "root/echo.py").write_text(ECHO)
    (server.root / "root/client.py").write_text(CLIENT)
    (server.root / "srv/hello").write_text("hello from behind l4lb\n")
    web = ("python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", "/srv", "9000")
    server.run("systemd-run", "--unit=web", *web)
    server.run("systemd-run", "--unit=echo", "python3", "/root/echo.py")
    reload(server, FILE)
    assert wait_until(lambda: healthy(server), 60)
    fetch(server)
    file = server.root / "etc/l4lb/lb.toml"
    file.write_text(FILE + "\nnonsense = 1\n")
    server.run("systemctl", "reload", "l4lb.service", check=False)
    expect("is-active after a broken file", server.is_active("l4lb.service"), True)
    fetch(server)
    reload(server, FILE)
    passed("it goes by a changed file, on low ports, and not by a broken one; curl gets through")


def reload(server: Machine, text: str) -> None:
    (server.root / "etc/l4lb/lb.toml").write_text(text)
    server.run("systemctl", "reload", "l4lb.service")


def healthy(server: Machine) -> bool:
    return subprocess.run(server.within("l4lb", "health"), capture_output=True).returncode == 0


def fetch(server: Machine) -> None:
    text = server.run("curl", "--silent", "--fail", "--max-time", "30", "http://127.0.0.1/hello", check=False)
    expect("curl", text, "hello from behind l4lb\n")


def rotate(server: Machine) -> None:
    """By the rules of the package, as root's timer does it: l4lb writes into the new files."""
    log = server.root / "var/log/l4lb"
    assert wait_until(lambda: "pool=web" in (log / "access.log").read_text(), 30)
    assert wait_until(lambda: "reloaded" in (log / "l4lb.log").read_text(), 30)
    server.run("logrotate", "--force", "/etc/logrotate.d/l4lb")
    expect("rotated", sorted(one.name for one in log.glob("*.1")), ["access.log.1", "l4lb.log.1"])
    reopened = log / "l4lb.log"
    assert wait_until(lambda: reopened.exists() and "reopened" in reopened.read_text(), 30)
    fetch(server)
    assert wait_until(lambda: "pool=web" in (log / "access.log").read_text(), 30)
    passed("logrotate rotates its logs, and l4lb goes on in new ones")


def announce(server: Machine) -> None:
    """As an administrator has it run: for keepalived, which needs not be there."""
    settings = server.root / ANNOUNCER
    settings.mkdir()
    (settings / "override.conf").write_text('[Service]\nEnvironment="ANNOUNCE=keepalived"\n')
    server.run("systemctl", "daemon-reload")
    server.run("systemctl", "enable", "--now", "l4lb-announce.service")
    assert wait_until(lambda: is_announced(server), 60)
    passed("the announcer says that this node is fit")


def is_announced(server: Machine) -> bool:
    return server.run("cat", TRACK_FILE, check=False).strip() == "0"


@contextmanager
def connected(server: Machine) -> Iterator[subprocess.Popen[str]]:
    client = subprocess.Popen(
        server.within("python3", "/root/client.py"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield client
    finally:
        client.kill()
        client.wait()


def exchange(client: subprocess.Popen[str], text: str) -> None:
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(f"{text}\n")
    client.stdin.flush()
    expect("what came back on a connection", client.stdout.readline(), f"{text}\n")


def upgrade(server: Machine) -> None:
    server.run("l4lb", "backend", "weight", "web", "127.0.0.1:9000", "7")
    before = {unit: server.shows(unit, "MainPID") for unit in UNITS}
    with connected(server) as client:
        exchange(client, "before")
        server.run("apt-get", "install", "-y", "/root/l4lb_again.deb")
        exchange(client, "after")
    check_service(server)
    for unit in UNITS:
        expect(f"{unit} is-active", server.is_active(unit), True)
        expect(f"MainPID of {unit} is another", server.shows(unit, "MainPID") != before[unit], True)
    assert wait_until(lambda: is_announced(server), 60)
    expect("the configuration", (server.root / "etc/l4lb/lb.toml").read_text(), FILE)
    expect("a runtime change", '"weight": 7' in server.run("l4lb", "backend", "list", "web", "--json"), True)
    fetch(server)
    passed("an upgrade keeps the configuration, runtime changes, an open connection, and an announcer that runs")


def files_of(server: Machine) -> set[str]:
    """All that bears the name, but for what apt and dpkg write down, or is the user's."""
    kept = " -o ".join(f"-path {path}" for path in NOT_OURS)
    script = rf"find / \( {kept} \) -prune -o \( -name '*l4lb*' -o -nouser -o -nogroup \) -print"
    return set(server.shell(script).split())


def remove(server: Machine) -> None:
    server.run("apt-get", "remove", "-y", "l4lb")
    for unit in UNITS:
        expect(f"{unit} is-active", server.is_active(unit), False)
    for gone in ("usr/lib/l4lb", "usr/bin/l4lb", "usr/share/doc/l4lb"):
        expect(f"/{gone} is there", os.path.lexists(server.root / gone), False)
    for kept in ("etc/l4lb/lb.toml", "var/log/l4lb/access.log", "var/lib/l4lb/state.json"):
        expect(f"/{kept} is there", (server.root / kept).exists(), True)
    passed("removed, it is stopped; configuration, logs and state stay")


def purge(server: Machine) -> None:
    """Nothing is left but what an administrator added."""
    (server.root / "etc/l4lb/own.pem").write_text("somebody else's\n")
    shutil.rmtree(server.root / ANNOUNCER)  # an administrator's, too
    server.run("apt-get", "purge", "-y", "l4lb")
    expect("files left", files_of(server), {"/etc/l4lb"})
    expect("in it", [one.name for one in (server.root / "etc/l4lb").iterdir()], ["own.pem"])
    left = server.shell("grep -s l4lb /etc/passwd /etc/group /etc/shadow /etc/gshadow || true")
    expect("the user", left, "")
    passed("purged, it leaves nothing but a file that is not its own")


def test_in(suite: str, package: Path, folder: Path) -> None:
    root = copy(server_root(suite, ROOTS), folder / "root")
    shutil.copy(package, root / "root/l4lb.deb")
    again(package, folder).rename(root / "root/l4lb_again.deb")
    log = ROOTS / f"{suite}.log"
    in_root(root, "apt-get update && apt-get install -y --download-only ./l4lb.deb", log)
    with machine(root, ROOTS / f"{suite}-systemd.log") as server:
        for step in (install, read_manual, complete, configure, rotate, announce, upgrade, remove, purge):
            step(server)


def main() -> None:
    needed = [*missing(), *(name for name in PROGRAMS if shutil.which(name) is None)]
    if os.geteuid() != 0 or needed:
        sys.exit(f"deb-test: makes roots, as root; missing: {' '.join(needed) or 'root'}")
    if why := cannot_boot():
        sys.exit(f"deb-test: {why}")
    packages = sorted(Path(sys.argv[1]).resolve().glob("l4lb_*.deb"))
    if not packages:
        sys.exit(f"deb-test: no package in {sys.argv[1]}: `make deb` makes one")
    ROOTS.mkdir(parents=True, exist_ok=True)
    for package in packages:
        release = package.name.split("+")[-1].split("_")[0]
        if release not in SUITES:
            sys.exit(f"deb-test: {package.name}: expected a package for one of {', '.join(SUITES)}")
        print(f"{package.name}:", flush=True)
        lint(package)
        with tempfile.TemporaryDirectory(dir=ROOTS, prefix="run-") as name:
            test_in(SUITES[release], package, Path(name))


if __name__ == "__main__":
    main()
