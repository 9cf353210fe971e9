"""`l4lb top` in a real terminal (tmux), on a real instance."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from l4lb import Client
from tests.support import forking
from tests.support.peers import Server, connect, echo, serving
from tests.support.programs import L4lb, free_port, l4lb
from tests.support.terminal import Terminal, terminal
from tests.support.waiting import wait_until

FILE = """
[listeners.web]
bind = "127.0.0.1:{port}"
pool = "web"
{limit}
[pools.web]
policy = "least_sessions"
backends = [{{ address = "{backend}", id = "first" }}, {{ address = "127.0.0.1:1", id = "second" }}]
health = {{ type = "{health}" }}
[admin]
{admin}
"""


class Stage:
    """A directory with a configuration and an admin socket."""

    def __init__(self, directory: Path, server: Server, health: str = "none", limit: str = "", admin: str = "") -> None:
        self.directory = directory
        self.port = free_port()
        self.admin = f"unix:{directory}/admin.sock"
        text = FILE.format(port=self.port, backend=server.address, health=health, limit=limit, admin=admin)
        (directory / "lb.toml").write_text(text)

    @contextlib.contextmanager
    def served(self) -> Iterator[L4lb]:
        with l4lb("serve", "-c", str(self.directory / "lb.toml"), "--admin", self.admin) as process:
            process.wait_for("admin listening")
            yield process

    def command(self, *options: str) -> list[str]:
        return [sys.executable, "-m", "l4lb", "top", "--admin", self.admin, "--interval", "0.2", *options]

    @contextlib.contextmanager
    def top(self, *options: str, width: int = 80, height: int = 24) -> Iterator[Terminal]:
        with terminal(self.command(*options), width, height) as screen:
            screen.wait_for("q Quit")
            yield screen

    def backend(self, name: str) -> tuple[int, str]:
        with Client(self.admin) as client:
            one = client.pools["web"][name].status
        return one["weight"], one["admin_state"]

    @contextlib.contextmanager
    def client(self) -> Iterator[socket.socket]:
        """A session that stays."""
        with connect(("127.0.0.1", self.port)) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            yield sock


@contextlib.contextmanager
def stage(directory: Path, **options: str) -> Iterator[Stage]:
    with serving(echo) as server:
        yield Stage(directory, server, **options)


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


def shows(screen: Terminal, line: str, *texts: str) -> bool:
    """Waits until the line that contains `line` has all the others too."""
    return wait_until(lambda: all(text in screen.line_with(line) for text in texts), 60)


# ---- what it shows ----


def test_it_shows_what_happens(tmp_path: Path) -> None:
    with stage(tmp_path) as set_up, set_up.served() as process, set_up.top() as screen:
        shown = screen.wait_for("web (least_sess", "first", "second", "q Quit", "backends: 2")
        assert f"process {process.process.pid}" in shown
        assert "DOWN/S" in next(line for line in shown.splitlines() if line.startswith("POOL"))
        assert max(map(len, shown.splitlines())) <= 80
        with traffic(set_up.port):
            assert shows(screen, "  first", "K")
            assert shows(screen, "new ", "█")
        with set_up.client():
            screen.wait_for("1 session, CPU ", " %, memory ")


def test_all_lists(tmp_path: Path) -> None:
    limit = "per_source = { sessions = 2 }"
    with stage(tmp_path, limit=limit) as set_up, set_up.served(), set_up.top() as screen, set_up.client():
        screen.press("2")
        screen.wait_for("sessions: 1", "web/first", "x End")
        screen.press("3")
        screen.wait_for("listeners: 1", f"127.0.0.1:{set_up.port}")
        screen.press("4")
        screen.wait_for("TIME", "admin listening")
        screen.press("5")
        assert shows(screen, "127.0.0.1 ", "web", " 1 "), screen.screen
        with contextlib.ExitStack() as stack:
            stack.enter_context(set_up.client())
            with contextlib.suppress(OSError, AssertionError):
                stack.enter_context(set_up.client())  # the third, which is one too many
            assert shows(screen, "127.0.0.1 ", " 2 ", " 1 "), screen.screen
        with Client(set_up.admin) as client:
            client.bans.add("192.0.2.0/24", reason="a test")
        screen.press("Tab")
        screen.wait_for("192.0.2.0/24", "a test")
        screen.press("x", "y")
        screen.wait_for("nobody is banned")
        screen.press("7")
        screen.wait_for("workers: ", "BUSY", "%")
        screen.press("Tab", "Enter")
        screen.wait_for("web (least_sess")


def test_why_a_backend_is_down(tmp_path: Path) -> None:
    with stage(tmp_path, health="tcp") as set_up, set_up.served(), set_up.top() as screen:
        assert shows(screen, "  second", "down")
        screen.press("Down", "Down")
        screen.wait_for("no new sessions: down for", "connect: connection refused")
        screen.press("Enter")
        screen.wait_for("backend web / second", "failed, connect: connection refused", "address      127.0.0.1:1")
        screen.resize(100, 50)
        screen.wait_for("checks, the newest first", "events, the newest first", "backend down reason=")
        screen.press("Escape")
        screen.wait_for("POOL, BACKEND")


def test_sorting_filtering_and_folding(tmp_path: Path) -> None:
    with stage(tmp_path) as set_up, set_up.served(), set_up.top() as screen:
        screen.wait_for("first", "second")
        screen.press(">")
        screen.wait_for("POOL, BACKEND▲", "sorted by pool, backend")
        screen.press("R")
        screen.wait_for("POOL, BACKEND▼")
        assert wait_until(lambda: screen.screen.index("second") < screen.screen.index("first"))
        screen.press("/")
        for one in "seco":
            screen.press(one)
        assert wait_until(lambda: "first" not in screen.screen and "second" in screen.screen), screen.screen
        screen.press("Enter")
        screen.wait_for("backends: 1 of 2", "filter: seco", "q Quit")
        screen.press("Escape")
        screen.wait_for("first", "second", "backends: 2")
        screen.press("Space")
        assert wait_until(lambda: "▸ web" in screen.screen and "first" not in screen.screen), screen.screen
        screen.press("f")
        screen.wait_for("▾ web", "first")
        screen.press("?")
        screen.wait_for("keys in the list of pools", "fold or unfold the pool")


# ---- what keys change ----


def test_keys_change_backends(tmp_path: Path) -> None:
    with stage(tmp_path) as set_up, set_up.served(), set_up.top() as screen:
        screen.wait_for("first", "second")
        screen.press("d")
        screen.wait_for("move to a backend first")
        screen.press("Down", "d")
        screen.wait_for("Drain first of pool web", "Usable backends of the pool: 2 now, 1 then.", "y do it")
        screen.press("n")
        screen.wait_for("nothing was done")
        assert set_up.backend("first") == (1, "ready")
        screen.press("d", "y")
        assert shows(screen, "  first", "drain")
        assert set_up.backend("first") == (1, "drain")
        screen.press("r")
        assert shows(screen, "  first", "ready")
        screen.press("Down", "m", "y")
        assert wait_until(lambda: set_up.backend("second") == (1, "maint"))
        screen.press("+", "+", "+", "-")
        assert wait_until(lambda: set_up.backend("second") == (3, "maint")), "each key counts"
        screen.press("w", "1", "2", "Enter")
        assert wait_until(lambda: set_up.backend("second") == (12, "maint"))
        screen.press("q")
        assert wait_until(lambda: screen.ended), screen.screen


def test_a_session_is_ended_and_a_listener_drained(tmp_path: Path) -> None:
    with stage(tmp_path) as set_up, set_up.served(), set_up.top() as screen, contextlib.ExitStack() as stack:
        sock = stack.enter_context(set_up.client())
        assert shows(screen, "  first", " 1 ")
        screen.press("Down", "s")
        screen.wait_for("filter: pool=web backend=first", "sessions: 1")
        screen.press("x")
        screen.wait_for("both sides get a reset")
        screen.press("y")
        screen.wait_for("was ended", "nothing matches the filter")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        screen.press("3", "d")
        screen.wait_for("Drain listener web: it stops accepting clients")
        screen.press("y")
        assert shows(screen, "web ", "drain"), screen.screen
        screen.press("r")
        assert shows(screen, "web ", str(set_up.port)), screen.screen


def test_an_error_of_a_change_is_shown(tmp_path: Path) -> None:
    with stage(tmp_path) as set_up, set_up.served(), set_up.top() as screen, set_up.client():
        screen.press("2")
        screen.wait_for("sessions: 1")
        screen.press("x")
        screen.wait_for("End session")
        with Client(set_up.admin) as client:
            client.kill_sessions(pool="web")
        screen.press("y")
        screen.wait_for('no session "')


@pytest.mark.parametrize("by_token", [True, False])
def test_who_only_reads_has_no_keys_that_change_anything(tmp_path: Path, by_token: bool) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a-long-secret-for-all ops\nanother-secret-to-look viewer read-only\n")
    (tmp_path / "token").write_text("another-secret-to-look")
    (tmp_path / "all").write_text("a-long-secret-for-all")
    with stage(tmp_path, admin=f'token_file = "{tokens}"') as set_up, set_up.served():
        options = (str(tmp_path / "token"),) if by_token else (str(tmp_path / "all"), "--read-only")
        with set_up.top("--token-file", *options) as screen:
            shown = screen.wait_for("first", "read-only")
            assert "d Drain" not in shown
            screen.press("Down", "d")
            screen.wait_for("read-only: nothing can be changed here")
            screen.press("y")
        with Client(set_up.admin, token="a-long-secret-for-all") as client:
            assert client.pools["web"]["first"].status["admin_state"] == "ready"
        with set_up.top("--token-file", str(tmp_path / "all")) as screen:
            assert "read-only" not in screen.wait_for("first", "d Drain")
            (tmp_path / "all").write_text("")
            screen.wait_for("not reachable since ")
            (tmp_path / "all").write_text("another-one-that-nobody-knows")
            screen.wait_for("refused since ", "the token is missing or wrong")
            (tmp_path / "all").write_text("a-long-secret-for-all")
            assert wait_until(lambda: "refused since" not in screen.screen), screen.screen


# ---- the terminal ----


def test_it_fits_terminals_of_every_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # as some shells and programs export them
    monkeypatch.setenv("LINES", "24")
    with stage(tmp_path) as set_up, set_up.served(), set_up.top(width=200, height=50) as screen:
        screen.wait_for("DOWN/S", "second", "TREND", "NOTE")
        screen.press("Down", "Down")
        for width, height in ((140, 40), (60, 12), (30, 8), (8, 3), (80, 24)):
            screen.resize(width, height)
            screen.wait_for("l4lb", *(("TREND",) if width >= 140 else ()))
            assert wait_until(lambda width=width: max(map(len, screen.screen.splitlines())) <= width)
            assert wait_until(lambda width=width: width < 12 or "q Quit" in screen.screen.splitlines()[-1])
        screen.wait_for("first", "second", "DOWN/S", "q Quit")
        screen.press("m", "y")
        assert wait_until(lambda: set_up.backend("second") == (1, "maint")), "the cursor stays where it was"


def test_colours_are_the_terminals_and_can_be_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The background stays the terminal's (ECMA-48, 8.3.117: 40 to 47 would set it)."""
    with stage(tmp_path, health="tcp") as set_up, set_up.served():
        for no_colour in ("", "1"):
            monkeypatch.setenv("NO_COLOR", no_colour)
            with set_up.top() as screen:
                assert shows(screen, "  second", "down")
                shown = screen.coloured
                assert ("\x1b[31m" in shown) is not bool(no_colour)
                assert not re.search(r"\x1b\[(4[0-7]|10[0-7])m", shown)


