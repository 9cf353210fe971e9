"""examples/records-to-redis as its readers install and run it, with a Redis that is stopped and started."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.support import forking
from tests.support.peers import connect, echo, read_all, serving
from tests.support.programs import L4lb, l4lb
from tests.support.servers import Program, redis
from tests.support.traffic import Scraped
from tests.support.waiting import wait_until

EXAMPLE = Path("examples/records-to-redis").resolve()
STREAM = "l4lb:sessions"
REST = """
[admin]
bind = "127.0.0.1:0"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = ["{backend}"]
health = {{ type = "none" }}
"""
pytestmark = pytest.mark.external


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example's package is installed to."""
    target, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source") / "package"
    shutil.copytree(EXAMPLE, source)
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    options = ["--no-build-isolation", "--no-index", "--target", str(target), str(source)]
    subprocess.run([*command, *options], check=True, timeout=120)
    return target


class Site:
    """l4lb with the configuration of the README, which writes to a Redis of its own."""

    def __init__(self, server: Program, site: Path, directory: Path, backend: str) -> None:
        self.server = server
        self.file = directory / "lb.toml"
        self.environment = {"PYTHONPATH": f"{site}:{os.getcwd()}"}
        block = re.search(r"```toml\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
        assert block is not None
        self._text = block[1].replace("127.0.0.1:6379", server.address)
        self._rest = REST.format(backend=backend)
        self.client = Redis(port=server.port, decode_responses=True)

    def write(self, *changes: tuple[str, str]) -> None:
        text = self._text
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.file.write_text(text + self._rest)

    @contextlib.contextmanager
    def serving(self, *changes: tuple[str, str]) -> Iterator[L4lb]:
        self.write(*changes)
        arguments = ("serve", "-c", str(self.file))
        with l4lb(*arguments, environment=self.environment, admin=True) as process:
            process.wait_for("admin listening")
            yield process

    def entries(self, count: int) -> list[dict[str, str]]:
        """Those that there are once there are `count`."""
        assert wait_until(lambda: self.client.xlen(STREAM) >= count), self.client.xlen(STREAM)
        found: Any = self.client.xrange(STREAM)
        return [fields for _, fields in found]

    def start(self) -> None:
        self.server.start()
        self.server.wait_for(lambda: "Ready to accept connections" in self.server.log)


@pytest.fixture
def here(site: Path, tmp_path: Path) -> Iterator[Site]:
    with redis("--appendonly", "yes") as server, serving(echo) as backend:
        one = Site(server, site, tmp_path, backend.address)
        yield one
        one.client.close()


def session(process: L4lb, size: int) -> None:
    """One that sends and gets `size` bytes."""
    with connect(process.address("web")) as sock:
        sock.sendall(b"x" * size)
        sock.shutdown(1)
        assert len(read_all(sock)) == size


def dropped(process: L4lb) -> float:
    host, port = process.wait_for(r"admin listening address=(\S+):(\d+)").groups()
    return Scraped(f"{host}:{port}").total("l4lb_access_log_dropped_total")


def test_records_are_in_the_stream(here: Site) -> None:
    with here.serving() as process:
        for size in (1, 20, 300):
            session(process, size)
        entries = here.entries(3)
        counts = {(one["bytes_up"], one["bytes_down"]) for one in entries}  # each worker's are in order
        assert counts == {("1", "1"), ("20", "20"), ("300", "300")}
        assert {(one["listener"], one["close_reason"], one["client"]) for one in entries} == {
            ("web", "normal", "127.0.0.1")
        }


def test_a_restart_of_redis_loses_nothing(here: Site) -> None:
    with here.serving(("retry_seconds = 10 ", "retry_seconds = 600 ")) as process:
        session(process, 1)
        here.entries(1)
        here.server.stop()
        session(process, 2)
        process.wait_for("warning redis is away, records wait for it stream=l4lb:sessions reason=")
        session(process, 3)
        here.start()
        assert sorted(one["bytes_up"] for one in here.entries(3)) == ["1", "2", "3"]
        process.wait_for("redis is back")
        assert "access log dropping" not in process.log


def test_what_is_given_up_is_counted_and_it_goes_on(here: Site) -> None:
    with here.serving(("retry_seconds = 10 ", "retry_seconds = 0.1 ")) as process:
        session(process, 1)
        here.entries(1)
        here.server.stop()
        session(process, 2)
        process.wait_for("access log dropping to=plugin:redis_stream reason=.*ConnectionError: ")
        session(process, 3)
        assert wait_until(lambda: dropped(process) == 2)
        here.start()
        session(process, 4)
        assert [one["bytes_up"] for one in here.entries(2)] == ["1", "4"]
        process.wait_for("access log recovered to=plugin:redis_stream dropped=2")


def test_a_user_with_few_rights_and_a_password(here: Site) -> None:
    """And what Redis refuses is lost, but only that."""
    rights = ["+xadd", "+multi", "+exec"]
    here.client.acl_setuser("l4lb", enabled=True, passwords=["+right"], keys=[STREAM], commands=rights)
    user = ('#username = "l4lb"', 'username = "l4lb"')
    with here.serving(user, ('#password = "..."', 'password = "right"')) as process:
        session(process, 1)
        here.entries(1)
        here.client.rename(STREAM, "elsewhere")
        here.client.set(STREAM, "no stream")
        session(process, 2)
        process.wait_for("access log dropping .*WRONGTYPE")
        here.client.delete(STREAM)
        session(process, 3)
        assert [one["bytes_up"] for one in here.entries(1)] == ["3"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (("stream =", "strema ="), 'unknown option "strema": expected url, username, password, stream, max_length'),
        (("max_length = 1000000 ", "max_length = 0 "), "max_length: expected at least 1"),
        (("retry_seconds = 10 ", 'retry_seconds = "10s" '), "retry_seconds: expected a number such as 10.0, got '10s'"),
        (("redis://127", "redis://:secret@127"), "url: expected no password in it"),
        (("redis://127", "http://127"), "Redis URL must specify one of the following schemes"),
    ],
)
def test_wrong_options_are_errors_of_the_configuration(here: Site, changes: tuple[str, str], reason: str) -> None:
    here.write(changes)
    done = forking.run("serve", "-c", str(here.file), environment=here.environment)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "secret" not in done.stderr


def test_the_stream_keeps_about_max_length(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from l4lb_redis import open_sink

    sink = open_sink({"url": f"redis://{here.server.address}", "max_length": 200})
    for _ in range(2):
        sink.write([{"session_id": str(number), "backend": None} for number in range(1000)])
    sink.close()
    assert 200 <= here.client.xlen(STREAM) < 400
    assert here.entries(1)[-1] == {"session_id": "999"}
