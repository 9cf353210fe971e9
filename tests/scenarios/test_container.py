"""What a container makes of it: the Dockerfile by its linter, its commands as they are, and life as process 1.

No engine runs here; `make package-test` carries out what the Dockerfile builds.
"""

from __future__ import annotations

import fnmatch
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dockerfile import FILE, copied, exec_form, instructions
from tests.support.peers import connect, echo, serving
from tests.support.programs import l4lb, require

pytestmark = pytest.mark.external


def test_its_linter_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, "--failure-threshold=style", FILE], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = [line for line in (FILE.parent / ".dockerignore").read_text().splitlines() if line]
    for name in copied():
        name = name.removeprefix("./")
        assert (FILE.parent / name).exists(), name
        last = [pattern for pattern in ignored if fnmatch.fnmatch(name, pattern.removeprefix("!"))][-1]
        assert last == f"!{name}"


def test_it_runs_as_a_user_without_rights() -> None:
    users = [rest for word, rest in instructions() if word == "USER"]
    assert users == ["10001"], "a number: Kubernetes' runAsNonRoot cannot see that a name is not root's"


def test_the_health_check_passes_while_the_command_runs(tmp_path: Path) -> None:
    """In the image's environment, with another place for its files."""
    environment = {"RUNTIME_DIRECTORY": f"{tmp_path}/run"}
    assert [rest for word, rest in instructions() if word == "ENV"] == ["RUNTIME_DIRECTORY=/run/l4lb"]
    program, *check = exec_form("HEALTHCHECK")
    assert exec_form("ENTRYPOINT") == [program] == ["l4lb"]
    file = tmp_path / "lb.toml"
    with serving(echo) as one:
        file.write_text(f'[listeners.web]\nbind = ":0"\npool = "web"\n[pools.web]\nbackends = ["{one.address}"]\n')
        arguments = [str(file) if word == "/etc/l4lb/lb.toml" else word for word in exec_form("CMD")]
        assert str(file) in arguments
        with l4lb(*check, environment=environment) as asking:
            assert asking.wait() == 1
        with l4lb(*arguments, admin=True, environment=environment) as process:
            process.wait_for("backend up")
            with l4lb(*check, environment=environment) as asking:
                asking.process.communicate(timeout=20)
                assert asking.wait() == 0


def test_as_process_1_it_drains_and_says_that_it_cannot_upgrade() -> None:
    with serving(echo) as one:
        within = [require("unshare"), "--pid", "--fork", "--kill-child", "--mount-proc"]
        arguments = ("serve", "--listen", "127.0.0.1:0", "--backend", one.address)
        with l4lb(*arguments, within=within) as process:
            process.wait_for("backend up")
            (inside,) = Path(f"/proc/{process.process.pid}/task/{process.process.pid}/children").read_text().split()
            with connect(process.address()) as sock:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
                os.kill(int(inside), signal.SIGUSR2)
                process.wait_for("upgrade failed reason=.*process 1 of a container cannot")
                os.kill(int(inside), signal.SIGTERM)
                process.wait_for("draining sessions=1")
            assert process.wait() == 0