def test_a_terminal_without_utf8_gets_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "POSIX")
    monkeypatch.setenv("PYTHONUTF8", "0")
    with stage(tmp_path) as set_up, set_up.served(), set_up.top() as screen:
        assert screen.wait_for("- web (least_sess").isascii()


def test_an_unknown_terminal_is_like_most(tmp_path: Path) -> None:
    with stage(tmp_path) as set_up, set_up.served():
        command = ["env", "TERM=of-tomorrow", *set_up.command()]
        with terminal(command) as screen:
            screen.wait_for("web (least_sess", "q Quit")


def test_a_terminal_that_cannot_move_its_cursor(tmp_path: Path) -> None:
    with stage(tmp_path) as set_up:
        command = shlex.join(["env", "TERM=dumb", *set_up.command()])
        with terminal(["sh", "-c", f"{command}; cat"]) as screen:
            screen.wait_for('l4lb: the terminal "dumb" (TERM) cannot move its cursor')


@pytest.mark.parametrize("end", ["C-c", "q", "SIGTERM", "error"])
def test_the_terminal_is_given_back_as_it_was(tmp_path: Path, end: str) -> None:
    with stage(tmp_path) as set_up, set_up.served():
        top = set_up.command()
        if end == "error":
            fail = "import l4lb.cli.top.ui as ui; ui.Ui._fold_all = lambda self, key: 1 / 0"
            top = [sys.executable, "-c", f"{fail}; from l4lb.__main__ import main; main()", *top[3:]]
        started = shlex.join(["sh", "-c", f"echo $$ > pid; exec {shlex.join(top)}"])
        script = f"stty -a > before; {started}; echo ended with $?; stty -a > after; echo done; cat"
        with terminal(["sh", "-c", f"cd {tmp_path}; {script}"]) as screen:
            screen.wait_for("web (least_sess")
            if end == "SIGTERM":
                os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
            else:
                screen.press("f" if end == "error" else end)
            codes = {"C-c": 0, "q": 0, "SIGTERM": 143, "error": 1}
            shown = screen.wait_for(f"ended with {codes[end]}", "done")
            assert ("ZeroDivisionError" in shown) == (end == "error")
            assert "web (least_sess" not in shown
        assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()


