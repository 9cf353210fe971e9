"""`l4lb top` in a real terminal (tmux), on a real instance."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4lb import Client
from tests.support.peers import Server, connect, echo, serving
from tests.support.programs import L4lb, free_port, l4lb
from tests.support.terminal import Terminal, terminal
from tests.support.waiting import wait_until

FILE = """
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "web"
[pools.web]
policy = "least_sessions"
backends = [{{ address = "{backend}", id = "first" }}, {{ address = "127.0.0.1:1", id = "second" }}]
health = {{ type = "none" }}
"""


class Stage:
    """A directory with a configuration and an admin socket."""

    def __init__(self, directory: Path, server: Server) -> None:
        self.directory = directory
        self.port = free_port()
        self.admin = f"unix:{directory}/admin.sock"
        (directory / "lb.toml").write_text(FILE.format(port=self.port, backend=server.address))

    @contextlib.contextmanager
    def served(self) -> Iterator[L4lb]:
        with l4lb("serve", "-c", str(self.directory / "lb.toml"), "--admin", self.admin) as process:
            process.wait_for("admin listening")
            yield process

    def top(self) -> contextlib.AbstractContextManager[Terminal]:
        command = [sys.executable, "-m", "l4lb", "top", "--admin", self.admin, "--interval", "0.2"]
        return terminal(self.directory, command)

    def backend(self, name: str) -> tuple[int, str]:
        with Client(self.admin) as client:
            one = client.pools["web"][name].status
        return one["weight"], one["admin_state"]


@contextlib.contextmanager
def stage(directory: Path) -> Iterator[Stage]:
    with serving(echo) as server:
        yield Stage(directory, server)


@contextlib.contextmanager
def traffic(port: int) -> Iterator[None]:
    """Sessions of 10 KB, one after the other."""
    enough = threading.Event()

    def work() -> None:
        while not enough.wait(0.02):
            with contextlib.suppress(OSError), connect(("127.0.0.1", port)) as sock:
                sock.sendall(b"x" * 10_000)
                left = 10_000
                while left > 0 and (data := sock.recv(65536)):
                    left -= len(data)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def test_it_shows_what_happens_and_keys_change_it(tmp_path: Path) -> None:
    with stage(tmp_path) as set_up, set_up.served() as process, set_up.top() as screen:
        shown = screen.wait_for("web (least_sessions)", "first", "second", "q Quit", f"127.0.0.1:{set_up.port}")
        assert f"process {process.process.pid}" in shown
        assert "down/s" in shown.splitlines()[[line[:14] for line in shown.splitlines()].index(" pool, backend")]
        assert max(map(len, shown.splitlines())) <= 80
        with traffic(set_up.port):
            assert wait_until(lambda: "K" in screen.line_with("  first") and "█" in screen.line_with(" new "), 30)
        with connect(("127.0.0.1", set_up.port)) as held:
            held.sendall(b"x")
            screen.wait_for("1 session, CPU ", " %, memory ")
            screen.press("Down")
            screen.press("d")
            assert wait_until(lambda: "drain" in screen.line_with("  first"), 30)
            assert set_up.backend("first") == (1, "drain")
        screen.press("r")
        assert wait_until(lambda: "ready" in screen.line_with("  first"), 30)
        screen.press("Down", "m")
        assert wait_until(lambda: set_up.backend("second") == (1, "maint"), 30)
        screen.press("+", "+", "+", "-")
        assert wait_until(lambda: set_up.backend("second") == (3, "maint"), 30), "each key counts"
        screen.press("Up", "Up", "d")
        screen.wait_for("move to a backend first")
        screen.press("q")
        assert wait_until(lambda: screen.ended, 30), screen.screen


def test_without_its_extra_it_says_how_to_get_it() -> None:
    """As for who installed l4lb alone; every other command and the list of all go on."""
    without = "import sys; sys.modules['textual'] = None; from l4lb.cli.main import main; main()"
    for arguments in (["top"], ["top", "--admin", "127.0.0.1:1", "--interval", "2"]):
        done = subprocess.run([sys.executable, "-c", without, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "l4lb: top needs textual: pip install 'l4lb[top]'\n"
    done = subprocess.run([sys.executable, "-c", without, "--help"], capture_output=True, text=True, check=True)
    assert "l4lb[top]" in done.stdout


def test_it_fits_terminals_of_every_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # as some shells and programs export them
    monkeypatch.setenv("LINES", "24")
    with stage(tmp_path) as set_up, set_up.served(), set_up.top() as screen:
        screen.wait_for("down/s", "second")
        screen.press("Down", "Down")
        for width, height in ((140, 40), (60, 12), (30, 8), (80, 24)):
            screen.resize(width, height)
            screen.wait_for("l4lb", *(("trend",) if width >= 104 else ()))
            assert wait_until(lambda width=width: max(map(len, screen.screen.splitlines())) <= width, 30)
        screen.wait_for("first", "second", "down/s", "q Quit")
        screen.press("m")
        assert wait_until(lambda: set_up.backend("second") == (1, "maint"), 30), "the cursor stays where it was"


def test_it_survives_the_instance(tmp_path: Path) -> None:
    with stage(tmp_path) as set_up, set_up.top() as screen:
        screen.wait_for("disconnected: no instance answers")
        with set_up.served() as process:
            screen.wait_for(f"process {process.process.pid}", "first")
        screen.wait_for("disconnected", "first")
        screen.press("Down", "d")
        assert wait_until(lambda: screen.screen.count("no instance") == 2, 30), "the key's own error"
        with set_up.served() as process:
            shown = screen.wait_for(f"process {process.process.pid}", "first")
            assert "disconnected" not in shown
            assert set_up.backend("first") == (1, "ready"), "what failed is not tried again later"


def test_it_needs_a_terminal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "l4lb", "top"]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "l4lb: top needs a terminal; `l4lb status` prints the same once\n"


def test_the_heaviest_sources_are_listed_where_they_are_limited(tmp_path: Path) -> None:
    with stage(tmp_path) as set_up:
        file = tmp_path / "lb.toml"
        file.write_text(file.read_text().replace('pool = "web"\n', 'pool = "web"\nper_source = { sessions = 2 }\n', 1))
        with set_up.served(), set_up.top() as screen, contextlib.ExitStack() as held:
            screen.wait_for("first", "q Quit")
            assert "source" not in screen.screen
            for _ in range(3):
                with contextlib.suppress(ConnectionResetError):
                    held.enter_context(connect(("127.0.0.1", set_up.port)))
            screen.wait_for("source", "over")
            assert wait_until(lambda: screen.line_with(" 127.0.0.1 ").split()[1:3] == ["web", "2"], 30), screen.screen
            screen.press("o")
            screen.wait_for("sources by rate")


def test_it_ends_by_ctrl_c_too(tmp_path: Path) -> None:
    with stage(tmp_path) as set_up, set_up.served(), set_up.top() as screen:
        screen.wait_for("first", "q Quit")
        screen.press("C-c")
        assert wait_until(lambda: screen.ended, 30), screen.screen
