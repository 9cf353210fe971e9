"""`[hooks] module`: `l4lb serve` loads an operator's code at its start and at each reload, `l4lb check` tries it, and
an upgrade asks the new process's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l4lb import Client
from tests.scenarios.test_upgrade import end, pid_of, upgraded
from tests.support import forking
from tests.support.peers import connect, greeting, hold, read_until_end, serving
from tests.support.programs import L4lb, free_port, l4lb
from tests.support.waiting import wait_until

FILE = """
[admin]
bind = "unix:{directory}/admin.sock"
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "web"
[hooks]
module = "site_hooks.sessions"
deadline = "50s"
on_error = "reject"
[pools.web]
backends = ["{a}"]
health = {{ type = "none" }}
[pools.other]
backends = ["{b}"]
health = {{ type = "none" }}
"""
TO_POOL = 'from l4lb.hooks import ToPool\ndef on_session(session):\n    return ToPool("{}")\n'
HANGS = """
import os, time
def on_session(session):
    open({path!r}, "w").close()
    while os.path.exists({path!r}):
        time.sleep(0.01)
    return False
"""


class Site:
    """A file of l4lb's, and the module that it names."""

    def __init__(self, directory: Path, backends: list[str]) -> None:
        self.directory = directory
        self.file = directory / "lb.toml"
        self.admin = f"unix:{directory}/admin.sock"
        self.port = free_port()
        self.module = directory / "site_hooks" / "sessions.py"
        self.module.parent.mkdir()
        (self.module.parent / "__init__.py").touch()
        self.environment = {"PYTHONPATH": f"{directory}:{os.getcwd()}", "PYTHONDONTWRITEBYTECODE": "1"}
        self.file.write_text(FILE.format(directory=directory, port=self.port, a=backends[0], b=backends[1]))

    def write(self, text: str) -> None:
        self.module.write_text(text)

    def answer(self) -> bytes | None:
        try:
            with connect(f"127.0.0.1:{self.port}") as client:
                said, was_reset = read_until_end(client)
                return None if was_reset else said
        except ConnectionResetError:
            return None

    @contextlib.contextmanager
    def serving(self) -> Iterator[L4lb]:
        arguments = ("serve", "-c", str(self.file))
        with l4lb(*arguments, environment=self.environment, admin=True) as process:
            process.wait_for("listening listener=web")
            process.wait_for("admin listening")
            yield process


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(greeting(b"a")) as a, serving(greeting(b"b")) as b:
        yield Site(tmp_path, [a.address, b.address])


def test_a_reload_loads_the_module_again_and_a_broken_one_changes_nothing(site: Site) -> None:
    site.write(TO_POOL.format("other"))
    with site.serving() as process, Client(site.admin) as client:
        assert site.answer() == b"b"
        hook = client.status()["listeners"][0]["hook"]
        assert hook is not None
        assert (hook["name"], hook["sessions"]) == ("site_hooks.sessions.on_session", {"pool": 1})
        site.write(TO_POOL.format("web"))
        process.signal(signal.SIGHUP)
        process.wait_for("reloaded")
        assert site.answer() == b"a"
        site.write("limit = 3\nlimit = 1 / 0\n")
        process.signal(signal.SIGHUP)
        found = process.wait_for("reload failed.*")
        assert f"{site.file}:8: hooks.module: " in found[0]
        assert f"ZeroDivisionError: division by zero ({site.module}:2)" in found[0]
        assert site.answer() == b"a"
        before, _, rest = site.file.read_text().partition("[hooks]")
        site.file.write_text(before + rest[rest.index("[pools") :])
        site.write(TO_POOL.format("other"))
        process.signal(signal.SIGHUP)
        process.wait_for("reloaded(.*\n)*.*reloaded(.*\n)*")
        assert site.answer() == b"a"
        assert client.status()["listeners"][0]["hook"] is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def on_session(session:\n", "SyntaxError: '(' was never closed ({module}:1)"),
        ("import nosuch_package\n", "ModuleNotFoundError: No module named 'nosuch_package' ({module}:1)"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 ({module}:2)"),
        ("def on_sesion(session): ...\n", "has no function on_session or on_close"),
        ("on_session = 3\n", "its on_session is no function"),
        ("def on_session(session): ...\non_close = None\n", "its on_close is no function"),
    ],
)
def test_check_and_serve_say_what_is_wrong_with_the_module(site: Site, text: str, reason: str) -> None:
    site.write(text)
    for arguments in (["check", str(site.file)], ["serve", "-c", str(site.file)]):
        done = forking.run(*arguments, environment=site.environment)
        assert done.returncode == 2, done.stderr
        expected = f'{site.file}:8: hooks.module: "site_hooks.sessions": '
        assert expected in done.stderr
        assert reason.format(module=site.module) in done.stderr