def test_it_can_be_suspended(tmp_path: Path) -> None:
    with stage(tmp_path) as set_up, set_up.served():
        with terminal(["env", "PS1=prompt> ", "bash", "--norc", "-i"]) as screen:
            screen.wait_for("prompt>")
            screen.press(shlex.join(set_up.command()), "Enter")
            screen.wait_for("web (least_sess", "q Quit")
            screen.press("C-z")
            screen.wait_for("Stopped")
            screen.press("fg", "Enter")
            screen.wait_for("web (least_sess", "q Quit")
            screen.press("q")
            assert wait_until(lambda: "web (least_sess" not in screen.screen)


def test_it_needs_a_terminal() -> None:
    done = forking.run("top")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "l4lb: top needs a terminal; `l4lb status` prints the same once\n"


# ---- the instance ----


def test_it_survives_the_instance(tmp_path: Path) -> None:
    with stage(tmp_path) as set_up, set_up.top() as screen:
        screen.wait_for("not reachable since ", "retrying: no instance answers")
        with set_up.served() as process:
            screen.wait_for(f"process {process.process.pid}", "first")
            screen.press("4")
            screen.wait_for("admin listening")
            screen.press("1")
        screen.wait_for("not reachable since ", "first")
        screen.press("Down", "d", "y")
        assert wait_until(lambda: screen.screen.count("no instance") == 2), "the key's own error"
        with set_up.served() as process:
            assert wait_until(lambda: "not reachable" not in screen.screen)
            screen.wait_for(f"process {process.process.pid}", "first")
            assert set_up.backend("first") == (1, "ready"), "what failed is not tried again later"
            screen.press("4")
            screen.wait_for("admin listening")
            assert wait_until(lambda: screen.screen.count("info     admin listening") == 2), screen.screen


