"""Signals at every moment of `l4lb serve`, and what the commands do when they are interrupted, hung up or not listened
to any more: never a traceback, always the exit code that was promised."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import forking
from tests.support.peers import connect, echo, serving
from tests.support.programs import L4lb, l4lb, require, signal_to
from tests.support.waiting import wait_until

FILE = """
[global]
workers = 2
drain_timeout = "20s"
access_log = "{directory}/access.log"
[admin]
bind = "unix:{directory}/admin.sock"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = ["{backend}"]
"""
STOPPING = (signal.SIGTERM, signal.SIGINT)
OTHERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
COMMANDS = (
    ("status",), ("status", "web"), ("status", "--json"), ("session", "list"), ("session", "list", "--json"),
    ("backend", "list", "web"), ("backend", "list", "web", "--json"), ("schema",), ("--help",), ("serve", "--help"),
    ("completion", "bash"), ("explain", "web", "192.0.2.1"), ("--version",),
)  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    with serving(echo) as server:
        path = tmp_path / "lb.toml"
        path.write_text(FILE.format(directory=tmp_path, backend=server.address))
        yield path


@contextlib.contextmanager
def served(file: Path) -> Iterator[L4lb]:
    with l4lb("serve", "-c", str(file), admin=True) as process:
        process.wait_for("admin listening")
        yield process


def command(*arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "l4lb", *arguments], text=True, **options)  # type: ignore[call-overload,no-any-return]


def end_of_all(process: L4lb, file: Path) -> str:
    """Also of the processes that took over; what all of them logged."""
    for pid in map(int, re.findall(r"upgraded pid=(\d+)", process.log)):
        assert wait_until(lambda pid=pid: not signal_to(pid, signal.SIGTERM, str(file)), 30)
    return process.log


# ---- serve ----


def test_two_signals_close_together_end_it_at_once(file: Path) -> None:
    for gap_s in (0.0, 0.01, 0.05):
        with served(file) as process, connect(process.address("web")) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            process.signal(signal.SIGTERM)
            time.sleep(gap_s)  # the moment of the second signal is what is tried here
            process.signal(signal.SIGINT)
            assert process.wait(10) == 0
            assert "Traceback" not in process.log


def test_timeout_of_coreutils_ends_it_in_order(file: Path) -> None:
    """It signals the process and, being of its group, itself: two at once."""
    done = subprocess.run(
        [require("timeout"), "--preserve-status", "3", sys.executable, "-m", "l4lb", "serve", "-c", str(file)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_a_signal_while_it_starts_is_obeyed(file: Path) -> None:
    """From its first line on; before that, while Python itself starts, the signals are Python's."""
    for number in STOPPING:
        for delay_s in (0.0, 0.1, 0.3):
            with l4lb("serve", "-c", str(file), admin=True) as process:
                assert wait_until(lambda process=process: blocks_signals(process.process.pid), 20)
                time.sleep(delay_s)
                process.signal(number)
                assert process.wait(30) == 0, process.log
                assert "drained" in process.log
                assert "Traceback" not in process.log


def test_signals_at_random_moments(file: Path) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for _ in range(40 if os.environ.get("L4LB_SOAK") else 4):
        with l4lb("serve", "-c", str(file), admin=True) as process:
            if chance.random() < 0.5:
                process.wait_for("listening")
            else:
                assert wait_until(lambda process=process: blocks_signals(process.process.pid), 20)
            for _ in range(chance.randrange(12)):
                process.signal(chance.choice(OTHERS))
                time.sleep(chance.random() * 0.2)  # the moment is what is tried here
            process.signal(chance.choice(STOPPING))
            time.sleep(chance.random() * 0.1)
            with contextlib.suppress(ProcessLookupError):
                process.signal(chance.choice((*STOPPING, *OTHERS)))
            assert process.wait(30) == 0, (seed, process.log)
            assert "Traceback" not in end_of_all(process, file), (seed, process.log)


