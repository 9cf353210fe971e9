"""The image's second stage without an engine: what its RUN lines make, in namespaces of the test's, and its command in
there as process 1, with its environment, its user, and no right at all, as Docker and Kubernetes can start it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dockerfile import exec_form, instructions
from tests.support.peers import Server, echo, running
from tests.support.programs import L4lb, l4lb, require, without_preload
from tests.support.users import directory_of_all, interpreter_of_all, require_root, rights_of

pytestmark = pytest.mark.external

# /etc can be written without a change outside; the network is one of its own, in which Docker has no low ports either.
PREPARE = """
set -e
ip link set lo up
echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
mount -t tmpfs tmpfs /mnt
cp -a /etc /mnt/etc
mount --bind /mnt/etc /etc
mount -t tmpfs -o mode=755 tmpfs /run
{made}
cp {directory}/lb.toml /etc/l4lb/lb.toml
mount -o remount,bind,ro /etc
exec {drop} env {environment} "$@"
"""
DROP = "setpriv --reuid={user} --regid={user} --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs"
FILE = """
[global]
workers = 1
[listeners.web]
bind = ":443"
pool = "web"
[pools.web]
backends = ["unix:{directory}/echo.sock"]
"""
ASK = """
import socket
sock = socket.create_connection(("127.0.0.1", 443), 30)
sock.sendall(b"x")
print(sock.recv(1))
"""


def said(word: str) -> str:
    (found,) = (rest for one, rest in instructions() if one == word)
    return found


def user_made() -> str:
    """The RUN line that makes the user and its folders, as it is."""
    (found,) = (rest for word, rest in instructions() if word == "RUN" and "useradd" in rest)
    return found


def with_python(command: list[str]) -> list[str]:
    """The image has `l4lb` in its PATH; here it is this Python's."""
    program, *arguments = command
    assert program == "l4lb"
    return [sys.executable, "-m", "l4lb", *arguments]


def children(process: L4lb) -> list[int]:
    """None when it has ended."""
    pid = process.process.pid
    with contextlib.suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def end_children(process: L4lb) -> None:
    """--kill-child alone does not: a process that changes its user loses that (prctl(2), PR_SET_PDEATHSIG)."""
    for pid in children(process):
        os.kill(pid, signal.SIGKILL)


class Container:
    """`pid`: process 1 of it, seen from outside."""

    def __init__(self, process: L4lb) -> None:
        self.process = process
        (self.pid,) = children(process)

    def kill(self, number: signal.Signals) -> None:
        """`docker kill --signal`, `docker stop`: to process 1, from outside."""
        subprocess.run(["kill", f"-{int(number)}", str(self.pid)], check=True)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """`docker exec`: in its namespaces, as its user."""
        user = said("USER")
        spaces = ["--mount", "--pid", "--net", f"--setuid={user}", f"--setgid={user}"]
        words = [require("nsenter"), "-t", str(self.pid), *spaces, "env", said("ENV"), *command]
        return subprocess.run(words, env=without_preload(), capture_output=True, text=True, timeout=60)


@contextlib.contextmanager
def backend(directory: Path) -> Iterator[None]:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{directory}/echo.sock")
    (directory / "echo.sock").chmod(0o666)
    listening.listen(16)
    with running(Server(echo, listening=listening)):
        yield


@pytest.fixture
def container() -> Iterator[Container]:
    require_root()
    fields = {"made": user_made(), "drop": DROP.format(user=said("USER")), "environment": said("ENV")}
    spaces = ["--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc", "--net"]
    arguments = exec_form("CMD")
    with directory_of_all() as directory, backend(directory):
        (directory / "lb.toml").write_text(FILE.format(directory=directory))
        script = PREPARE.format(directory=directory, **fields)
        within = [*interpreter_of_all(), require("unshare"), *spaces, "sh", "-c", script, "sh"]
        with l4lb(*arguments, admin=True, within=within) as process, contextlib.ExitStack() as stack:
            stack.callback(end_children, process)
            process.wait_for("backend up", 60)
            yield Container(process)


def test_it_serves_a_low_port_without_any_right(container: Container) -> None:
    user = int(said("USER"))
    for thread, rights in rights_of(container.pid).items():
        assert rights.uids == (user,) * 4, thread
        assert rights.permitted == rights.effective == rights.inheritable == rights.ambient == 0, thread
    asked = container.execute(sys.executable, "-c", ASK)
    assert (asked.stdout, asked.stderr) == ("b'x'\n", "")


def test_its_health_check_and_exec_find_the_admin_api(container: Container) -> None:
    check = container.execute(*with_python(exec_form("HEALTHCHECK")))
    assert check.returncode == 0, check
    listed = container.execute(*with_python(["l4lb", "backend", "list", "web"]))
    assert "echo.sock" in listed.stdout, listed


def test_signals_reload_it_and_stop_it(container: Container) -> None:
    """A file that is mounted read-only, as the Dockerfile's head has it, is read again."""
    container.kill(signal.SIGHUP)
    container.process.wait_for("reloaded")
    container.kill(signal.Signals[said("STOPSIGNAL")])
    container.process.wait_for("draining")
    assert container.process.wait() == 0


def test_only_its_user_enters_the_folder_of_the_socket(container: Container) -> None:
    listed = subprocess.run(
        [require("nsenter"), "-t", str(container.pid), "--mount", "stat", "--format=%a %U %u", "/run/l4lb"],
        capture_output=True,
        text=True,
    )
    assert listed.stdout == f"700 l4lb {said('USER')}\n"