def test_check_takes_a_good_module(site: Site) -> None:
    site.write(TO_POOL.format("other"))
    done = forking.run("check", str(site.file), environment=site.environment)
    assert done.returncode == 0, done.stderr


def test_a_session_that_waits_at_an_upgrade_is_asked_about_by_the_new_process(site: Site) -> None:
    asked = site.directory / "asked"
    site.write(HANGS.format(path=str(asked)))
    with site.serving() as process, contextlib.ExitStack() as stack:
        stack.callback(asked.unlink, missing_ok=True)
        client = stack.enter_context(connect(f"127.0.0.1:{site.port}"))
        assert wait_until(asked.exists)
        site.write(TO_POOL.format("other"))
        new = upgraded(process, process.process.pid, site.admin)
        stack.callback(end, new)
        assert read_until_end(client) == (b"b", False)
        assert pid_of(site.admin) == new
        asked.unlink()  # what the old process's hook says is late
        with Client(site.admin) as told:
            hook = told.status()["listeners"][0]["hook"]
            assert hook is not None
            assert hook["sessions"] == {"pool": 1}


# ---- on_close ----

NOTES = """
import json
def on_close(record):
    with open({path!r}, "a") as file:
        file.write(json.dumps({{"by": {name!r}, **record}}) + "\\n")
"""


class Notes:
    """What on_close of a site's module gets, as it writes it into a file."""

    def __init__(self, site: Site) -> None:
        self._file = site.directory / "notes"
        self._site = site

    def write_module(self, name: str, more: str = "") -> None:
        self._site.write(more + NOTES.format(path=str(self._file), name=name))

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._file.read_text().splitlines()] if self._file.exists() else []

    def by(self) -> list[str]:
        return [one["by"] for one in self.read()]


@pytest.fixture
def notes(site: Site) -> Notes:
    """Without options that only on_session has."""
    site.file.write_text(site.file.read_text().replace('deadline = "50s"\non_error = "reject"\n', ""))
    return Notes(site)


def test_a_module_with_only_on_close_has_no_session_asked_about(site: Site, notes: Notes) -> None:
    notes.write_module("one")
    with site.serving() as process, Client(site.admin) as client:
        assert site.answer() == b"a"
        assert wait_until(lambda: notes.by() == ["one"])
        assert client.status()["listeners"][0]["hook"] is None
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert notes.read()[0]["bytes_down"] == 1


def test_a_reload_loads_on_close_anew_and_a_failing_one_changes_nothing(site: Site, notes: Notes) -> None:
    notes.write_module("one")
    with site.serving() as process:
        assert site.answer() == b"a"
        assert wait_until(lambda: notes.by() == ["one"])
        notes.write_module("two")
        process.signal(signal.SIGHUP)
        process.wait_for("reloaded")
        assert site.answer() == b"a"
        good = site.file.read_text()
        notes.write_module("three")
        site.file.write_text(good.replace('pool = "web"', 'pool = "nosuch"'))
        process.signal(signal.SIGHUP)
        process.wait_for("reload failed")
        site.file.write_text(good)
        site.write("def on_close(record): ...\n1 / 0\n")
        process.signal(signal.SIGHUP)
        process.wait_for("ZeroDivisionError")
        assert site.answer() == b"a"
        site.write("def on_session(session): ...\n")
        process.signal(signal.SIGHUP)
        process.wait_for("reloaded(.*\n)*.*reloaded(.*\n)*")
        assert site.answer() == b"a"
    assert notes.by() == ["one", "two", "two"]


