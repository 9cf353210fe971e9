"""``l4lb announce`` with each daemon: a router learns and loses the addresses as the instance goes on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import forking
from tests.support.peers import connect, echo, serving
from tests.support.programs import L4lb, l4lb
from tests.support.routers import ENGINES, Announcing, Router, router_and_node
from tests.support.systemd import booted
from tests.support.waiting import hang, wait_until

pytestmark = pytest.mark.external

FILE = """
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = [{{ address = "{backend}", id = "one" }}, {{ address = "{backend}", id = "two" }}]
health = {{ type = "none" }}
"""
NOTHING: dict[str, int | None] = {}


@dataclass
class Scene:
    router: Router
    announcing: Announcing
    directory: Path
    admin: str
    stack: contextlib.ExitStack
    process: L4lb | None = None

    def start_instance(self) -> L4lb:
        file = self.directory / "lb.toml"
        self.process = self.stack.enter_context(l4lb("serve", "-c", str(file), "--admin", self.admin))
        self.process.wait_for("admin listening")
        return self.process

    def command(self, *arguments: str) -> None:
        done = forking.run(*arguments, environment={"L4LB_ADMIN": self.admin})
        assert done.returncode == 0, done.stderr

    def set_backends(self, verb: str, *names: str) -> None:
        for name in names:
            self.command("backend", verb, "web", name)

    def wait(self, expected: dict[str, int | None]) -> None:
        self.router.wait_for(expected, self.announcing.said)


@contextlib.contextmanager
def scene(engine: str, directory: Path, *more: str) -> Iterator[Scene]:
    """The announcer runs; the instance does not yet."""
    admin = f"unix:{directory}/admin.sock"
    with contextlib.ExitStack() as stack:
        router, node = stack.enter_context(router_and_node(directory))
        server = stack.enter_context(serving(echo))
        (directory / "lb.toml").write_text(FILE.format(backend=server.address))
        announcing = ENGINES[engine](node, directory, admin, more or ("--rise", "100ms"))
        stack.callback(announcing.stop)
        announcing.start()
        yield Scene(router, announcing, directory, admin, stack)


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_follows_the_instance(engine: str, tmp_path: Path) -> None:
    with scene(engine, tmp_path) as at:
        announcing = at.announcing
        announcing.wait_said("withdrawn: no answer from the instance")
        process = at.start_instance()
        at.wait(announcing.normal())
        assert set(at.router.communities().values()) == {"(65001,1)"}

        at.set_backends("maint", "one", "two")
        at.wait(NOTHING)
        announcing.wait_said('withdrawn: pool "web" has no usable backend')
        at.set_backends("ready", "two")
        at.wait(announcing.normal())

        process.signal(signal.SIGKILL)
        at.wait(NOTHING)
        process = at.start_instance()
        at.wait(announcing.normal())

        with connect(process.address("web")):  # a session that it waits for
            process.signal(signal.SIGTERM)
            at.wait(announcing.draining())
        assert process.wait() == 0
        at.wait(NOTHING)


def test_a_daemon_that_is_killed_is_told_again(engine: str, tmp_path: Path) -> None:
    with scene(engine, tmp_path) as at:
        at.start_instance()
        at.wait(at.announcing.normal())
        at.announcing.restart_daemon()
        at.wait(NOTHING)
        at.wait(at.announcing.normal())


def test_it_withdraws_at_its_own_end(engine: str, tmp_path: Path) -> None:
    with scene(engine, tmp_path) as at:
        at.start_instance()
        at.wait(at.announcing.normal())
        if engine == "exabgp":  # which starts it again, so the address comes back: the other process withdraws at first
            os.kill(at.announcing.pid, signal.SIGTERM)
            at.announcing.wait_said("withdrawn: ends")
            at.wait(at.announcing.normal())
            return
        assert at.announcing.stop_announcer() == 0
        at.wait(NOTHING)


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "exabgp"])
def test_what_a_killed_one_leaves_is_withdrawn_by_the_unit(engine: str, tmp_path: Path) -> None:
    with scene(engine, tmp_path) as at:
        at.start_instance()
        at.wait(at.announcing.normal())
        at.announcing.stop_announcer(signal.SIGKILL)
        for _ in range(2):  # it may be withdrawn already
            done = at.announcing.withdraw()
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            at.wait(NOTHING)


def unit(at: Scene) -> str:
    """That of contrib/systemd, which does not start again here what has ended."""
    text = Path("contrib/systemd/l4lb-announce.service").read_text()
    program = Path(sys.executable).with_name("l4lb")
    changes = {
        r"(Exec\w+)=l4lb (.*)": rf"\1={program} \2",
        r"(Wants|After)=.*": "",
        r"\[Service\]": rf"DefaultDependencies=no\n[Service]\nStandardError=append:{at.directory}/announce.log",
        r'Environment="ANNOUNCE=.*"': f'Environment="ANNOUNCE={" ".join(at.announcing.arguments)} --rise 100ms"',
        r"Environment=L4LB_ADMIN=.*": f"Environment=L4LB_ADMIN={at.admin}",
        r"(PrivateTmp|ProtectHome)=.*": r"\1=no",  # the sockets are in /tmp, and a Python of root's home may run here
        r"Restart=.*": "Restart=no",
    }
    for pattern, replacement in changes.items():
        text, count = re.subn(f"^{pattern}$", replacement, text, flags=re.MULTILINE)
        assert count, pattern
    return text


def test_under_systemd_what_a_killed_one_leaves_is_withdrawn(tmp_path: Path) -> None:
    with scene("bird", tmp_path) as at:
        at.announcing.stop_announcer()
        at.start_instance()
        with booted(tmp_path, {"l4lb-announce.service": unit(at)}, "l4lb-announce.service") as systemd:
            at.wait(at.announcing.normal())
            systemd.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", "l4lb-announce.service")
            at.wait(NOTHING)
            systemd.run("systemctl", "restart", "l4lb-announce.service")
            at.wait(at.announcing.normal())
            systemd.run("systemctl", "stop", "l4lb-announce.service")
            at.wait(NOTHING)
            assert "withdrawn: ends" in at.announcing.said


def test_exabgp_starts_a_killed_one_again(tmp_path: Path) -> None:
    with scene("exabgp", tmp_path) as at:
        process = at.start_instance()
        at.wait(at.announcing.normal())
        hang(at.announcing.pid)
        process.signal(signal.SIGKILL)  # which the announcer does not live to see
        os.kill(at.announcing.pid, signal.SIGKILL)
        at.wait(NOTHING)


def test_a_hung_instance_counts_as_down(tmp_path: Path) -> None:
    with scene("gobgp", tmp_path, "--fail-after", "500ms", "--rise", "100ms") as at:
        process = at.start_instance()
        at.wait(at.announcing.normal())
        process.hang()
        try:
            at.wait(NOTHING)
            at.announcing.wait_said("does not answer in time")
        finally:
            process.signal(signal.SIGCONT)
        at.wait(at.announcing.normal())


def test_a_restart_may_be_borne(tmp_path: Path) -> None:
    with scene("gobgp", tmp_path, "--gone-after", "1h", "--interval", "20ms") as at:
        process = at.start_instance()
        at.wait(at.announcing.normal())
        at.announcing.wait_said(r"announced\n$")
        before = at.announcing.said
        process.signal(signal.SIGKILL)
        process.wait()
        assert forking.run("health", "--admin", at.admin).returncode == 1
        at.start_instance()
        at.set_backends("maint", "one", "two")  # the new one is asked
        at.announcing.wait_said("withdrawn: pool")
        lines = at.announcing.said.removeprefix(before).splitlines()
        assert len(lines) == 1, lines


def test_a_flapping_backend_is_one_change(tmp_path: Path) -> None:
    with scene("gobgp", tmp_path, "--rise", "1h", "--interval", "20ms") as at:
        at.start_instance()
        at.wait(at.announcing.normal())
        for _ in range(5):
            at.set_backends("maint", "one", "two")
            at.set_backends("ready", "one", "two")
        at.wait(NOTHING)
        at.announcing.wait_said("withdrawn: pool")
        lines = [line for line in at.announcing.said.splitlines() if "told" not in line]
        assert [line.split(": ")[1] for line in lines[-2:]] == ["announced", "withdrawn"]


def test_too_few_backends(tmp_path: Path) -> None:
    with scene("gobgp", tmp_path, "--min-backends", "2", "--listener", "web", "--rise", "100ms") as at:
        at.start_instance()
        at.wait(at.announcing.normal())
        at.set_backends("maint", "one")
        at.wait(NOTHING)
        at.announcing.wait_said('pool "web" has 1 usable backend, 2 are wanted')


def test_an_upgrade_withdraws_nothing(tmp_path: Path) -> None:
    with scene("bird", tmp_path) as at:
        process = at.start_instance()
        at.wait(at.announcing.normal())
        at.announcing.wait_said(r"announced\n$")
        before = at.announcing.said
        at.command("upgrade")
        assert process.wait() == 0
        new = json.loads(forking.run("status", "--json", environment={"L4LB_ADMIN": at.admin}).stdout)
        assert at.announcing.said == before
        assert at.router.learned() == at.announcing.normal()
        os.kill(new["pid"], signal.SIGKILL)
        at.wait(NOTHING)
        assert wait_until(lambda: not Path(f"/proc/{new['pid']}").exists())


def test_a_daemon_that_is_away_is_reported_once(tmp_path: Path) -> None:
    with scene("bird", tmp_path) as at:
        at.start_instance()
        at.wait(at.announcing.normal())
        at.announcing.stop_announcer()
        at.announcing.following += ["--birdc", "/nowhere/birdc"]
        at.announcing.start_announcer()
        at.announcing.wait_said("cannot be told: .*/nowhere/birdc: No such file or directory")
        assert at.announcing.stop_announcer() == 1
        assert at.announcing.said.count("cannot be told:") == 1


def test_a_daemon_that_hangs_holds_nothing_up(tmp_path: Path) -> None:
    with scene("bird", tmp_path) as at:
        process = at.start_instance()
        at.wait(at.announcing.normal())
        with at.announcing.hung_daemon():
            process.signal(signal.SIGKILL)
            at.announcing.wait_said("cannot be told: disable vip4: birdc was not done within 5 s")
        at.wait(NOTHING)
        at.announcing.wait_said("the daemon is told again\n.*withdrawn: no answer from the instance")


def test_a_name_that_bird_does_not_know(tmp_path: Path) -> None:
    with scene("bird", tmp_path) as at:
        at.start_instance()
        at.announcing.stop_announcer()
        at.announcing.following += ["--protocol", "vip5"]
        at.announcing.start_announcer()
        at.announcing.wait_said("cannot be told: enable vip5: .*syntax error")
        at.wait(at.announcing.normal())  # the others
        assert at.announcing.stop_announcer() == 1
