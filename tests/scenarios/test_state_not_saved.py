"""A change that cannot be saved in the state file is refused, and nothing of it is there: on a disk that is really
full, in a directory that is gone, with RLIMIT_FSIZE."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb import Client
from l4lb.errors import AdminError
from tests.support import forking
from tests.support.peers import echo, serving
from tests.support.programs import L4lb, answers, free_port, l4lb, require
from tests.support.users import require_root
from tests.support.waiting import wait_until

FILE = """
[global]
state_file = "{state}"
[admin]
bind = "unix:{directory}/admin.sock"
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "web"
{more}
[pools.web]
backends = [{{ address = "{backend}", id = "first" }}]
health = {{ type = "none" }}
"""
MORE = '[listeners.more]\nbind = "127.0.0.1:{port}"\npool = "web"\n'


class Stage:
    def __init__(self, directory: Path, state: Path, backend: str) -> None:
        self.directory, self.state, self.backend = directory, state, backend
        self.port, self.more = free_port(), free_port()
        self.write()

    def write(self, more: str = "") -> None:
        text = FILE.format(directory=self.directory, state=self.state, backend=self.backend, port=self.port, more=more)
        (self.directory / "lb.toml").write_text(text)

    @contextlib.contextmanager
    def served(self, *within: str) -> Iterator[tuple[L4lb, Client]]:
        with l4lb("serve", "-c", str(self.directory / "lb.toml"), admin=True, within=within) as process:
            process.wait_for("admin listening")
            with Client(f"unix:{self.directory}/admin.sock") as client:
                yield process, client


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with serving(echo) as server:
        (tmp_path / "state").mkdir()
        yield Stage(tmp_path, tmp_path / "state" / "state.json", server.address)


def refuses(stage: Stage, client: Client) -> None:
    """Every verb that changes something, and nothing of it is there."""
    before = client.status()
    saved = stage.state.read_bytes() if stage.state.exists() else None
    pool = client.pools["web"]
    for change in (
        lambda: pool.add("127.0.0.1:9", weight=3),
        lambda: pool["first"].set(weight=7),
        lambda: pool["first"].drain(),
        lambda: pool.remove("first"),
        lambda: client.listeners["web"].drain(),
    ):
        with pytest.raises(AdminError) as caught:
            change()
        assert (caught.value.status, caught.value.code) == (507, "state_not_saved"), caught.value
        assert "not done: it cannot be saved" in str(caught.value)
    after = client.status()
    for key in ("snapshot_version", "state"):
        assert after[key] == before[key], key
    shown = [(one["id"], one["weight"], one["admin_state"]) for one in pool.status["backends"]]
    assert shown == [("first", 1, "ready")]
    assert client.listeners["web"].addresses == [f"127.0.0.1:{stage.port}"]
    assert answers(stage.port)
    assert (stage.state.read_bytes() if stage.state.exists() else None) == saved
    assert not stage.state.with_name("state.json.new").exists()


def works(stage: Stage, client: Client) -> None:
    client.pools["web"].add("127.0.0.1:9", weight=3)
    assert "127.0.0.1:9" in json.loads(stage.state.read_text())["pools"]["web"]


def test_a_full_disk(stage: Stage) -> None:
    """A file system of 64 KiB, in a mount namespace of the process's own, seen through its /proc/PID/root."""
    require_root()
    directory = stage.state.parent
    script = f'mount -t tmpfs -o size=64k l4lb-test "{directory}" && exec "$@"'
    unshare = (require("unshare"), "--mount", "--propagation", "private", "sh", "-c", script, "sh")
    with stage.served(*unshare) as (process, client):
        seen = Path(f"/proc/{process.process.pid}/root{directory}")
        stage.state = seen / "state.json"
        client.pools["web"]["first"].set(weight=2)
        client.pools["web"]["first"].set(weight=1)
        with (seen / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(b"x" * 4096)
        refuses(stage, client)
        assert process.log.count("state file failed") == 1, "logged once"
        (seen / "filler").unlink()
        works(stage, client)


def test_a_directory_that_is_gone(stage: Stage) -> None:
    with stage.served() as (process, client):
        shutil.rmtree(stage.state.parent)
        refuses(stage, client)
        stage.state.parent.mkdir()
        works(stage, client)
        shutil.rmtree(stage.state.parent)
        with pytest.raises(AdminError):
            client.pools["web"]["first"].set(weight=2)
        assert process.log.count("state file failed") == 2, "once more after it had worked"


def test_a_limit_of_the_size_of_files(stage: Stage) -> None:
    with stage.served() as (process, client):
        resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (64, 64))
        refuses(stage, client)


def test_a_file_that_cannot_be_replaced(stage: Stage) -> None:
    """rename(2) fails, after the new text was written: a directory has the name."""
    with stage.served() as (_, client):
        stage.state.mkdir()
        (stage.state / "x").touch()
        with pytest.raises(AdminError) as caught:
            client.pools["web"]["first"].set(weight=7)
        assert caught.value.code == "state_not_saved"
        assert [one["weight"] for one in client.pools["web"].status["backends"]] == [1]
        assert not stage.state.with_name("state.json.new").exists()


def test_a_reload_that_cannot_be_saved_opens_nothing(stage: Stage) -> None:
    with stage.served() as (process, client):
        client.pools["web"].add("127.0.0.1:9")
        client.pools["web"].add("127.0.0.1:8")
        shutil.rmtree(stage.state.parent)
        stage.write(MORE.format(port=stage.more))
        # One backend that was added is the file's now: the state file would have to say so.
        text = (stage.directory / "lb.toml").read_text()
        named = text.replace('id = "first" }', 'id = "first" }, { address = "127.0.0.1:9" }')
        (stage.directory / "lb.toml").write_text(named)
        with pytest.raises(AdminError) as caught:
            client.reload()
        assert (caught.value.status, caught.value.code) == (507, "state_not_saved")
        assert not answers(stage.more), "the new listener's socket is closed again"
        assert list(client.listeners) == ["web"]
        done = command(stage, "reload")
        assert done.returncode == 1
        assert done.stderr.startswith("l4lb: ")
        assert "cannot be saved" in done.stderr
        stage.state.parent.mkdir()
        client.reload()
        assert wait_until(lambda: answers(stage.more))
        assert "Traceback" not in process.log


def test_a_reload_with_nothing_to_save_needs_no_disk(stage: Stage) -> None:
    with stage.served() as (_, client):
        shutil.rmtree(stage.state.parent)
        stage.write(MORE.format(port=stage.more))
        client.reload()
        assert answers(stage.more)


def command(stage: Stage, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forking.run(*arguments, environment={"L4LB_ADMIN": f"unix:{stage.directory}/admin.sock"})


def test_a_fifo_in_its_place_holds_no_change(stage: Stage) -> None:
    """Nobody writes to it: whoever opens it to read, and waits, waits for ever."""
    with stage.served() as (_, client):
        os.mkfifo(stage.state)
        works(stage, client)