def blocks_signals(pid: int) -> bool:
    """As it does from its first line on; before it is there, in the child that becomes it, all are blocked."""
    blocked = re.search(r"^SigBlk:\s+([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert blocked is not None
    ours, other = (int(blocked[1], 16) >> (number - 1) & 1 for number in (signal.SIGTERM, signal.SIGCHLD))
    return bool(ours and not other)


BECOMING = """
import os, signal, threading, time
from l4lb.cli import serve
signal.pthread_sigmask(signal.SIG_BLOCK, serve.SIGNALS)
with serve._ending_at_second_signal() as told:
    until = time.monotonic() + 2
    while time.monotonic() < until and not told.is_set():
        os.setresuid(-1, -1, -1)  # of all threads: glibc interrupts each of them
    assert not told.is_set(), "told by nobody"
    for _ in range(1 if {once} else 2):
        os.kill(os.getpid(), signal.SIGTERM)
        assert told.wait(20)
        while signal.SIGTERM in signal.sigpending():
            time.sleep(0.001)
    time.sleep(0 if {once} else 20)
print("once")
"""


@pytest.mark.parametrize("once", [True, False])
def test_while_it_becomes_another_user_only_a_signal_is_one(once: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BECOMING.format(once=once)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "once\n" if once else "")


def test_many_reloads_at_once_are_few(file: Path) -> None:
    """Asked for while one is under way, it is done once more and not as often as it was asked for."""
    with served(file) as process:
        for _ in range(200):
            process.signal(signal.SIGHUP)
            time.sleep(0.001)
        process.wait_for("reloaded")
        assert process.threads() < 40
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert "Traceback" not in process.log


@pytest.mark.parametrize("delay_s", [0.0, 0.5, 1.0])
def test_the_demo_ends_by_one_signal_or_two(delay_s: float) -> None:
    for signals in (1, 2):
        with l4lb("demo") as process:
            assert wait_until(lambda process=process: blocks_signals(process.process.pid), 20)
            time.sleep(delay_s)
            for _ in range(signals):
                with contextlib.suppress(ProcessLookupError):
                    process.signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert "Traceback" not in process.log


# ---- commands ----


@contextlib.contextmanager
def hanging(directory: Path) -> Iterator[str]:
    """An instance that takes connections and never answers."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{directory}/hang.sock")
        sock.listen(16)
        yield f"unix:{directory}/hang.sock"


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("session", "list"), ("drain", "--wait"), ("reload",), ("upgrade",), ("backend", "list", "web"),
     ("explain", "web", "192.0.2.1"), ("backend", "drain", "web", "a", "--wait")],
)  # fmt: skip
def test_an_interrupted_command_says_so_in_a_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with hanging(tmp_path) as admin:
        process = command(*arguments, "--admin", admin, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        assert wait_until(lambda: asks(admin), 20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "l4lb: interrupted\n")


@pytest.mark.parametrize("delay_s", [0.0, 0.03, 0.1, 0.3])
def test_an_interrupt_while_a_command_starts(delay_s: float, tmp_path: Path) -> None:
    with hanging(tmp_path) as admin:
        process = command("status", "--admin", admin, stderr=subprocess.PIPE)
        caught: list[bool] = []
        assert wait_until(lambda: gives_interrupts_back(process.pid, caught) or asks(admin), 20)
        time.sleep(delay_s)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) in ((130, "l4lb: interrupted\n"), (-signal.SIGINT, ""))


INTERRUPTS_AN_IMPORT = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
from l4lb.cli import main
sys.path.insert(0, sys.argv[1])
with main._leaving():
    import interrupted
print("went on")
"""


@pytest.mark.parametrize("raises_in", ["the module", "a callback whose errors Python ignores"])
def test_an_interrupt_while_a_command_imports(raises_in: str, tmp_path: Path) -> None:
    """It is not lost, wherever in the import it comes."""
    lines = ["import os, signal, weakref", "class A: pass", "def kill(_=None): os.kill(os.getpid(), signal.SIGINT)"]
    lines += ["kill()"] if raises_in == "the module" else ["a = A()", "ref = weakref.ref(a, kill)", "del a"]
    (tmp_path / "interrupted.py").write_text("\n".join(lines))
    with forking.python(INTERRUPTS_AN_IMPORT, str(tmp_path)) as process:
        assert process.wait(20) == -signal.SIGINT


def gives_interrupts_back(pid: int, before: list[bool]) -> bool:
    """Python catches SIGINT while it starts; our first line gives it back. `before` keeps what was seen."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
    before.append(bool(caught >> (signal.SIGINT - 1) & 1))
    return any(before) and not before[-1]


def asks(admin: str) -> bool:
    """Whether somebody has connected: a second line of the table of sockets has the path."""
    return Path("/proc/net/unix").read_text().count(admin.removeprefix("unix:")) > 1


def test_a_reader_that_leaves_ends_a_command_quietly(file: Path) -> None:
    with served(file):
        for arguments in COMMANDS:
            process = command(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(file))
            assert process.stdout is not None
            process.stdout.close()
            assert process.stderr is not None
            assert (process.stderr.read(), process.wait(20)) == ("", 141), arguments
            process.stderr.close()


def environment(file: Path) -> dict[str, str]:
    return {**os.environ, "L4LB_ADMIN": f"unix:{file.parent}/admin.sock"}


def by_shell(file: Path, line: str) -> tuple[int, str, str]:
    done = subprocess.run(
        ["sh", "-c", line], env={**environment(file), "L4LB": f"{sys.executable} -m l4lb"}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_output_that_cannot_be_written(file: Path) -> None:
    with served(file):
        assert by_shell(file, "$L4LB status >/dev/full") == (1, "", "l4lb: No space left on device\n")
        assert by_shell(file, "$L4LB status none 2>/dev/full")[0] in (1, 141)
        assert by_shell(file, "$L4LB status >/dev/full 2>/dev/full")[0] in (1, 141)


def test_closed_standard_files(file: Path) -> None:
    with served(file):
        for closed in ("<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
            code, _, err = by_shell(file, f"$L4LB status {closed}")
            assert (code, err) == (0, "")
            assert by_shell(file, f"$L4LB status none {closed}")[0] == 1
            assert by_shell(file, f"$L4LB check {file} {closed}")[0] == 0


def test_serving_with_closed_standard_files(file: Path) -> None:
    """What it opens must not get their numbers: a line of the log would go to a client."""
    environment_ = environment(file)
    process = subprocess.Popen(
        ["sh", "-c", f'exec "{sys.executable}" -m l4lb serve -c "{file}" <&- >&- 2>&-'], env=environment_
    )
    try:
        assert wait_until(lambda: by_shell(file, "$L4LB status")[0] == 0, 30)
        names = [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in range(3)]
        assert names == ["/dev/null"] * 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("end", ["hang-up", "SIGTERM", "SIGINT"])
@pytest.mark.parametrize("answers", [True, False])
def test_top_ends_with_its_terminal(end: str, answers: bool, file: Path) -> None:
    with contextlib.ExitStack() as stack:
        admin = f"unix:{file.parent}/admin.sock"
        if answers:
            stack.enter_context(served(file))
        else:
            admin = stack.enter_context(hanging(file.parent))
        pid, terminal = pty.fork()
        if pid == 0:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it, as nohup(1) does
            os.execve(
                sys.executable, [sys.executable, "-m", "l4lb", "top", "--admin", admin],
                {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
            )  # fmt: skip
        try:
            shown = bytearray()
            assert wait_until(lambda: shown.extend(shown_on(terminal)) or b"Quit" in shown, 30), shown
            if end == "hang-up":
                os.close(terminal)
                terminal = -1
            else:
                os.kill(pid, signal.Signals[end])
            code: list[int] = []

            def ended() -> bool:
                if terminal >= 0:
                    shown_on(terminal)
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    code.append(os.waitstatus_to_exitcode(status))
                return bool(done)

            assert wait_until(ended, 8), "it does not wait for an instance that does not answer"
            assert code[0] == 128 + (signal.SIGHUP if end == "hang-up" else signal.Signals[end])
        finally:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                if not code:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
            if terminal >= 0:
                os.close(terminal)


def shown_on(terminal: int) -> bytes:
    """What has come to the terminal since; all of it is read, so that nobody waits to write there."""
    os.set_blocking(terminal, False)
    try:
        return os.read(terminal, 1 << 20)
    except OSError:  # EAGAIN: nothing; EIO: the other end is closed
        return b""