@pytest.mark.parametrize("lacks", ["pools", "usage"])
def test_an_instance_of_another_version(tmp_path: Path, lacks: str) -> None:
    """Whatever its answers lack, the program goes on: one of this version may take over."""
    with stage(tmp_path) as set_up:
        with set_up.served(), Client(set_up.admin) as client:
            answer = {**client.status(), "version": "9.9"}
        del answer[lacks]
        with answering(json.dumps(answer), f"{tmp_path}/admin.sock"), set_up.top() as screen:
            screen.wait_for("not understood since ", "KeyError", "q Quit")
        with answering("[]", f"{tmp_path}/admin.sock"), set_up.top() as screen:
            screen.wait_for("not understood since ", "q Quit")
            screen.press("q")
            assert wait_until(lambda: screen.ended)


@contextlib.contextmanager
def answering(text: str, path: str) -> Iterator[None]:
    """A server whose answer is always that."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    class Unix(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    Path(path).unlink(missing_ok=True)
    with Unix(path, lambda request, _, server: Answer(request, ("", 0), server)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
    Path(path).unlink()


def test_keys_work_while_the_instance_hangs(tmp_path: Path) -> None:
    with stage(tmp_path) as set_up, set_up.served() as process, set_up.top() as screen:
        screen.wait_for("first", "q Quit")
        process.hang()
        try:
            screen.wait_for("no answer for ", "waiting")
            screen.press("Down", "Enter")
            screen.wait_for("backend web / first")
            screen.press("3")
            screen.wait_for("listeners: 1")
            screen.press("?")
            screen.wait_for("keys in the list of listeners")
            screen.press("q", "q")
            assert wait_until(lambda: screen.ended), screen.screen
        finally:
            process.signal(signal.SIGCONT)


def test_a_thousand_backends_and_many_sessions(tmp_path: Path) -> None:
    with stage(tmp_path) as set_up, contextlib.ExitStack() as stack:
        file = tmp_path / "lb.toml"
        more = ", ".join(f'{{ address = "127.0.0.1:1", id = "b{number}", weight = 0 }}' for number in range(1000))
        file.write_text(file.read_text().replace("backends = [", f"backends = [{more}, "))
        stack.enter_context(set_up.served())
        for _ in range(300):
            stack.enter_context(set_up.client())
        screen = stack.enter_context(set_up.top())
        screen.wait_for("backends: 1002")
        screen.press("End")
        screen.wait_for("second")
        screen.press("/", "b", "9", "9", "7", "Enter")
        screen.wait_for("backends: 1 of 1002", "b997")
        screen.press("2")
        screen.wait_for("sessions: the first 200 of 300")
        screen.press("End")
        screen.wait_for("sessions: 300")