def test_options_of_on_session_need_one(site: Site) -> None:
    site.write("def on_close(record): ...\n")
    with l4lb("serve", "-c", str(site.file), environment=site.environment) as process:
        assert process.wait() == 2
        for line, key in ((9, "deadline"), (10, "on_error")):
            message = f'{site.file}:{line}: hooks.{key}: has no effect: "site_hooks.sessions" has no on_session'
            assert message in process.log


UDP = '[listeners.dns]\nbind = "127.0.0.1:0"\npool = "web"\nprotocol = "udp"\n[hooks]\nlisteners = {}\n'


@pytest.mark.parametrize(
    ("text", "listeners", "reason"),
    [
        ("def on_close(record): ...\n", '["dns"]', ""),
        ("def on_close(record): ...\ndef on_session(session): ...\n", '["dns", "web"]', ""),
        ("def on_session(session): ...\n", '["dns", "web"]', 'hooks.listeners[0]: "dns": on_session is for TCP'),
        ("def on_close(record): ...\ndef on_session(session): ...\n", '["dns"]', "no listener can have its on_session"),
    ],
    ids=range(4),
)
def test_udp_listeners_can_have_on_close_only(site: Site, notes: Notes, text: str, listeners: str, reason: str) -> None:
    site.write(text)
    site.file.write_text(site.file.read_text().replace("[hooks]\n", UDP.format(listeners)))
    done = forking.run("check", str(site.file), environment=site.environment)
    assert done.returncode == (2 if reason else 0), done.stderr
    assert reason in done.stderr


def test_after_an_upgrade_the_new_process_tells_of_sessions_that_end_there(site: Site, notes: Notes) -> None:
    with serving(hold) as server, contextlib.ExitStack() as stack:
        old_backend = next(line for line in site.file.read_text().splitlines() if line.startswith("backends"))
        site.file.write_text(site.file.read_text().replace(old_backend, f'backends = ["{server.address}"]'))
        notes.write_module("old")
        with site.serving() as process:
            client = stack.enter_context(connect(f"127.0.0.1:{site.port}"))
            assert wait_until(lambda: server.accepted == 1)
            notes.write_module("new")
            new = upgraded(process, process.process.pid, site.admin)
            stack.callback(end, new)
            assert process.wait() == 0
            assert notes.by() == []
            client.close()
            assert wait_until(lambda: notes.by() == ["new"])


TAGGING = """
from l4lb.hooks import Accept
def on_session(session):
    return Accept(tags={"by": "before" if session.client_port else ""})
"""


def test_tags_go_to_the_new_process_with_their_sessions(site: Site, notes: Notes) -> None:
    with serving(hold) as server, contextlib.ExitStack() as stack:
        text = site.file.read_text().replace("[hooks]\n", '[hooks]\ndeadline = "50s"\n')
        backends = next(line for line in text.splitlines() if line.startswith("backends"))
        site.file.write_text(text.replace(backends, f'backends = ["{server.address}"]'))
        notes.write_module("old", TAGGING)
        with site.serving() as process:
            clients = [stack.enter_context(connect(f"127.0.0.1:{site.port}")) for _ in range(3)]
            assert wait_until(lambda: server.accepted == 3)
            clients.pop().close()
            assert wait_until(lambda: len(notes.read()) == 1)
            notes.write_module("new", TAGGING.replace("before", "after"))
            new = upgraded(process, process.process.pid, site.admin)
            stack.callback(end, new)
            assert process.wait() == 0
            with Client(site.admin) as client:
                assert [one["tags"] for one in client.sessions()] == [{"by": "before"}] * 2
                clients.append(stack.enter_context(connect(f"127.0.0.1:{site.port}")))
                assert wait_until(lambda: server.accepted == 4)
                assert [one["tags"]["by"] for one in client.sessions()] == ["before", "before", "after"]
            for sock in clients:
                sock.close()
            assert wait_until(lambda: len(notes.read()) == 4)
    assert sorted((one["by"], one["tags"]["by"]) for one in notes.read()) == [
        ("new", "after"),
        ("new", "before"),
        ("new", "before"),
        ("old", "before"),
    ]
